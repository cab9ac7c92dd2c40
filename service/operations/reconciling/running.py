"""The run of a reconciliation, step by step."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final, Literal
from uuid import UUID

import asyncpg
import msgspec

from service import database
from service.marker.document import Document, MarkerUnreadable, read_document, write_document
from service.model import State
from service.object_store import ObjectMissing, StoredObject
from service.operations.listing import WrongListing
from service.operations.reconciling.adopting import Adopter, Adoption, NotAdopted
from service.operations.reconciling.merging import Pair, merge_vault
from service.queries import locks, scrubbing
from service.queries import marker as marker_queries
from service.queries import reconciling as queries
from service.queries.files import ask_time
from service.queries.reconciling import NamedObject, OldReservation
from service.resources import WorkerResources

PAGE: Final = 1_000
HASHING_THREADS: Final = 1
PAUSE_SECONDS: Final = 0.5

What = Literal["ready", "adopted", "damaged", "whole", "orphan", "waiting"]


class CannotReconcile(Exception):
    """The reason why a run ended before it changed the marker."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the administrator has decided.

    `take_over` is true if the vault is the right one although it has no marker, or that of another
    deployment.
    """

    adoption: Adoption = Adoption()
    take_over: bool = False


class Found(msgspec.Struct, frozen=True):
    """Something that was found, and what was done about it."""

    what: What
    key: str
    detail: str


async def reconcile(resources: WorkerResources, options: Options) -> AsyncIterator[Found]:
    """Run the protocol of this package. Yield what differed.

    Raises CannotReconcile, StoreError and the errors in database.UNREACHABLE.
    """
    connection = await database.connect(resources.settings.listen_url, command_timeout=60)
    hashing = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="hash")
    try:
        if not await locks.try_lock(connection, locks.MARKER):
            raise CannotReconcile(
                "another process is raising the marker or reconciling: try again in a moment"
            )
        seen = await read_vault_marker(resources, connection, options)
        adopter = Adopter(
            pool=resources.pool,
            vault=resources.vault,
            hashing=hashing,
            adoption=options.adoption,
            lease=resources.settings.lease,
        )
        async for found in reconcile_reservations(resources, adopter):
            yield found
        async for found in reconcile_vault(resources, adopter):
            yield found
        await set_marker(resources, connection, seen)
    except WrongListing as error:
        raise CannotReconcile(str(error)) from error
    finally:
        hashing.shutdown(wait=False, cancel_futures=True)
        await database.close(connection)


# Steps 1 and 4


async def read_vault_marker(
    resources: WorkerResources, connection: asyncpg.Connection, options: Options
) -> Document | None:
    row = await marker_queries.read_marker(connection)
    try:
        seen = await read_document(resources.vault)
    except MarkerUnreadable as error:
        if not options.take_over:
            raise CannotReconcile(
                f"{error}: if this is the right vault, repeat the command with --take-over"
            ) from error
        return None
    if seen is None and row.counter and not options.take_over:
        raise CannotReconcile(
            "the vault has no marker, because it was emptied, restored or replaced: if this is the"
            " right vault, repeat the command with --take-over. Files without an object become"
            " damaged"
        )
    if seen is not None and seen.deployment != row.deployment and not options.take_over:
        raise CannotReconcile(
            f"the vault belongs to the deployment {seen.deployment}, and the database to"
            f" {row.deployment}: if that one is no longer used, repeat the command with --take-over"
        )
    return seen


async def set_marker(
    resources: WorkerResources, connection: asyncpg.Connection, seen: Document | None
) -> None:
    counter = await marker_queries.set_marker(connection, seen.counter if seen else 0)
    row = await marker_queries.read_marker(connection)
    await write_document(resources.vault, Document(row.deployment, counter, row.identity))


# Step 2


async def reconcile_reservations(
    resources: WorkerResources, adopter: Adopter
) -> AsyncIterator[Found]:
    """Settle the reservations that were made before this run and whose objects exist."""
    begun_at = await ask_time(resources.pool)
    waiting: dict[UUID, datetime] = {}
    async for old in list_reservations(resources, begun_at):
        seen = await find_object(resources, old.vault_key)
        if seen is not None and old.is_held:
            waiting[old.vault_key] = old.lease_until
        elif seen is not None and (done := await settle_reservation(adopter, old.vault_key, seen)):
            yield Found("ready", str(old.vault_key), done)
    if waiting:
        last = max(waiting.values())
        yield Found("waiting", "", f"{len(waiting)} leases end at {last.astimezone(UTC):%H:%M:%S}")
    while waiting:
        await asyncio.sleep(PAUSE_SECONDS)
        for key in await find_ended(resources, waiting):
            seen = await find_object(resources, key)
            if seen is not None and (done := await settle_reservation(adopter, key, seen)):
                yield Found("ready", str(key), done)


async def find_ended(resources: WorkerResources, waiting: dict[UUID, datetime]) -> list[UUID]:
    """Remove the keys from `waiting` that need no more waiting, and return those to settle.

    A holder that has extended its lease, or has removed the reservation, settles it itself.
    """
    found = {
        old.vault_key: old for old in await queries.find_reservations(resources.pool, [*waiting])
    }
    ended = []
    for key, lease_until in [*waiting.items()]:
        old = found.get(key)
        if old is not None and old.is_held and old.lease_until == lease_until:
            continue
        del waiting[key]
        if old is not None and not old.is_held:
            ended.append(key)
    return ended


async def find_object(resources: WorkerResources, key: UUID) -> StoredObject | None:
    try:
        return await resources.vault.head(str(key))
    except ObjectMissing:
        return None


async def list_reservations(
    resources: WorkerResources, before: datetime
) -> AsyncIterator[OldReservation]:
    after: UUID | None = None
    while page := await queries.list_reservations(
        resources.pool, before=before, after=after, limit=PAGE
    ):
        for old in page:
            yield old
        after = page[-1].vault_key


async def settle_reservation(adopter: Adopter, key: UUID, seen: StoredObject) -> str | None:
    """Adopt the object of an old reservation, and say what was done.

    If the object has no file, delete the reservation. The object is then reported when the vault is
    listed.
    """
    try:
        return await adopter.adopt(key, seen)
    except NotAdopted:
        if await has_no_row(adopter.pool, seen):
            await queries.release_key(adopter.pool, key)
        return None


async def has_no_row(pool: asyncpg.Pool, seen: StoredObject) -> bool:
    try:
        file_id = UUID(seen.metadata.get("assay-file-id", ""))
    except ValueError:
        return True
    return await queries.find_state(pool, file_id) is None


# Step 3


async def reconcile_vault(resources: WorkerResources, adopter: Adopter) -> AsyncIterator[Found]:
    async for pair in merge_vault(resources.pool, resources.vault):
        if pair.named is not None:
            found = await reconcile_row(resources, adopter, pair)
        else:
            found = await reconcile_object(resources, adopter, pair)
        if found is not None:
            yield found


async def reconcile_row(resources: WorkerResources, adopter: Adopter, pair: Pair) -> Found | None:
    """Compare a row with its object. Only what differs from the row is read."""
    named = pair.named
    assert named is not None  # noqa: S101  # the caller has checked
    listed = pair.listed
    if (
        listed is not None
        and named.state == State.READY
        and (listed.etag, listed.size) == (named.etag, named.size)
    ):
        return None
    try:
        proof = await adopter.hash(named.key)
    except ObjectMissing:
        return await damage(resources, named, "the object is missing")
    if (proof.size, proof.sha256) != (named.size, named.hash):
        return await damage(
            resources, named, f"the object has {proof.size} bytes with SHA-256 {proof.sha256}"
        )
    await scrubbing.mark_whole(resources.pool, named.id, named.key, etag=proof.etag)
    if named.state == State.READY and proof.etag == named.etag:
        return None  # it was committed after its range was listed
    resources.notifications.notify_change(named.id)
    return Found("whole", str(named.key), f"the file {named.id} has its proved bytes")


async def damage(resources: WorkerResources, named: NamedObject, why: str) -> Found | None:
    if not await scrubbing.mark_damaged(resources.pool, named.id, named.key, why=why):
        return None
    resources.notifications.notify_change(named.id)
    return Found("damaged", str(named.key), f"the file {named.id}: {why}")


async def reconcile_object(
    resources: WorkerResources, adopter: Adopter, pair: Pair
) -> Found | None:
    """Adopt an object that no row names, or report it."""
    listed = pair.listed
    assert listed is not None  # noqa: S101  # a pair has one of both
    if pair.key is None:
        return Found("orphan", listed.key, "its key is not one of Assay")
    try:
        seen = await resources.vault.head(listed.key)
        done = await adopter.adopt(pair.key, seen)
    except ObjectMissing:
        return None
    except NotAdopted as error:
        return Found("orphan", listed.key, str(error))
    return Found("adopted", listed.key, done)
