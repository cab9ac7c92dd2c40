"""The errors that the responses of a store mean: final, temporary, or caused by the request."""

import pytest

from service.object_store import (
    ObjectChanged,
    ObjectMissing,
    ObjectUnreadable,
    RequestRefused,
    StoreError,
    StoreUnavailable,
    UploadMissing,
)
from service.object_store.errors import error_for_answer
from service.object_store.xml_documents import is_error


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (404, "NoSuchKey", ObjectMissing),
        (404, None, ObjectMissing),
        (404, "NoSuchBucket", StoreUnavailable),
        (404, "NoSuchUpload", UploadMissing),
        (412, None, ObjectChanged),
        (200, "PreconditionFailed", ObjectChanged),
        (400, "InvalidRequest", ObjectUnreadable),
        (403, "InvalidObjectState", ObjectUnreadable),
        (400, None, RequestRefused),
        (416, "InvalidRange", RequestRefused),
        (501, "NotImplemented", RequestRefused),
        (401, None, StoreUnavailable),
        (403, "AccessDenied", StoreUnavailable),
        (403, "SignatureDoesNotMatch", StoreUnavailable),
        (403, "RequestTimeTooSkewed", StoreUnavailable),
        (400, "RequestTimeout", StoreUnavailable),
        (409, "OperationAborted", StoreUnavailable),
        (429, None, StoreUnavailable),
        (500, "InternalError", StoreUnavailable),
        (503, "SlowDown", StoreUnavailable),
        (200, "InternalError", StoreUnavailable),
        (200, "UnnamedError", StoreUnavailable),
        (307, None, StoreUnavailable),
    ],
)
def test_the_error_of_a_refused_read_follows_from_its_response(
    status: int, code: str | None, meaning: type[StoreError]
) -> None:
    error = error_for_answer("GET /vault/k", status, code=code, reads_object=True)
    assert type(error) is meaning
    assert (error.status, error.code) == (status, code)


@pytest.mark.parametrize("code", ["InvalidRequest", "InvalidEncryptionAlgorithmError"])
def test_a_refused_write_does_not_concern_the_object(code: str) -> None:
    assert (
        type(error_for_answer("PUT /vault/k", 400, code=code, reads_object=False)) is RequestRefused
    )


def test_a_refused_copy_may_concern_the_vault() -> None:
    assert (
        type(error_for_answer("PUT /vault/k", 400, code="InvalidRequest", copies_object=True))
        is RequestRefused
    )
    assert (
        type(error_for_answer("PUT /vault/k", 403, code="InvalidObjectState", copies_object=True))
        is ObjectUnreadable
    )


@pytest.mark.parametrize(
    "body",
    [
        b"<Error><Code>x</Code></Error>",
        b'<?xml version="1.0"?>\n<Error/>',
        b" \n <?xml version='1.0'?><Error></Error>",
    ],
)
def test_an_error_document_is_recognized_by_its_root(body: bytes) -> None:
    assert is_error(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<DeleteResult><Error><Code>x</Code></Error></DeleteResult>",
        b"bytes",
        b"<?xml version='1.0'?><CopyObjectResult/>",
    ],
)
def test_another_document_is_not_an_error(body: bytes) -> None:
    assert not is_error(body)
