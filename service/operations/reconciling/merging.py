"""The vault's listing merged with the rows, in the order of keys and in constant memory."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import UUID

import asyncpg
import msgspec

from service.object_store import Bucket
from service.object_store.objects import ListedObject
from service.operations import listing
from service.operations.listing import list_pages_ahead, read_key
from service.queries import reconciling as queries
from service.queries.reconciling import NamedObject


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
    async with aclosing(list_pages_ahead(vault)) as pages:
        async for page in pages:
            objects = {key: one for one in page if (key := read_key(one.key)) is not None}
            for one in page:
                if read_key(one.key) is None:
                    yield Pair(None, one, None)
            last = max(objects, default=None)
            if last is None:
                continue
            async for named in list_rows(pool, after, last):
                yield Pair(named.key, objects.pop(named.key, None), named)
            # What is left is reserved, or of a deleted file, or was committed just now, or unnamed.
            left = objects.keys() - await queries.find_named_keys(pool, [*objects])
            for key in sorted(left):
                yield Pair(key, objects[key], None)
            after = last
    async for named in list_rows(pool, after, None):
        yield Pair(named.key, None, named)


async def list_rows(
    pool: asyncpg.Pool, after: UUID | None, last: UUID | None
) -> AsyncIterator[NamedObject]:
    """Yield the proved files whose keys are in this range."""
    while page := await queries.list_named_objects(
        pool, after=after, last=last, limit=listing.PAGE
    ):
        for named in page:
            yield named
        after = page[-1].key
        if after == last or len(page) < listing.PAGE:
            return
