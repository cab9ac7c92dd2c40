"""Pages of files: cursors, and checks of a query. A cursor is the last id and a digest of the owner and the filters."""

import base64
import hashlib
from collections.abc import Iterable, Set
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
REPEATABLE: Final = frozenset({"state"})
NEWEST: Final = UUID(int=2**128 - 1)


class Page(msgspec.Struct, frozen=True):
    """`next` is the cursor behind these files; None: there are no more."""

    files: list[File]
    next: str | None


async def list_page(
    resources: Resources, owner: str, filters: Filters, *, cursor: str | None, limit: int
) -> Page:
    """At most `limit` files; fewer may come although there are more. Raises InvalidCursor."""
    before = NEWEST if cursor is None else read_cursor(cursor, owner, filters)
    async with (
        resources.pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        found = await listing.list_files(connection, owner, filters, before=before, limit=limit + 1)
    if len(found.files) > limit:  # one more was asked for, to know that it is there
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
    """The id that the page begins behind. Raises InvalidCursor."""
    try:
        content = base64.b64decode(cursor.encode("ascii") + b"=", altchars=b"-_", validate=True)
    except ValueError as error:
        raise InvalidCursor.at("cursor", "is none of ours: begin again without a cursor") from error
    if len(content) != 32 or content[16:] != digest_filters(owner, filters):
        raise InvalidCursor.at(
            "cursor", "was made for other filters or another owner: begin again without a cursor"
        )
    return UUID(bytes=content[:16])


def check_query(pairs: Iterable[tuple[str, str]], *, known: Set[str]) -> None:
    """Raises InvalidRequest: a filter that is misspelt would otherwise show everything."""
    seen = set()
    for name, value in pairs:
        if name in seen and name not in REPEATABLE:
            raise InvalidRequest.at(name, "was given more than once")
        seen.add(name)
        if name not in known:
            raise InvalidRequest.at(
                name[:100],
                f"is no parameter of this route: leave it out; there are {', '.join(sorted(known))}",
            )
        if "\x00" in value:
            raise InvalidRequest.at(name, "holds a NUL character: send text without it")


def check_time(time: datetime | None, *, field: str) -> datetime | None:
    """Raises InvalidRequest for a time without an offset, or one that is none in UTC."""
    if time is None:
        return None
    try:
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except OverflowError as error:
        raise InvalidRequest.at(field, "is out of range: years 1 to 9999 in UTC") from error
    raise InvalidRequest.at(field, "has no offset: send a time such as 2026-01-31T12:00:00Z")
