"""The problems that the API reports, each as a problem document (RFC 9457).

Problem
├── InvalidRequest          400   ├── NotFound           404   ├── FileTooLarge          413
│   ├── MalformedBody       400   ├── MethodNotAllowed   405   ├── BodyTooLarge          413
│   ├── MalformedRequest    400   ├── HeadTimeout        408   ├── UnsupportedMediaType  415
│   │   └── InvalidHost     400   ├── SlowSender         408   ├── RangeNotSatisfiable   416
│   ├── InvalidCursor       400   ├── Conflict           409   ├── DigestMismatch        422
│   └── IncompleteBody      400   │   ├── NotReady             ├── IdempotencyMismatch   422
├── Unauthorized            401   │   ├── FileRejected         ├── HeadTooLarge          431
├── Forbidden               403   │   ├── NotUploaded          ├── InternalError         500
├── InvalidLink             403   │   ├── AlreadyUploaded      ├── LinksNotAvailable     501
├── LengthRequired          411   │   ├── NotMultipart         ├── UnsupportedTransferCoding 501
├── PreconditionFailed      412   │   ├── IncompleteParts      ├── FileDamaged           502
└── ...                           │   ├── UploadLost           ├── UnsupportedVersion    505
                                  │   └── DigestConflict       └── Unavailable           503
                                  ├── FileGone           410       ├── DatabaseUnavailable
                                  └── LinkEnded          410       ├── ObjectStoreUnavailable
                                                                   └── TooManyConnections
"""

from typing import Any, ClassVar, Self

import msgspec


class FieldError(msgspec.Struct, frozen=True):
    """One wrong field of a request.

    `field` is a JSON path, a query parameter or a header. `detail` says what would be right.
    """

    field: str
    detail: str


class Problem(Exception):
    """A refusal that a client can act on.

    The class determines `type`, `title` and `status`. `detail` describes this occurrence.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str = "",
        *,
        errors: tuple[FieldError, ...] = (),
        headers: dict[str, str] | None = None,
        **extension: Any,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}
        self.extension = extension

    @classmethod
    def at(cls, field: str, detail: str, **extension: Any) -> Self:
        return cls(f"{field}: {detail}", errors=(FieldError(field, detail),), **extension)

    def document(self) -> dict[str, Any]:
        members: dict[str, Any] = {
            "type": f"urn:assay:problem:{self.type}",
            "title": self.title,
            "status": self.status,
        }
        if self.detail:
            members["detail"] = self.detail
        if self.errors:
            members["errors"] = self.errors
        return members | self.extension


class InvalidRequest(Problem):
    """A request with one or more invalid fields."""

    status, type, title = 400, "invalid-request", "The request is not valid"


class MalformedBody(InvalidRequest):
    """A body that is not the expected JSON or form."""

    type, title = "malformed-body", "The body cannot be read"


class MalformedRequest(InvalidRequest):
    """A request that is not well-formed HTTP/1.1, or whose body has an ambiguous end (RFC 9112)."""

    type, title = "malformed-request", "The request is not well-formed HTTP"


class InvalidHost(MalformedRequest):
    """A Host field that is missing, repeated or malformed (RFC 9112, section 3.2)."""

    type, title = "invalid-host", "The Host field is not valid"


class InvalidCursor(InvalidRequest):
    """A cursor that Assay did not issue, or that belongs to another owner or other filters."""

    type, title = "invalid-cursor", "The cursor does not fit this request"


class IncompleteBody(InvalidRequest):
    """A body that ended before its announced length."""

    type, title = "incomplete-body", "The body is shorter than announced"


class Unauthorized(Problem):
    """A request without an API key, or with one that is unknown, expired or revoked."""

    status, type, title = 401, "unauthorized", "A valid API key is required"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="assay"'})


class Forbidden(Problem):
    """A request with a valid API key or upload token that does not permit it."""

    status, type, title = 403, "forbidden", "The API key may not do this"


class InvalidLink(Problem):
    """A link whose token was altered, or was not issued by this service."""

    status, type, title = 403, "invalid-link", "The link is not valid"


class NotFound(Problem):
    """A route that does not exist, or a file that does not exist for this owner."""

    status, type, title = 404, "not-found", "Not found"


class MethodNotAllowed(Problem):
    """A method that the route does not support."""

    status, type, title = 405, "method-not-allowed", "Method not allowed"


class HeadTimeout(Problem):
    """A request whose head was not complete in time (RFC 9110, section 15.5.9)."""

    status, type, title = 408, "head-timeout", "The request did not arrive in time"


class SlowSender(Problem):
    """A body that arrives too slowly.

    A streamed body was slower than MIN_UPLOAD_RATE for 30 s, or a JSON body was not complete after
    30 s.
    """

    status, type, title = 408, "slow-sender", "The body arrives too slowly"


class Conflict(Problem):
    """A request that the file's state does not allow."""

    status, type, title = 409, "conflict", "The file's state does not allow this"


class NotReady(Conflict):
    """A request for a file that is not proved yet. Retry-After says when to repeat it."""

    type, title = "not-ready", "The file is not proved yet"


