"""The vault's listing merged with the rows, in the order of keys and in constant memory."""

from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from service.marker import MARKER_KEY
from service.object_store import Bucket
from service.object_store.objects import ListedObject
from service.queries import reconciling as queries
from service.queries.reconciling import NamedObject

PAGE: Final = 1_000


class WrongListing(Exception):
    """A listing of the store that is not in the order of keys. Nothing can be concluded from it."""


class Pair(msgspec.Struct, frozen=True):
    """An object and the row that names it. One of both may be None.

    `listed.key` is not that of a file if `key` is None.
    """

    key: UUID | None
    listed: ListedObject | None
    named: NamedObject | None


async def merge_vault(pool: asyncpg.Pool, vault: Bucket) -> AsyncIterator[Pair]:
    """Yield every row with its object, and every object that no row names.

    Rows are read after the objects of the same range were listed. An object exists only after a
    row has named it, so that an object without a row was not written just now. A row without an
    object may have been written just now. Raises StoreError and WrongListing.
    """
    after: UUID | None = None
    async for page in list_pages(vault):
        objects = {key: one for one in page if (key := read_key(one.key)) is not None}
        for one in page:
            if read_key(one.key) is None:
                yield Pair(None, one, None)
        last = max(objects, default=None)
        if last is None:
            continue
        named_keys = await queries.find_named_keys(pool, [*objects])
        async for named in list_rows(pool, after, last):
            yield Pair(named.key, objects.get(named.key), named)
        for key in sorted(objects.keys() - named_keys):
            yield Pair(key, objects[key], None)
        after = last
    async for named in list_rows(pool, after, None):
        yield Pair(named.key, None, named)


async def list_pages(vault: Bucket) -> AsyncIterator[list[ListedObject]]:
    """Yield the objects in pages, without the marker."""
    page: list[ListedObject] = []
    previous = ""
    async for listed in vault.list_keys():
        if listed.key <= previous:
            raise WrongListing(
                f"the store listed {listed.key!r} after {previous!r}, which is not in order"
            )
        previous = listed.key
        if listed.key == MARKER_KEY:
            continue
        page.append(listed)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page


async def list_rows(
    pool: asyncpg.Pool, after: UUID | None, last: UUID | None
) -> AsyncIterator[NamedObject]:
    """Yield the proved files whose keys are in this range."""
    while page := await queries.list_named_objects(pool, after=after, last=last, limit=PAGE):
        for named in page:
            yield named
        after = page[-1].key


def read_key(text: str) -> UUID | None:
    """Return the key, if it is a UUID as Assay writes it."""
    try:
        key = UUID(text)
    except ValueError:
        return None
    return key if str(key) == text else None
