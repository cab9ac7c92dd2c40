"""The HTTP representation of a proved file: headers, conditions, ranges (RFC 9110, RFC 9530).

The module depends on neither the store nor the web framework.
"""

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

import msgspec

from service import problems
from service.http.content_disposition import format_disposition
from service.model import ProvedFile, Sha256

INLINE_TYPES: Final = frozenset(
    {"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "text/plain"}
    | {
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "audio/webm",
        "audio/mp4",
        "video/mp4",
        "video/webm",
        "video/ogg",
    }
)
"""Types that a browser shows without running code. SVG and PDF may contain code."""
ENTITY_TAGS: Final = re.compile(
    r'[ \t,]*(?:(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"[ \t]*(?:,[ \t,]*|$))+'
)
ENTITY_TAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
BYTE_RANGE: Final = re.compile(r"(\d{0,4000})[ \t]*-[ \t]*(\d{0,4000})", re.ASCII)
HTTP_DATES: Final = (
    "%a, %d %b %Y %H:%M:%S GMT",
    "%A, %d-%b-%y %H:%M:%S GMT",
    "%a %b %d %H:%M:%S %Y",
)

Headers = Mapping[str, str]
"""The headers of a request by lower-case name. Lines of one name are joined by commas."""


class Span(msgspec.Struct, frozen=True):
    """A range of `length` bytes from `start` on."""

    start: int
    length: int


def format_etag(sha256: Sha256) -> str:
    """Return the ETag.

    It is a strong one, because files with the same digest have the same bytes.
    """
    return f'"{sha256}"'


def format_date(moment: datetime) -> str:
    return format_datetime(moment.astimezone(UTC).replace(microsecond=0), usegmt=True)


def describe_file(file: ProvedFile, *, inline: bool, embed: bool = False) -> dict[str, str]:
    """Return the headers of every response about the bytes of a `ready` file, including 304.

    With `embed`, pages of other origins may show the file. `no-transform` forbids proxies to change
    the bytes, which would then differ from the digest.
    """
    return {
        "ETag": format_etag(file.hash),
        "Repr-Digest": f"sha-256=:{base64.b64encode(file.hash.digest).decode()}:",
        "Last-Modified": format_date(file.upload_date),
        "Accept-Ranges": "bytes",
        "Content-Disposition": format_disposition(
            file.filename, inline=inline and is_harmless(file.served_content_type)
        ),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cross-Origin-Resource-Policy": "cross-origin" if embed else "same-origin",
        "Cache-Control": "private, no-cache, no-transform",
        "X-Accel-Buffering": "no",
    }


def describe_body(file: ProvedFile, span: Span | None) -> dict[str, str]:
    """Return the headers of a response with a body, which a response to HEAD has too."""
    described = {
        "Content-Type": file.served_content_type,
        "Content-Length": str(file.size if span is None else span.length),
    }
    if span is not None:
        described["Content-Range"] = (
            f"bytes {span.start}-{span.start + span.length - 1}/{file.size}"
        )
    return described


def is_harmless(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() in INLINE_TYPES


def is_not_modified(file: ProvedFile, headers: Headers) -> bool:
    """Return whether GET and HEAD response 304, in the order of RFC 9110, section 13.2.2.

    Raises PreconditionFailed.
    """
    etag, modified = format_etag(file.hash), last_modified(file)
    if "if-match" in headers:
        if not matches(headers["if-match"], etag, weakly=False):
            raise problems.PreconditionFailed(f"If-Match: the file's ETag is {etag}")
    elif (
        before := parse_date(headers.get("if-unmodified-since"))
    ) is not None and modified > before:
        raise problems.PreconditionFailed(
            f"If-Unmodified-Since: the file was modified at {format_date(modified)}"
        )
    if "if-none-match" in headers:
        return matches(headers["if-none-match"], etag, weakly=True)
    since = parse_date(headers.get("if-modified-since"))
    return since is not None and modified <= since


def last_modified(file: ProvedFile) -> datetime:
    return file.upload_date.astimezone(UTC).replace(microsecond=0)


def matches(field: str, etag: str, *, weakly: bool) -> bool:
    """Return whether a list of entity tags, or `*`, matches. A malformed list matches nothing."""
    if field.strip() == "*":
        return True
    if not ENTITY_TAGS.fullmatch(field.strip()):
        return False
    tags = ENTITY_TAG.findall(field)
    return etag in ([tag.removeprefix("W/") for tag in tags] if weakly else tags)


def parse_date(text: str | None) -> datetime | None:
    """Return a date in one of the three forms of RFC 9110, section 5.6.7, or None for other text,
    which is ignored.
    """
    for form in HTTP_DATES if text else ():
        try:
            return datetime.strptime(text or "", form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


def choose_span(file: ProvedFile, headers: Headers) -> Span | None:
    """Return the requested range, or None for the whole file. Raises RangeNotSatisfiable."""
    if "range" not in headers or (
        "if-range" in headers and not is_same(file, headers["if-range"].strip())
    ):
        return None
    return parse_range(headers["range"], file.size)


def is_same(file: ProvedFile, validator: str) -> bool:
    """Return whether If-Range matches: the strong ETag, or exactly the Last-Modified date."""
    if validator.startswith(('"', "W/")):
        return validator == format_etag(file.hash)
    return parse_date(validator) == last_modified(file)


def parse_range(field: str, size: int) -> Span | None:
    """Return one range of bytes (RFC 9110, section 14.1.2).

    Return None for several ranges, another unit or a malformed field, which are ignored. Raises
    RangeNotSatisfiable.
    """
    unit, equals, text = field.strip().partition("=")
    ranges = [part.strip(" \t") for part in text.split(",") if part.strip(" \t")]
    if unit.strip().lower() != "bytes" or not equals or len(ranges) != 1:
        return None
    match = BYTE_RANGE.fullmatch(ranges[0])
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return take_last(int(match[2]), size)
    first, last = int(match[1]), int(match[2]) if match[2] else size
    if match[2] and last < first:
        return None
    if first >= size:
        raise unsatisfiable(f"Range: starts at byte {first}, but the file has {size} bytes", size)
    return Span(first, min(last, size - 1) - first + 1)


def take_last(length: int, size: int) -> Span | None:
    if length == 0:
        raise unsatisfiable("Range: a suffix of 0 bytes selects nothing", size)
    if size == 0:
        return None  # RFC 9110 calls this satisfiable, but no Content-Range can express it
    length = min(length, size)
    return Span(size - length, length)


def unsatisfiable(detail: str, size: int) -> problems.RangeNotSatisfiable:
    return problems.RangeNotSatisfiable(detail, headers={"Content-Range": f"bytes */{size}"})
