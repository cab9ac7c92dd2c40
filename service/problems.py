"""Every refusal, as a problem document (RFC 9457).

Problem
├── InvalidRequest          400   ├── NotFound           404   ├── FileTooLarge          413
│   ├── MalformedBody       400   ├── MethodNotAllowed   405   ├── BodyTooLarge          413
│   ├── MalformedRequest    400   ├── HeadTimeout        408   ├── UnsupportedMediaType  415
│   │   └── InvalidHost     400   ├── SlowSender         408   ├── RangeNotSatisfiable   416
│   ├── InvalidCursor       400   ├── Conflict           409   ├── DigestMismatch        422
│   └── IncompleteBody      400   │   ├── NotReady             ├── IdempotencyMismatch   422
├── Unauthorized            401   │   ├── FileRejected         ├── HeadTooLarge          431
├── Forbidden               403   │   ├── FileDamaged          ├── InternalError         500
├── InvalidLink             403   │   ├── NotUploaded          ├── LinksNotAvailable     501
├── LengthRequired          411   │   ├── AlreadyUploaded      ├── UnsupportedTransferCoding 501
├── PreconditionFailed      412   │   ├── NotMultipart         ├── UnsupportedVersion    505
└── ...                           │   ├── IncompleteParts      └── Unavailable           503
                                  │   ├── UploadLost               ├── DatabaseUnavailable
                                  │   └── DigestConflict           ├── ObjectStoreUnavailable
                                  ├── FileGone           410       └── TooManyConnections
                                  └── LinkEnded          410
"""

from typing import Any, ClassVar, Self

import msgspec


class FieldError(msgspec.Struct, frozen=True):
    """One field that was wrong: `field` is a JSON path, a query parameter or a header, `detail` says what would be right."""

    field: str
    detail: str


class Problem(Exception):
    """A refusal that a client can act on. The class fixes `type`, `title` and `status`; `detail` is this occurrence."""

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
        """About one field of the request."""
        return cls(f"{field}: {detail}", errors=(FieldError(field, detail),), **extension)

    def document(self) -> dict[str, Any]:
        """The members of the problem document."""
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
    """One or more fields of the request are not what they should be."""

    status, type, title = 400, "invalid-request", "The request is not valid"


class MalformedBody(InvalidRequest):
    """The body is not the JSON or the form it should be."""

    type, title = "malformed-body", "The body cannot be read"


class MalformedRequest(InvalidRequest):
    """The request is not well-formed HTTP/1.1, or its body's end is ambiguous (RFC 9112)."""

    type, title = "malformed-request", "The request is not well-formed HTTP"


class InvalidHost(MalformedRequest):
    """Host is missing, repeated or malformed (RFC 9112, section 3.2)."""

    type, title = "invalid-host", "The Host field is not valid"


class InvalidCursor(InvalidRequest):
    """The cursor is not one of ours, or was made for another owner or other filters."""

    type, title = "invalid-cursor", "The cursor does not fit this request"


class IncompleteBody(InvalidRequest):
    """The body ended before the length that was announced."""

    type, title = "incomplete-body", "The body is shorter than announced"


class Unauthorized(Problem):
    """No API key, or one that is unknown, expired or revoked."""

    status, type, title = 401, "unauthorized", "A valid API key is required"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="assay"'})


class Forbidden(Problem):
    """The key is valid but lacks the scope."""

    status, type, title = 403, "forbidden", "The API key may not do this"


class InvalidLink(Problem):
    """The link's token was not made here, or was altered."""

    status, type, title = 403, "invalid-link", "The link is not valid"


class NotFound(Problem):
    """No such route, or no such file for this owner."""

    status, type, title = 404, "not-found", "Not found"


class MethodNotAllowed(Problem):
    """The route exists, the method does not."""

    status, type, title = 405, "method-not-allowed", "Method not allowed"


class HeadTimeout(Problem):
    """The request's head was not complete in time (RFC 9110, section 15.5.9)."""

    status, type, title = 408, "head-timeout", "The request did not arrive in time"


class SlowSender(Problem):
    """The body came slower than MIN_UPLOAD_RATE for 30 s, or a JSON body was not complete after 30 s."""

    status, type, title = 408, "slow-sender", "The body arrives too slowly"


class Conflict(Problem):
    """The file's state does not allow this."""

    status, type, title = 409, "conflict", "The file's state does not allow this"


class NotReady(Conflict):
    """The file is not proved yet; Retry-After says when to ask again."""

    type, title = "not-ready", "The file is not proved yet"


