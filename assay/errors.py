"""What can go wrong, one class each.

AssayError
├── Refused                    the API said no: `problem` has its problem document
│   ├── InvalidRequest         a field is not what it should be
│   ├── Unauthorized           no key, or one that is unknown, expired or revoked
│   ├── Forbidden              the key may not do this
│   ├── NotFound               no such file for this key
│   ├── TooLarge               larger than one file, or one PUT, may be
│   ├── Gone                   deleted, or its upload never came
│   ├── LinkEnded              the link's time is over, or its key was revoked
│   ├── Conflict               the file's state does not allow it
│   │   ├── NotReady           not proved yet
│   │   ├── Damaged            gone or altered at the store
│   │   ├── NotUploaded        the store has no bytes of it
│   │   ├── AlreadyUploaded    it needs no bytes any more
│   │   ├── IncompleteParts    `missing` and `wrong_size` have the numbers
│   │   ├── UploadLost         the store forgot the parts: send the file anew
│   │   └── DigestConflict     another digest is known
│   └── Unexpected             any other refusal
├── Rejected                   what arrived is not what was declared; `file` has the reason
├── DigestMismatch             the bytes have another SHA-256 than they should
├── FileChanged                a download's file was replaced or taken away meanwhile
├── SourceChanged              the file on disk is not the one whose upload began
├── SourceUnreadable           what is to be sent can't be read
├── TargetFailed               what is received can't be written: the disk is full, no right to write
├── InProgress                 another process has this upload or download under way
├── NotFinal                   the wait is over and the file still unproved; `file` has its state
├── StoreRefused               the object store said no to a URL of ours
└── ServerUnavailable          no answer, or 503, for as long as was waited
    └── NotAssay               an answer, but none of Assay's: is the URL right?
"""

from pathlib import Path
from typing import Any

import msgspec

from assay.files import File

URN = "urn:assay:problem:"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document (RFC 9457). `document` is the whole of it, with members that only some types have."""

    type: str
    title: str
    status: int
    detail: str = ""
    errors: list[dict[str, str]] = []
    document: dict[str, Any] = {}


class AssayError(Exception):
    """The parent of all. `problem` is the API's problem document, where one was sent."""

    problem: Problem | None = None


class Refused(AssayError):
    """The API said no."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem

    @property
    def status(self) -> int | None:
        return self.problem.status if self.problem else None


class InvalidRequest(Refused):
    """A field is not what it should be; the message says which, and what would be right."""


class Unauthorized(Refused):
    """No key, or one that is unknown, expired or revoked."""


class Forbidden(Refused):
    """The key is valid and may not do this."""


class NotFound(Refused):
    """No such file for this key."""


class TooLarge(Refused):
    """Larger than a file may be there."""


class Gone(Refused):
    """The file was deleted, or its upload never came and its time is over."""


class LinkEnded(Refused):
    """The link's time is over, or the key that made it was revoked."""


class Conflict(Refused):
    """The file's state does not allow this."""


class NotReady(Conflict):
    """The file is not proved yet."""


class Damaged(Conflict):
    """The proved object is gone or altered at the store."""


class NotUploaded(Conflict):
    """The store has no bytes of this file."""


class AlreadyUploaded(Conflict):
    """The file needs no bytes any more."""


class IncompleteParts(Conflict):
    """Parts are not at the store, or have another size there than they should."""

    @property
    def missing(self) -> list[int]:
        return self._numbers("missing")

    @property
    def wrong_size(self) -> list[int]:
        return self._numbers("wrong_size")

    def _numbers(self, member: str) -> list[int]:
        return list(self.problem.document.get(member, [])) if self.problem else []


class UploadLost(Conflict):
    """The store forgot the parts that it had: the file must be sent anew."""


class DigestConflict(Conflict):
    """Another digest is known for this file."""


class Unexpected(Refused):
    """A refusal that this version of the client does not know."""


class Rejected(AssayError):
    """What arrived is not what was declared: `file.rejection` says why."""

    def __init__(self, file: File, problem: Problem | None = None) -> None:
        why = (
            f"{file.rejection.reason}: {file.rejection.detail}"
            if file.rejection
            else "no reason was given"
        )
        super().__init__(f"{file.filename} was rejected ({why})")
        self.file = file
        self.problem = problem


class DigestMismatch(AssayError):
    """The bytes have another SHA-256 than they should."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class FileChanged(AssayError):
    """A download's file was replaced or taken away while it was read."""


class SourceChanged(AssayError):
    """The file on disk is not the one whose upload began. `state` is the upload's state file, if it has one."""

    def __init__(self, message: str, state: Path | None = None) -> None:
        super().__init__(message)
        self.state = state


class SourceUnreadable(AssayError):
    """What is to be sent can't be read; the OSError is the cause."""


class TargetFailed(AssayError):
    """What is received can't be written; the OSError is the cause."""


class InProgress(AssayError):
    """Another process has this upload or download under way."""


class NotFinal(AssayError):
    """The wait is over and the file is still unproved. Nothing is lost: wait again."""

    def __init__(self, file: File) -> None:
        super().__init__(f"{file.filename} is still {file.state}")
        self.file = file


class StoreRefused(AssayError):
    """The object store said no to a URL of ours. `code` is the store's own word for it."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ServerUnavailable(AssayError):
    """No answer, or 503, for as long as was waited: try again later, what was sent is kept."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class NotAssay(ServerUnavailable):
    """Something answers there, but not Assay: is the URL right?"""


BY_TYPE: dict[str, type[Refused]] = {
    "link-ended": LinkEnded,
    "invalid-link": Forbidden,
    "not-ready": NotReady,
    "file-damaged": Damaged,
    "not-uploaded": NotUploaded,
    "already-uploaded": AlreadyUploaded,
    "incomplete-parts": IncompleteParts,
    "upload-lost": UploadLost,
    "digest-conflict": DigestConflict,
}
BY_STATUS: dict[int, type[Refused]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    415: InvalidRequest,
    422: InvalidRequest,
}


def describe_refusal(problem: Problem) -> AssayError:
    """The error that this problem document stands for."""
    message = problem.detail or problem.title
    kind = problem.type.removeprefix(URN)
    if kind == "digest-mismatch":
        return DigestMismatch(message, problem)
    known = BY_TYPE.get(kind) or BY_STATUS.get(problem.status) or Unexpected
    return known(message, problem)
