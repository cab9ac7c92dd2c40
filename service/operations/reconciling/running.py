"""The run of a reconciliation, step by step."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final, Literal
from uuid import UUID

import asyncpg
import msgspec

from service import database
from service.marker.document import Document, MarkerUnreadable, read_document, write_document
from service.model import State
from service.object_store import StoredObject
from service.operations.listing import WrongListing
from service.operations.reconciling.adopting import Adopter, Adoption, NotAdopted, look_at
from service.operations.reconciling.merging import Pair, merge_vault
from service.queries import locks, scrubbing
from service.queries import marker as marker_queries
from service.queries import reconciling as queries
from service.queries.files import ask_time
from service.queries.reconciling import NamedObject, OldReservation
from service.resources import WorkerResources
from service.worker.rereading import Rereader, StoreProblem

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
    connection = await database.connect(
        resources.settings.listen_url,
        command_timeout=60,
        # The connection is idle while the vault is listed.
        server_settings={"tcp_keepalives_idle": "60"},
    )
    rereader = Rereader(resources, threads=HASHING_THREADS, rate=None)
    try:
        if not await locks.try_lock(connection, locks.MARKER):
            raise CannotReconcile(
                "another process is raising the marker or reconciling: try again in a moment"
            )
        seen = await read_vault_marker(resources, connection, options)
        adopter = Adopter(resources=resources, rereader=rereader, adoption=options.adoption)
        async for found in reconcile_reservations(resources, adopter):
            yield found
        if options.adoption.wanted:
            first = msgspec.structs.replace(adopter, only_with_digest=True)
            async for found in reconcile_vault(resources, first):
                if found.what != "orphan":
                    yield found
        async for found in reconcile_vault(resources, adopter):
            yield found
        await set_marker(resources, connection, seen)
    except (WrongListing, StoreProblem) as error:
        raise CannotReconcile(str(error)) from error
    finally:
        rereader.close()
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
        elif seen is not None:
            for found in await settle_reservation(resources, adopter, seen):
                yield found
    if waiting:
        last = max(waiting.values())
        yield Found("waiting", "", f"{len(waiting)} leases end at {last.astimezone(UTC):%H:%M:%S}")
    while waiting:
        await asyncio.sleep(PAUSE_SECONDS)
        for key in await find_ended(resources, waiting):
            seen = await find_object(resources, key)
            if seen is not None:
                for found in await settle_reservation(resources, adopter, seen):
                    yield found


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
    """Return the object of a reservation, or None if there is none.

    If the object cannot be read, delete the reservation. It is then reported when the vault is
    listed.
    """
    try:
        return await look_at(resources, key)
    except NotAdopted:
        await queries.release_key(resources.pool, key)
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


async def settle_reservation(
    resources: WorkerResources, adopter: Adopter, seen: StoredObject
) -> list[Found]:
    """Adopt the object of an old reservation, and return what was done.

    If the object has no file, delete the reservation. The object is then reported when the vault is
    listed.
    """
    key, file_id = UUID(seen.key), read_file_id(seen)
    damaged = await compare_named_object(resources, adopter, file_id)
    try:
        return [*damaged, Found("ready", seen.key, await adopter.adopt(key, seen))]
    except NotAdopted:
        if file_id is None or await queries.find_state(resources.pool, file_id) is None:
            await queries.release_key(resources.pool, key)
        return damaged


def read_file_id(seen: StoredObject) -> UUID | None:
    try:
        return UUID(seen.metadata.get("assay-file-id", ""))
    except ValueError:
        return None


async def compare_named_object(
    resources: WorkerResources, adopter: Adopter, file_id: UUID | None
) -> list[Found]:
    """Read the object that a `ready` file names, and compare it with the row, as in step 3."""
    named = None if file_id is None else await queries.find_named_object(resources.pool, file_id)
    if named is None:
        return []
    found = await reconcile_row(resources, adopter, Pair(named.key, None, named))
    return [] if found is None else [found]


# Step 3


async def reconcile_vault(resources: WorkerResources, adopter: Adopter) -> AsyncIterator[Found]:
    async for pair in merge_vault(resources.pool, resources.vault):
        if pair.named is None:
            for found in await reconcile_object(resources, adopter, pair):
                yield found
        elif (differs := await reconcile_row(resources, adopter, pair)) is not None:
            yield differs


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
    verdict = await adopter.rereader.judge(named.key, size=named.size, sha256=named.hash)
    if verdict.why is not None:
        return await damage(resources, named, verdict.why)
    proof = verdict.proof
    assert proof is not None  # noqa: S101  # a whole object has a proof
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


async def reconcile_object(resources: WorkerResources, adopter: Adopter, pair: Pair) -> list[Found]:
    """Adopt an object that no row names, or report it."""
    listed = pair.listed
    assert listed is not None  # noqa: S101  # a pair has one of both
    if pair.key is None:
        return [Found("orphan", listed.key, "its key is not one of Assay")]
    damaged: list[Found] = []
    try:
        seen = await look_at(resources, pair.key)
        if seen is None:
            return []
        damaged = await compare_named_object(resources, adopter, read_file_id(seen))
        done = await adopter.adopt(pair.key, seen)
    except NotAdopted as error:
        return [*damaged, Found("orphan", listed.key, str(error))]
    return [*damaged, Found("adopted", listed.key, done)]
