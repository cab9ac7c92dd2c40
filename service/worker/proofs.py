"""What a verification proves or finds: the proof, a difference from the declaration, a failure."""

from typing import Final

import msgspec

from service.http.parameters import normalize_media_type
from service.model import Claim, Rejection, RejectionReason, Sha256, UnprovedFile
from service.object_store import (
    ObjectChanged,
    ObjectMissing,
    SentTooLate,
    StoredObject,
    StoreError,
)

EXCULPATED: Final = (SentTooLate, ObjectChanged, ObjectMissing)
"""Failures that show no fault of the store or the object.

The object was replaced or removed, or nothing was sent.
"""


class Proof(msgspec.Struct, frozen=True):
    """The size, digest and ETag of the object in the vault."""

    size: int
    sha256: Sha256
    etag: str


class NotVerified(Exception):
    """The end of a claim without a verdict, because of the store or the object.

    If `written` is True, a request may write under the vault key, so the reservation must be
    doomed. If `source_failed` is True, a read of the incoming object itself failed.
    """

    def __init__(self, cause: StoreError, *, written: bool, source_failed: bool = False) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.written = written
        self.source_failed = source_failed


def compare(file: Claim | UnprovedFile, seen: StoredObject) -> Rejection | None:
    """Return the reason to reject the object without reading it, or None if there is none.

    A content type that was not declared is not compared. A client that is redirected to the store
    sends its Content-Type there as it is, so white space without a meaning makes no difference.
    """
    if seen.size != file.size:
        return Rejection(
            RejectionReason.SIZE_MISMATCH, f"declared {file.size} bytes, received {seen.size}"
        )
    if file.content_type is not None and not is_same_type(seen.content_type, file.content_type):
        return Rejection(
            RejectionReason.CONTENT_TYPE_MISMATCH,
            f"declared {file.content_type}, received {seen.content_type[:200]}",
        )
    return None


def is_same_type(seen: str, declared: str) -> bool:
    try:
        return seen == declared or normalize_media_type(seen) == declared
    except ValueError:
        return False


def unverifiable(error: StoreError) -> Rejection:
    return Rejection(
        RejectionReason.UNVERIFIABLE,
        f"the store cannot read the object ({error.code or error.status})",
    )
