"""The errors of the client, one class each.

AssayError
├── Refused                    the API refused the request; `problem` is its problem document
│   ├── InvalidRequest         a field is not valid
│   │   └── KeyReused          the idempotency key belongs to another declaration
│   ├── Unauthorized           no key, or one that is unknown, expired or revoked
│   ├── Forbidden              the key does not permit this
│   ├── NotFound               the key's owner has no such file
│   ├── TooLarge               larger than a file, or a single PUT, may be
│   ├── Gone                   deleted, or not uploaded in time
│   ├── LinkEnded              the link has expired, or its key was revoked
│   ├── Conflict               the file's state does not permit this
│   │   ├── NotReady           not proved yet
│   │   ├── NotUploaded        the store has no object for the file
│   │   ├── AlreadyUploaded    the file no longer needs any bytes
│   │   ├── IncompleteParts    `missing` and `wrong_size` hold the part numbers
│   │   ├── UploadLost         the store has dropped the parts: upload the file again
│   │   └── DigestConflict     another digest is already known
│   ├── Damaged                the proved object is missing or altered at the store
│   └── Unexpected             any other refusal
├── Rejected                   the bytes do not match the declaration; `file` has the reason
├── DigestMismatch             the SHA-256 of the bytes is not the expected one
├── FileChanged                the file was replaced or deleted during a download
├── SourceChanged              the local file changed after its upload began
├── SourceUnreadable           the source cannot be read
├── TargetFailed               the target cannot be written (disk full, no permission)
├── InProgress                 another process is running this upload or download
├── NotFinal                   the wait has timed out; `file` has the state
├── StoreRefused               the object store refused a presigned URL
└── ServerUnavailable          no response, or 503, until the retries were used up
    └── NotAssay               the response does not come from Assay: the URL may be wrong
"""

from pathlib import Path
from typing import Any

import msgspec

from assay.files import File

URN = "urn:assay:problem:"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document (RFC 9457).

    `document` is the complete JSON object, with the members that only some types have.
    """

    type: str
    title: str
    status: int
    detail: str = ""
    errors: list[dict[str, str]] = []
    document: dict[str, Any] = {}


class AssayError(Exception):
    """The base class of all errors. `problem` is the API's problem document, if it sent one."""

    problem: Problem | None = None


class Refused(AssayError):
    """A refusal by the API."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem

    @property
    def status(self) -> int | None:
        return self.problem.status if self.problem else None


class InvalidRequest(Refused):
    """A field that is not valid. The message names the field and what is expected."""


class KeyReused(InvalidRequest):
    """An idempotency key that was used with another declaration before."""


class Unauthorized(Refused):
    """A request without a key, or with one that is unknown, expired or revoked."""


class Forbidden(Refused):
    """A request that its key, though valid, does not permit."""


class NotFound(Refused):
    """A file that does not exist or belongs to another owner."""


class TooLarge(Refused):
    """A file that is larger than the server accepts."""


class Gone(Refused):
    """A file that was deleted, or that expired because it was not uploaded in time."""


class LinkEnded(Refused):
    """A link that has expired, or whose key was revoked."""


class Conflict(Refused):
    """A request that the file's state does not permit."""


class NotReady(Conflict):
    """A file that is not proved yet."""


class NotUploaded(Conflict):
    """A file for which the store has no object."""


class AlreadyUploaded(Conflict):
    """A file that no longer needs any bytes."""


class IncompleteParts(Conflict):
    """A multipart upload with parts that are missing at the store or have the wrong size."""

    @property
    def missing(self) -> list[int]:
        return self._numbers("missing")

    @property
    def wrong_size(self) -> list[int]:
        return self._numbers("wrong_size")

    def _numbers(self, member: str) -> list[int]:
        return list(self.problem.document.get(member, [])) if self.problem else []


class UploadLost(Conflict):
    """An upload whose parts the store has dropped. The file must be uploaded again."""


class DigestConflict(Conflict):
    """A digest that differs from the one already known for the file."""


class Damaged(Refused):
    """A file whose proved object is missing or altered at the store.

    Its owner can send the bytes again (`Client.upload_again`), or delete it.
    """


class Unexpected(Refused):
    """A refusal that this version of the client does not know."""


class Rejected(AssayError):
    """A file whose bytes do not match its declaration. `file.rejection` has the reason."""

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
    """Bytes whose SHA-256 is not the expected one."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class FileChanged(AssayError):
    """A file that was replaced or deleted during its download."""


class SourceChanged(AssayError):
    """A local file that changed after its upload began.

    `state` is the path of the upload's state file, or None.
    """

    def __init__(self, message: str, state: Path | None = None) -> None:
        super().__init__(message)
        self.state = state


class SourceUnreadable(AssayError):
    """A source that cannot be read. The OSError is the cause."""


class TargetFailed(AssayError):
    """A target that cannot be written. The OSError is the cause."""


class InProgress(AssayError):
    """An upload or download that another process is running."""


class NotFinal(AssayError):
    """A wait that timed out before the file was proved. The caller may wait again."""

    def __init__(self, file: File) -> None:
        super().__init__(f"{file.filename} is still {file.state}")
        self.file = file


class StoreRefused(AssayError):
    """A presigned URL that the object store refused. `code` is the S3 error code."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ServerUnavailable(AssayError):
    """A server that did not answer, or answered 503, until the retries were used up.

    What has arrived at the server is kept, so the caller may try again later.
    """

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class NotAssay(ServerUnavailable):
    """A response that does not come from Assay. The URL may be wrong."""


BY_TYPE: dict[str, type[Refused]] = {
    "idempotency-mismatch": KeyReused,
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
    """Return the error that corresponds to a problem document."""
    message = problem.detail or problem.title
    kind = problem.type.removeprefix(URN)
    if kind == "digest-mismatch":
        return DigestMismatch(message, problem)
    known = BY_TYPE.get(kind) or BY_STATUS.get(problem.status) or Unexpected
    return known(message, problem)