class FileRejected(Conflict):
    """A request for a file whose bytes differ from the declaration, or cannot be read."""

    type, title = "file-rejected", "The file was rejected"


class NotUploaded(Conflict):
    """A `complete` for a file without an object at the store."""

    type, title = "not-uploaded", "Nothing has been uploaded yet"


class AlreadyUploaded(Conflict):
    """A request to upload a file whose bytes are already at the store or no longer needed."""

    type, title = "already-uploaded", "The file needs no further upload"


class NotMultipart(Conflict):
    """A request about the parts of a file that is sent by one PUT."""

    type, title = "not-multipart", "The file has no parts"


class IncompleteParts(Conflict):
    """A `complete` while parts are missing or have a wrong size. The problem names these parts."""

    type, title = "incomplete-parts", "The parts are not complete"


class UploadLost(Conflict):
    """A multipart upload that the store has dropped, without an object. The sent bytes are lost."""

    type, title = "upload-lost", "The store has lost the upload"


class DigestConflict(Conflict):
    """A digest that differs from the known or proved one. Nothing was changed."""

    type, title = "digest-conflict", "Another digest is known for this file"


class FileGone(Problem):
    """A request for a file that was deleted, or that expired without an upload."""

    status, type, title = 410, "gone", "The file is gone"


class LinkEnded(Problem):
    """A link that is no longer valid, because it or its API key has expired or was revoked.

    The file may still exist.
    """

    status, type, title = 410, "link-ended", "The link is no longer valid"


class LengthRequired(Problem):
    """A file sent with neither Content-Length nor chunked coding (RFC 9110, section 15.5.12)."""

    status, type, title = 411, "length-required", "The length of the body is required"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"Connection": "close"})  # the next bytes may be the body


class PreconditionFailed(Problem):
    """An If-Match or If-Unmodified-Since that does not hold (RFC 9110, section 13.1)."""

    status, type, title = 412, "precondition-failed", "The precondition does not hold"


class FileTooLarge(Problem):
    """A file that is larger than MAX_FILE_BYTES, or larger than its kind of upload permits."""

    status, type, title = 413, "file-too-large", "The file is too large"


class BodyTooLarge(Problem):
    """A JSON body that is larger than the route accepts."""

    status, type, title = 413, "body-too-large", "The body is too large"


class UnsupportedMediaType(Problem):
    """A body of a media type that the route does not accept, or one with a Content-Encoding."""

    status, type, title = 415, "unsupported-media-type", "The body's media type is not supported"


class RangeNotSatisfiable(Problem):
    """A range without any byte of the file (RFC 9110, section 15.5.17)."""

    status, type, title = 416, "range-not-satisfiable", "The range cannot be satisfied"


class DigestMismatch(Problem):
    """A body, or a file in it, whose digest differs from a stated one. Nothing was stored."""

    status, type, title = 422, "digest-mismatch", "The digest of the bytes is not the stated one"


class IdempotencyMismatch(Problem):
    """An Idempotency-Key that was used for another request before."""

    status, type, title = (
        422,
        "idempotency-mismatch",
        "The Idempotency-Key was used for another request",
    )


class LinksNotAvailable(Problem):
    """A request for a signed link while LINK_SECRET is not set."""

    status, type, title = 501, "links-not-available", "Signed links are not available"


class FileDamaged(Problem):
    """A request for a proved file whose object is missing or altered at the store.

    A repetition gets the same response until the bytes are sent again or found whole.
    """

    status, type, title = 502, "file-damaged", "The file is damaged at the store"


class Unavailable(Problem):
    """A request that fails because a server is unavailable or overloaded. It may be repeated."""

    status, type, title = 503, "unavailable", "The service is not available"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"Retry-After": "5"})


class DatabaseUnavailable(Unavailable):
    """A request that fails because PostgreSQL is unavailable."""

    type, title = "database-unavailable", "The database is not available"


class ObjectStoreUnavailable(Unavailable):
    """A request that fails because the object store is unavailable."""

    type, title = "store-unavailable", "The object store is not available"


class TooManyConnections(Unavailable):
    """A connection above MAX_CONNECTIONS, while none of the others is idle."""

    type, title = "too-many-connections", "Too many connections are open"


class HeadTooLarge(Problem):
    """A request whose header or trailer section exceeds a limit (RFC 6585, section 5).

    The size of the section (with the request line) and the number of its fields are limited.
    """

    status, type, title = 431, "head-too-large", "The header fields are too large"


class UnsupportedTransferCoding(Problem):
    """A transfer coding other than chunked (RFC 9112, section 6.1)."""

    status, type, title = 501, "unsupported-transfer-coding", "The transfer coding is not supported"


class UnsupportedVersion(Problem):
    """A major version of HTTP other than 1 (RFC 9110, section 15.6.6)."""

    status, type, title = 505, "unsupported-version", "The HTTP version is not supported"


class InternalError(Problem):
    """An error of the service itself. The log has its traceback under the request id."""
