"""The import of objects that lie in another bucket of the same store.

1. Name the objects and what their files are to be: the objects of a prefix, in the order of their
   keys (objects.py), or the rows of a table (table.py). Nothing is kept but one batch.
   - An object cannot be a file (its name is too long, for instance): report it and go on.
2. Read which of a batch's files exist. The id of a file is that of the table, or follows from the
   bucket, the key, the ETag and the owner. A second run therefore continues where the first ended.
   - A file exists: it is not imported again. If it has another owner or digest: report it.
3. Copy each object to the vault, several at once (copying.py), and hash what is in the vault.
   - The object is missing, has changed or cannot be read: report it and go on.
   - The size or the digest differs from the table's: report it and go on.
4. Insert the file in state `ready`, by one statement.
   - The process dies before: the sweeper deletes the copy when its reservation's lease has expired.
     The next run copies the object again.

The source is only read. Objects that are added to it during the import may be missed.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final, TypeVar
from uuid import UUID

import msgspec

from service.operations.importing.copying import CannotImport, Importer, import_object
from service.operations.importing.wanted import Skipped, Wanted
from service.queries import importing as queries

__all__ = ["CannotImport", "Importer", "Outcome", "import_all"]

BATCH: Final = 200
AT_ONCE: Final = 8

Item = TypeVar("Item")


class Outcome(msgspec.Struct, frozen=True):
    """What happened with one object. `trouble` is None if the file exists now.

    `is_new` is true if this run has imported it.
    """

    key: str
    size: int
    is_new: bool
    trouble: str | None = None


async def import_all(
    importer: Importer, wanted: AsyncIterator[Wanted | Skipped]
) -> AsyncIterator[Outcome]:
    """Import the objects, and yield an outcome for each, in order.

    Raises StoreError if the source cannot be listed, and the errors in database.UNREACHABLE.
    """
    async for batch in in_batches(wanted):
        ids = [one.file.id for one in batch if isinstance(one, Wanted)]
        known = await queries.find_known(importer.pool, ids)
        places = asyncio.Semaphore(AT_ONCE)
        tasks = [import_in_turn(importer, one, known, places) for one in batch]
        for outcome in await asyncio.gather(*tasks):
            yield outcome


async def import_in_turn(
    importer: Importer,
    one: Wanted | Skipped,
    known: Mapping[UUID, queries.KnownFile],
    places: asyncio.Semaphore,
) -> Outcome:
    if isinstance(one, Skipped):
        return Outcome(one.key, 0, is_new=False, trouble=one.why)
    if one.file.id in known:
        return judge_known(one, known[one.file.id])
    async with places:
        return await import_one(importer, one)


async def import_one(importer: Importer, one: Wanted) -> Outcome:
    try:
        size = await import_object(importer, one)
    except CannotImport as error:
        return Outcome(one.key, 0, is_new=False, trouble=str(error))
    return Outcome(one.key, size, is_new=True)


def judge_known(one: Wanted, known: queries.KnownFile) -> Outcome:
    """Return the outcome for a file that exists already."""
    trouble = None
    if known.owner != one.file.owner:
        trouble = f"the id {known.id} belongs to a file of another owner"
    elif one.file.declared_sha256 not in (None, known.hash):
        trouble = f"the file {known.id} exists with another digest: {known.hash}"
    return Outcome(one.key, one.file.size, is_new=False, trouble=trouble)


async def in_batches(items: AsyncIterator[Item]) -> AsyncIterator[list[Item]]:
    batch: list[Item] = []
    async for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
