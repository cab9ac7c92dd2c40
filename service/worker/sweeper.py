"""The sweeper: it removes what is left behind in both buckets and in the database.

Leftovers are found from rows through partial indexes, so that the cost depends on the number of
leftovers. A sweeper runs in every worker. It takes a batch with SKIP LOCKED and postpones the rows,
so that any number of sweepers may run at once and a row that cannot be cleaned up blocks no other
row. Everything that it removes was made garbage by an irrevocable commit: a doomed
reservation, a final file, or a deleted file.

1. Reservations whose lease has expired: doom them. A worker that commits later finds its
   reservation doomed.
2. Doomed reservations: abort the multipart upload and delete the object, each with its own timeout.
   The row of a probe of the store (service/worker/store_health.py) names an object in incoming,
   which is deleted as well.
   - The first time: the row is due again when COPY_GRACE is over, because a copy request may still
     be running.
   - COPY_GRACE is over: no request can still take effect, so the row is deleted.
   - An error: the row stays, and is due again after five minutes.
3. Incoming keys of final files: delete their objects, many by one request. They are due SWEEP_DELAY
   after the commit, and again 1 h, 1 day and 7 days after the file's `expires_at`, because a PUT
   that began in time may end late.
   - The file was uploaded in parts: abort its multipart upload first, but not before the lease of
     a running assembly has ended.
   - The store did not delete a key, or did not answer, or the worker stops: it is due again after
     five minutes.
   - The process dies before the answer, or the database does not record the failure: the object
     stays until the next deletion of its key. The last deletion is repeated after five minutes.
4. Vault objects of deleted files: delete them SWEEP_DELAY after the deletion. Several deletions run
   at once, because the store blocks a DELETE for 30 s while a stalled reader holds the object.
5. Rows: delete files that have been gone for longer than KEEP_ROWS and have nothing left in the
   store, and idempotency keys that are older than a day.

Nothing is swept while the database does not agree with the vault (service/marker/__init__.py). Each
statement that takes a batch compares them again.

SWEEP_DELAY protects against a commit that the database loses later, when it fails over to a standby
that lags behind. The row is then `pending`, `verifying` or `ready` again, and the object that it
needs must still be there.

See docs/architecture.md, "7. Doom before delete" and "9. Sweep".
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence, Set
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

import structlog

from service import database
from service.object_store import StoreError
from service.queries import sweeping
from service.resources import WorkerResources
from service.telemetry.metrics import SWEPT

BATCH: Final = 100
KEYS_A_REQUEST: Final = 500
AT_ONCE: Final = 8
DELETE_SECONDS: Final = 45  # longer than the 30 s for which a stalled reader blocks it

LONGEST_SECONDS: Final = 240
"""A duration below the five minutes after which a failed row is due again."""

Leftover = TypeVar("Leftover")
log = structlog.get_logger()


class Swept(NamedTuple):
    """The numbers of rows that a batch took, and of leftovers that it removed."""

    taken: int
    removed: int


NOTHING: Final = Swept(0, 0)


async def sweep(resources: WorkerResources) -> int:
    """Sweep until nothing is due, and return how many leftovers were removed.

    Raises the errors in database.UNREACHABLE if the database is unavailable.
    """
    if (await resources.guard.check()).stopped is not None:
        return 0
    outcomes = await asyncio.gather(
        sweep_reservations(resources), sweep_files(resources), return_exceptions=True
    )
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    await sweeping.forget_files(resources.pool, BATCH, resources.settings.keep_rows)
    await sweeping.forget_idempotency_keys(resources.pool, BATCH)
    return sum(outcome for outcome in outcomes if isinstance(outcome, int))


async def sweep_reservations(resources: WorkerResources) -> int:
    """Steps 1 and 2 of the protocol above: doom what has ended, delete what is doomed."""

    async def sweep_batch() -> Swept:
        standing = await resources.guard.check()
        if standing.stopped is not None:
            return NOTHING
        counter = standing.counter
        ended = await sweeping.doom_ended_reservations(resources.pool, BATCH, counter=counter)
        batch = await sweeping.claim_doomed_reservations(
            resources.pool, BATCH, resources.settings.copy_grace, counter=counter
        )
        removed = await sweep_each(resources, batch, sweep_doomed_reservation)
        return Swept(ended + len(batch), len(removed))

    return await repeat(sweep_batch)


async def sweep_files(resources: WorkerResources) -> int:
    """Steps 3 and 4 of the protocol above: delete incoming objects, then those of deleted files.

    The steps run in sequence, because a deleted file is due in both, and a statement skips a row
    that another one has locked.
    """

    async def sweep_incoming_batch() -> Swept:
        standing = await resources.guard.check()
        if standing.stopped is not None:
            return NOTHING
        keys = await sweeping.claim_incoming_keys(
            resources.pool,
            KEYS_A_REQUEST,
            resources.settings.sweep_delay,
            counter=standing.counter,
        )
        removed: list[sweeping.LeftKey] = []
        try:
            whole = [left for left in keys if left.upload_id is None]
            removed += await delete_incoming_objects(resources, whole)
            cut = [left for left in keys if left.upload_id is not None]
            removed += await sweep_each(resources, cut, sweep_multipart_upload)
        finally:  # also when the worker stops
            await asyncio.shield(record_sweep(resources, keys, {left.id for left in removed}))
        return Swept(len(keys), len(removed))

    async def sweep_object_batch() -> Swept:
        standing = await resources.guard.check()
        if standing.stopped is not None:
            return NOTHING
        batch = await sweeping.claim_deleted_objects(
            resources.pool, BATCH, resources.settings.sweep_delay, counter=standing.counter
        )
        return Swept(len(batch), len(await sweep_each(resources, batch, sweep_deleted_object)))

    return await repeat(sweep_incoming_batch) + await repeat(sweep_object_batch)


async def repeat(sweep_batch: Callable[[], Awaitable[Swept]]) -> int:
    """Sweep batches until nothing is due, and return how many leftovers were removed.

    The loop ends before a failed row can be due again.
    """
    begun_at, removed = time.monotonic(), 0
    while time.monotonic() - begun_at < LONGEST_SECONDS:
        swept = await sweep_batch()
        removed += swept.removed
        if swept.taken == 0:
            break
    return removed


async def sweep_each(
    resources: WorkerResources,
    batch: Sequence[Leftover],
    sweep_one: Callable[[WorkerResources, Leftover], Awaitable[None]],
) -> list[Leftover]:
    """Sweep several leftovers at once, and return those that were removed.

    A failure is logged, and its leftover is due again later.
    """
    places = asyncio.Semaphore(AT_ONCE)

    async def sweep_in_turn(leftover: Leftover) -> bool:
        async with places:
            try:
                await sweep_one(resources, leftover)
            except (StoreError, *database.UNREACHABLE) as error:
                log.warning(
                    "leftover not removed",
                    what=sweep_one.__name__,
                    error=str(error) or type(error).__name__,
                )
                return False
            return True

    removed = await asyncio.gather(*(sweep_in_turn(leftover) for leftover in batch))
    return list(itertools.compress(batch, removed))


async def sweep_doomed_reservation(
    resources: WorkerResources, reservation: sweeping.DoomedReservation
) -> None:
    key = str(reservation.vault_key)
    if reservation.upload_id is not None:
        await resources.vault.abort_upload(key, reservation.upload_id)
    await resources.vault.delete(key, timeout_seconds=DELETE_SECONDS)
    if reservation.scratch_key is not None:
        await resources.incoming.delete(reservation.scratch_key, timeout_seconds=DELETE_SECONDS)
    if reservation.last:
        await sweeping.drop_doomed_reservation(resources.pool, reservation.vault_key)
    else:
        await sweeping.keep_doomed_reservation(
            resources.pool, reservation.vault_key, resources.settings.copy_grace
        )
    SWEPT.labels("copy").inc()


async def delete_incoming_objects(
    resources: WorkerResources, keys: Sequence[sweeping.LeftKey]
) -> list[sweeping.LeftKey]:
    """Delete the objects by one request, and return the keys of those that the store deleted."""
    if not keys:
        return []
    try:
        failed = set(
            await resources.incoming.delete_many(
                [left.incoming_key for left in keys], timeout_seconds=DELETE_SECONDS
            )
        )
    except StoreError as error:
        log.warning("leftover not removed", what="delete_incoming_objects", error=str(error))
        return []
    return [left for left in keys if left.incoming_key not in failed]


async def sweep_multipart_upload(resources: WorkerResources, left: sweeping.LeftKey) -> None:
    """Remove both the parts and the object, because the parts may have been assembled."""
    await resources.incoming.abort_upload(left.incoming_key, left.upload_id or "")
    await resources.incoming.delete(left.incoming_key, timeout_seconds=DELETE_SECONDS)


async def record_sweep(
    resources: WorkerResources, keys: Sequence[sweeping.LeftKey], removed: Set[UUID]
) -> None:
    """Record what the statement that took the keys has not: failures, and last deletions."""
    SWEPT.labels("incoming").inc(len(removed))
    if kept := [left.id for left in keys if left.id not in removed]:
        await sweeping.keep_incoming_keys(resources.pool, kept, resources.settings.sweep_delay)
    if ended := [left.id for left in keys if left.last and left.id in removed]:
        await sweeping.end_incoming_sweeps(resources.pool, ended)


async def sweep_deleted_object(resources: WorkerResources, left: sweeping.DeletedObject) -> None:
    await resources.vault.delete(str(left.minio_object_name), timeout_seconds=DELETE_SECONDS)
    await sweeping.mark_purged(resources.pool, left.id)
    SWEPT.labels("object").inc()
