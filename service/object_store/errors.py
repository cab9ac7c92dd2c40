"""What a store can answer instead of what was asked for.

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

SCARCE_STATUSES: Final = frozenset({408, 409, 425, 429, 499})
TRANSIENT_CODES: Final = frozenset({"RequestTimeout", "IncompleteBody", "SlowDown", "InternalError", "OperationAborted", "NoSuchBucket"})
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


def error_for_answer(request: str, status: int, *, code: str | None, reads_object: bool = False, copies_object: bool = False) -> StoreError:
    """The error that an answer of the store means. `request` is its method and path, the others say what it wanted of an object."""
    kind = _kind_of_answer(status, code=code, reads_object=reads_object, copies_object=copies_object)
    return kind(f"{request}: {status} {code or 'without a code'}", status=status, code=code)


def _kind_of_answer(status: int, *, code: str | None, reads_object: bool, copies_object: bool) -> type[StoreError]:
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
