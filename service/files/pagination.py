"""Pages of files: cursors, and the checks of times.

A cursor is the last id, with a digest of the owner and the filters.
"""

import base64
import hashlib
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import msgspec

from service.model import GONE, File, State
from service.problems import InvalidCursor, InvalidRequest
from service.queries import listing
from service.queries.listing import Filters
from service.resources import Resources

SHOWN_STATES: Final = tuple(state for state in State if state not in GONE)
NEWEST: Final = UUID(int=2**128 - 1)


class Page(msgspec.Struct, frozen=True):
    """A page of files. `next` is the cursor of the next page, or None after the last page."""

    files: list[File]
    next: str | None


async def list_page(
    resources: Resources, owner: str, filters: Filters, *, cursor: str | None, limit: int
) -> Page:
    """Return a page of at most `limit` files. Raises InvalidCursor.

    The page may be shorter although more files follow.
    """
    before = NEWEST if cursor is None else read_cursor(cursor, owner, filters)
    found = await listing.list_files(resources.pool, owner, filters, before=before, limit=limit + 1)
    if len(found.files) > limit:  # one more was read, to see whether a page follows
        end: UUID | None = found.files[limit - 1].id
    else:
        end = found.end
    return Page(found.files[:limit], None if end is None else make_cursor(end, owner, filters))


def digest_filters(owner: str, filters: Filters) -> bytes:
    return hashlib.sha256(msgspec.json.encode([owner, filters], enc_hook=str)).digest()[:16]


def make_cursor(last: UUID, owner: str, filters: Filters) -> str:
    return (
        base64.urlsafe_b64encode(last.bytes + digest_filters(owner, filters)).rstrip(b"=").decode()
    )


def read_cursor(cursor: str, owner: str, filters: Filters) -> UUID:
    """Return the id after which the page begins. Raises InvalidCursor."""
    try:
        content = base64.b64decode(cursor.encode("ascii") + b"=", altchars=b"-_", validate=True)
    except ValueError as error:
        raise InvalidCursor.at(
            "cursor", "was not issued by this service: begin again without a cursor"
        ) from error
    if len(content) != 32 or content[16:] != digest_filters(owner, filters):
        raise InvalidCursor.at(
            "cursor", "belongs to other filters or another owner: begin again without a cursor"
        )
    return UUID(bytes=content[:16])


def parse_time(text: str | None, *, field: str) -> datetime | None:
    """Return the time in UTC, or None for None.

    Raises InvalidRequest if it has another form, has no offset, or is out of range in UTC.
    """
    if text is None:
        return None
    try:
        time = msgspec.convert(text, datetime)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except msgspec.ValidationError as error:
        raise InvalidRequest.at(
            field, "is not in the form of RFC 3339: send a time such as 2026-01-31T12:00:00Z"
        ) from error
    except OverflowError as error:
        raise InvalidRequest.at(
            field, "is out of range: send a time in the years 1 to 9999 (UTC)"
        ) from error
    raise InvalidRequest.at(field, "has no offset: send a time such as 2026-01-31T12:00:00Z")
