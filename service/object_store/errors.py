"""The errors of the store, and the only mapping from its responses to them.

    StoreError
    ├── ObjectMissing      there is no object under that key, or no longer
    ├── ObjectChanged      the object's ETag is not the one that was given
    ├── ObjectUnreadable   the store reports that these bytes can never be read
    ├── UploadMissing      there is no such multipart upload: it was completed, aborted or removed
    ├── RequestRefused     the store would refuse the same request again: it rejects the digest or
    │                      the part, or does not implement the operation
    ├── StoreUnavailable   no connection, a time-out, a 5xx, a wrong identity, or a response that is
    │                      malformed or truncated: the request may be repeated later
    └── SentTooLate        the time limit for sending had passed: nothing was sent

An error alone does not show whether one object or the whole store is affected. A damaged object
gets 503 at every attempt, and after a right was withdrawn, every object gets 403. A probe tells
these cases apart (service/worker/store_health.py).

The texts name the method, the bucket, the beginning of the key, and the store's own error code.
They never contain a query, an identity or a signature.
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
"""NoSuchBucket does not mean a missing object: the bucket was removed, or bootstrap has not run
yet.
"""
UNREADABLE_CODES: Final = frozenset(
    {
        "InvalidObjectState",  # archived
        "InvalidEncryptionAlgorithmError",
        "InvalidEncryptionMethod",
        "XMinioObjectTampered",
    }
)
"""Codes for an object that can never be read. They also apply to the source of a copy."""
NEEDS_CLIENTS_KEY: Final = "InvalidRequest"
"""The code for an object that is encrypted with a key that only the client has (SSE-C).

It has this meaning in a response to GET or HEAD. In a response to a copy it has many other
meanings.
"""


class StoreError(Exception):
    """An error of the store.

    `status` is the HTTP status and `code` the store's own code. Both are None if there was no
    response.
    """

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
    """The body of an error response from MinIO's administration API."""

    code: str


# Made before any thread starts: msgspec 0.22 crashes if two threads prepare one type at once.
JSON_ERROR: Final = msgspec.json.Decoder(JsonError)


def check_answer(request: Request, answer: Answer) -> Answer:
    """Return the response if it is a success. Raises StoreError otherwise.

    A response to a copy or a completion may begin with 200 and end with an error in its body (S3's
    CopyObject). The bytes of an object may be any, and are not examined.
    """
    succeeded = answer.status in SUCCESSES
    failed_late = succeeded and not request.returns_object and is_error(answer.body)
    if succeeded and not failed_late:
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
    """Return the store's error code, or None if the response has none.

    The code is in an XML document, in the JSON of MinIO's administration API, or, because a
    response to HEAD has no body, in a header of MinIO.
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
    """Return the code of a JSON error from MinIO's administration API.

    Raises ValueError if there is none.
    """
    return JSON_ERROR.decode(body).code


def unavailable(request: str, error: BaseException) -> StoreUnavailable:
    """Return the error for a failed transport.

    It names only the kind of the failure, because the text of `error` may contain a URL with its
    query.
    """
    return StoreUnavailable(f"{request}: {type(error).__name__}")


def invalid_answer(request: str, error: BaseException) -> StoreUnavailable:
    """Return the error for a success whose content is not that of S3, such as a proxy's page."""
    return StoreUnavailable(f"{request}: the response cannot be parsed ({type(error).__name__})")


def error_for_answer(
    request: str,
    status: int,
    *,
    code: str | None,
    reads_object: bool = False,
    copies_object: bool = False,
) -> StoreError:
    """Return the error that a response stands for.

    `request` is its name for the text. The flags say whether it reads or copies an object.
    """
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