class FileRejected(Conflict):
    """What arrived is not what was declared."""

    type, title = "file-rejected", "The file was rejected"


class FileDamaged(Conflict):
    """The proved object is gone or altered at the store."""

    type, title = "file-damaged", "The file is damaged at the store"


class NotUploaded(Conflict):
    """The store has no object for this file."""

    type, title = "not-uploaded", "Nothing has been uploaded yet"


class AlreadyUploaded(Conflict):
    """The bytes are at the store already, or the file needs no upload any more."""

    type, title = "already-uploaded", "The file needs no further upload"


class NotMultipart(Conflict):
    """The file was declared to come in one PUT, so it has no parts."""

    type, title = "not-multipart", "The file has no parts"


class IncompleteParts(Conflict):
    """Parts are missing at the store, or have another size than they should; their numbers are named."""

    type, title = "incomplete-parts", "The parts are not complete"


class UploadLost(Conflict):
    """The store has dropped the multipart upload and has no object either: what was sent is gone."""

    type, title = "upload-lost", "The store has lost the upload"


class DigestConflict(Conflict):
    """Another digest than the one that is known or proved; nothing was changed."""

    type, title = "digest-conflict", "Another digest is known for this file"


class FileGone(Problem):
    """The file was deleted, or its upload never came."""

    status, type, title = 410, "gone", "The file is gone"


class LinkEnded(Problem):
    """The link's time is over, or the key that made it was revoked; the file may be there."""

    status, type, title = 410, "link-ended", "The link has ended"


class LengthRequired(Problem):
    """The body is the file, and neither Content-Length nor chunked says where it ends (RFC 9110, section 15.5.12)."""

    status, type, title = 411, "length-required", "The length of the body is required"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"Connection": "close"})  # what follows may be the body


class PreconditionFailed(Problem):
    """If-Match or If-Unmodified-Since does not hold (RFC 9110, 13.1)."""

    status, type, title = 412, "precondition-failed", "The precondition does not hold"


class FileTooLarge(Problem):
    """The file is larger than MAX_FILE_BYTES, or than one PUT can carry."""

    status, type, title = 413, "file-too-large", "The file is too large"


class BodyTooLarge(Problem):
    """The JSON body is larger than the route takes."""

    status, type, title = 413, "body-too-large", "The body is too large"


class UnsupportedMediaType(Problem):
    """The body's media type is not one that the route reads."""

    status, type, title = 415, "unsupported-media-type", "The body's media type is not supported"


class RangeNotSatisfiable(Problem):
    """No byte of the requested range exists (RFC 9110, 15.5.17)."""

    status, type, title = 416, "range-not-satisfiable", "The range cannot be satisfied"


class DigestMismatch(Problem):
    """The bytes have another SHA-256 than declared; nothing was stored."""

    status, type, title = 422, "digest-mismatch", "The bytes have another SHA-256 than declared"


class IdempotencyMismatch(Problem):
    """The Idempotency-Key was used with another body."""

    status, type, title = (
        422,
        "idempotency-mismatch",
        "The Idempotency-Key was used for another request",
    )


class LinksNotAvailable(Problem):
    """No secret is set to sign links with."""

    status, type, title = 501, "links-not-available", "Links cannot be made here"


class Unavailable(Problem):
    """A server behind this one is away; the request may be repeated."""

    status, type, title = 503, "unavailable", "The service is not available"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"Retry-After": "5"})


class DatabaseUnavailable(Unavailable):
    """PostgreSQL does not answer."""

    type, title = "database-unavailable", "The database is not available"


class ObjectStoreUnavailable(Unavailable):
    """The object store does not answer."""

    type, title = "store-unavailable", "The object store is not available"


class TooManyConnections(Unavailable):
    """As many connections are open as MAX_CONNECTIONS allows, and none of them is idle."""

    type, title = "too-many-connections", "Too many connections are open"


class HeadTooLarge(Problem):
    """The request line and the header fields, or the trailer fields, are too large or too many (RFC 6585, section 5)."""

    status, type, title = 431, "head-too-large", "The header fields are too large"


class UnsupportedTransferCoding(Problem):
    """Another transfer coding than chunked (RFC 9112, section 6.1)."""

    status, type, title = 501, "unsupported-transfer-coding", "The transfer coding is not supported"


class UnsupportedVersion(Problem):
    """Another major version of HTTP than 1 (RFC 9110, section 15.6.6)."""

    status, type, title = 505, "unsupported-version", "The HTTP version is not supported"


class InternalError(Problem):
    """A fault of ours; the log has it under the request id."""
