"""The errors of the store, and the one mapping from its answers to them.

    StoreError
    ├── ObjectMissing      no object (any more) under that key
    ├── ObjectChanged      the object is not the one whose ETag was given
    ├── ObjectUnreadable   the store says for good that these bytes cannot be had
    ├── UploadMissing      no such multipart upload: completed, aborted or dropped by the store
    ├── RequestRefused     the same request will be refused again: its digest, its part, or the store lacks the operation
    ├── StoreUnavailable   no connection, time-out, 5xx, wrong identity, an answer cut short or malformed: try again later
    └── SentTooLate        the moment for sending had passed: nothing was sent, for certain

None of them says by itself whether one object or the whole store is concerned: a damaged object gets
503 for ever, and a right that was withdrawn gets 403 for every object. A probe tells (service/worker/store_health.py).

Texts name the method, the bucket, the beginning of the key, and the store's own error code; never a query, an identity or a signature.
"""

from typing import Final

import msgspec

from service.object_store.messages import SUCCESSES, Answer, Request
from service.object_store.xml_documents import is_error, read_error_code

SCARCE_STATUSES: Final = frozenset({408, 409, 425, 429, 499})
TRANSIENT_CODES: Final = frozenset(
    {
        "RequestTimeout",
        "IncompleteBody",
        "SlowDown",
        "InternalError",
        "OperationAborted",
        "NoSuchBucket",
    }
)
"""NoSuchBucket is no missing object: somebody took the bucket away, or bootstrap has not run yet."""
UNREADABLE_CODES: Final = frozenset(
    {
        "InvalidObjectState",  # archived
        "InvalidEncryptionAlgorithmError",
        "InvalidEncryptionMethod",
        "XMinioObjectTampered",
    }
)
"""Of a copy's source as well."""
NEEDS_CLIENTS_KEY: Final = "InvalidRequest"
"""To a GET or HEAD: encrypted with a key that only the client has (SSE-C). To a copy it says the same of many other things."""


class StoreError(Exception):
    """`status` is HTTP's and `code` the store's, None where there was no answer."""

    def __init__(self, text: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.code = code


class ObjectMissing(StoreError):
    pass


class ObjectChanged(StoreError):
    pass


class ObjectUnreadable(StoreError):
    pass


class UploadMissing(StoreError):
    pass


class RequestRefused(StoreError):
    pass


class StoreUnavailable(StoreError):
    pass


class SentTooLate(StoreError):
    pass


class JsonError(msgspec.Struct, rename="pascal"):
    """The body of a refusal by MinIO's administration."""

    code: str


def check_answer(request: Request, answer: Answer) -> Answer:
    """Return the answer if it is a success. Raises StoreError.

    A copy or a completion may begin with 200 and end with an error in its body (S3's CopyObject).
    """
    failed_late = answer.status in SUCCESSES and is_error(answer.body)
    if answer.status in SUCCESSES and not failed_late:
        return answer
    code = read_code(answer) or ("UnnamedError" if failed_late else None)
    raise error_for_answer(
        request.name,
        answer.status,
        code=code,
        reads_object=request.reads_object,
        copies_object=request.copies_object,
    )


def read_code(answer: Answer) -> str | None:
    """Return the store's code for what went wrong, or None if it gave none.

    The code is in an XML document, in the JSON of MinIO's administration, or in MinIO's header: an
    answer to HEAD has no body.
    """
    try:
        return (
            read_json_code(answer.body)
            if answer.body.startswith(b"{")
            else read_error_code(answer.body)
        )
    except ValueError:
        return answer.headers.get("x-minio-error-code")


def read_json_code(body: bytes) -> str:
    """Return the code in a JSON refusal of MinIO's administration. Raises ValueError if there is none."""
    return msgspec.json.decode(body, type=JsonError).code


def unavailable(request: str, error: BaseException) -> StoreUnavailable:
    """Return the error for a failed transport, named by its kind alone: its text may hold a URL with its query."""
    return StoreUnavailable(f"{request}: {type(error).__name__}")


def invalid_answer(request: str, error: BaseException) -> StoreUnavailable:
    """Return the error for a success whose content is none of S3, a proxy's page for example."""
    return StoreUnavailable(f"{request}: an answer that cannot be read, {type(error).__name__}")


def error_for_answer(
    request: str,
    status: int,
    *,
    code: str | None,
    reads_object: bool = False,
    copies_object: bool = False,
) -> StoreError:
    """Return the error that an answer means. `request` names it, and the others say what it wanted of an object."""
    kind = _kind_of_answer(
        status, code=code, reads_object=reads_object, copies_object=copies_object
    )
    return kind(f"{request}: {status} {code or 'without a code'}", status=status, code=code)


def _kind_of_answer(
    status: int, *, code: str | None, reads_object: bool, copies_object: bool
) -> type[StoreError]:
    if code in TRANSIENT_CODES or status in SCARCE_STATUSES:
        return StoreUnavailable
    if code == "NoSuchUpload":
        return UploadMissing
    if status == 412 or code == "PreconditionFailed":
        return ObjectChanged
    if (reads_object or copies_object) and code in UNREADABLE_CODES:
        return ObjectUnreadable
    if reads_object and code == NEEDS_CLIENTS_KEY:
        return ObjectUnreadable
    if code == "NoSuchKey" or (status == 404 and code is None):
        return ObjectMissing
    if status in (401, 403):
        return StoreUnavailable
    if 400 <= status < 500 or status == 501:
        return RequestRefused
    return StoreUnavailable
