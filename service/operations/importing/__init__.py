"""The import of objects that lie in another bucket of the same store.

1. List the objects of a prefix in the order of their keys (objects.py), or the rows of a table
   (table.py), and the files to make from them. Only one batch is kept in memory.
   - An object cannot be a file (its name is too long, for instance): report it and continue.
2. Read which of a batch's files exist. The id of a file is that of the table, or follows from the
   bucket, the key, the ETag, the date of the object and the owner. A second run therefore continues
   where the first ended.
   - A file exists: it is not imported again. It may have been deleted since. If it was not imported
     from the same object, or has another owner, size or digest: report it.
3. Copy each object to the vault, several at once (copying.py), and hash what is in the vault.
   - The object is missing, has changed or cannot be read: report it and continue.
   - The size or the digest differs from the table's: report it and continue.
4. Insert the file in state `ready`, by one statement.
   - The process dies before: the sweeper deletes the copy when its reservation's lease has expired.
     The next run copies the object again.
   - The database becomes unavailable: finish or give up the copies of the batch, and end.

The source is only read. Objects that are added to it during the import may be missed.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final, TypeVar
from uuid import UUID

import msgspec

from service.operations.importing.candidates import Candidate, Skipped
from service.operations.importing.copying import CannotImport, Importer, import_object
from service.queries import importing as queries

__all__ = ["CannotImport", "Importer", "Outcome", "import_all"]

BATCH: Final = 200
AT_ONCE: Final = 8

Item = TypeVar("Item")


class Outcome(msgspec.Struct, frozen=True):
    """What happened with one object. `is_new` is true if this run has imported it.

    `failure` is None if the object was imported, now or earlier.
    """

    key: str
    size: int
    is_new: bool
    failure: str | None = None


async def import_all(
    importer: Importer, candidates: AsyncIterator[Candidate | Skipped]
) -> AsyncIterator[Outcome]:
    """Import the objects, and yield an outcome for each, in order.

    Raises StoreError if the source cannot be listed, and the errors in database.UNREACHABLE.
    """
    async for batch in in_batches(candidates):
        ids = [one.file.id for one in batch if isinstance(one, Candidate)]
        known = await queries.find_known(importer.pool, ids)
        places = asyncio.Semaphore(AT_ONCE)
        tasks = [import_in_turn(importer, one, known, places) for one in batch]
        # All tasks end before an error is raised, because the caller then closes the pool.
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Outcome):
                yield outcome
        for error in outcomes:
            if isinstance(error, BaseException):
                raise error


async def import_in_turn(
    importer: Importer,
    one: Candidate | Skipped,
    known: Mapping[UUID, queries.KnownFile],
    places: asyncio.Semaphore,
) -> Outcome:
    if isinstance(one, Skipped):
        return Outcome(one.key, 0, is_new=False, failure=one.why)
    if one.file.id in known:
        return judge_known(one, known[one.file.id])
    async with places:
        return await import_one(importer, one)


async def import_one(importer: Importer, one: Candidate) -> Outcome:
    try:
        size = await import_object(importer, one)
    except CannotImport as error:
        return Outcome(one.key, 0, is_new=False, failure=str(error))
    return Outcome(one.key, size, is_new=True)


def judge_known(one: Candidate, known: queries.KnownFile) -> Outcome:
    """Return the outcome for a file that exists already, or has been deleted."""
    failure = None
    if known.owner != one.file.owner:
        failure = f"the id {known.id} belongs to a file of another owner"
    elif known.why != one.file.why:
        failure = f"the file {known.id} exists, and is another one: {known.why}"
    elif known.size != one.file.size:
        failure = f"the file {known.id} exists with another size: {known.size}"
    elif known.hash is not None and one.file.declared_sha256 not in (None, known.hash):
        failure = f"the file {known.id} exists with another digest: {known.hash}"
    return Outcome(one.key, one.file.size, is_new=False, failure=failure)


async def in_batches(items: AsyncIterator[Item]) -> AsyncIterator[list[Item]]:
    batch: list[Item] = []
    async for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
