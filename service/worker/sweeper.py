"""The sweeper: what is left behind, found from rows through partial indexes, so that the cost follows the leftovers.

It runs in every worker. A batch is taken with SKIP LOCKED and pushed five minutes ahead, so any number may run at once and a row that
cannot be cleaned blocks no other. Everything it removes is garbage by commit, for good: a doomed reservation, a final file, a deleted file.

1. Reservations whose lease has ended: doom them. A worker that commits later finds its reservation doomed.
2. Doomed reservations: abort the multipart upload, delete the object, each with a time-out of its own. The row of a probe of the store
   (service/worker/store_health.py) names an object in incoming, which is deleted as well.
   - the first time: look again when COPY_GRACE is over, because a copy request may still be under way.
   - COPY_GRACE is over: nothing can come any more, so the row goes.
   - an error: the row stays, and comes again in five minutes.
3. Incoming keys of final files, many in a request: SWEEP_DELAY after the commit, and again 1 h, 1 day
   and 7 days after the file's end, because a PUT that began in time may finish late. A key that the
   store did not delete comes again in five minutes.
   Of a file that came in parts the multipart upload is aborted first, and not before the lease of an assembly under way has ended.
4. Vault objects of deleted files, SWEEP_DELAY after the deletion. A stalled reader makes the store
   hold a DELETE for 30 s; copies go on meanwhile.
5. Rows: files gone for longer than KEEP_ROWS with nothing left of them, idempotency keys older than a day.

SWEEP_DELAY is for a commit that the database loses afterwards, because it fails over to a standby that
lags behind. The row is then `pending`, `verifying` or `ready` again, and the object that it needs must
still be there.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeVar

import structlog

from service import database
from service.object_store import StoreError
from service.queries import sweeping
from service.resources import Resources
from service.telemetry.metrics import SWEPT

BATCH: Final = 100
KEYS_A_REQUEST: Final = 500
AT_ONCE: Final = 8
DELETE_SECONDS: Final = 45  # longer than the 30 s for which a stalled reader blocks it

LONGEST_SECONDS: Final = 240
"""Less than the five minutes after which what failed comes again."""

Leftover = TypeVar("Leftover")
log = structlog.get_logger()


class Swept(NamedTuple):
    """Of one batch."""

    taken: int
    removed: int


async def sweep(resources: Resources) -> int:
    """Sweep until nothing is due; how many leftovers were removed. Raises what the database raises when it is away."""
    outcomes = await asyncio.gather(
        sweep_reservations(resources), sweep_files(resources), return_exceptions=True
    )
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    await sweeping.forget_files(resources.pool, BATCH, resources.settings.keep_rows)
    await sweeping.forget_idempotency_keys(resources.pool, BATCH)
    return sum(outcome for outcome in outcomes if isinstance(outcome, int))


async def sweep_reservations(resources: Resources) -> int:
    """Steps 1 and 2."""

    async def sweep_batch() -> Swept:
        ended = await sweeping.doom_ended_reservations(resources.pool, BATCH)
        batch = await sweeping.claim_doomed_reservations(
            resources.pool, BATCH, resources.settings.copy_grace
        )
        return Swept(
            ended + len(batch), await sweep_each(resources, batch, sweep_doomed_reservation)
        )

    return await repeat(sweep_batch)


async def sweep_files(resources: Resources) -> int:
    """Steps 3 and 4, one after the other: a deleted file is due in both, and who finds its row locked passes it over."""

    async def sweep_incoming_batch() -> Swept:
        keys = await sweeping.claim_incoming_keys(
            resources.pool, KEYS_A_REQUEST, resources.settings.sweep_delay
        )
        whole = [left for left in keys if left.upload_id is None]
        cut = [left for left in keys if left.upload_id is not None]
        return Swept(
            len(keys),
            await sweep_incoming_keys(resources, whole)
            + await sweep_each(resources, cut, sweep_multipart_upload),
        )

    async def sweep_object_batch() -> Swept:
        batch = await sweeping.claim_deleted_objects(
            resources.pool, BATCH, resources.settings.sweep_delay
        )
        return Swept(len(batch), await sweep_each(resources, batch, sweep_deleted_object))

    return await repeat(sweep_incoming_batch) + await repeat(sweep_object_batch)


async def repeat(sweep_batch: Callable[[], Awaitable[Swept]]) -> int:
    """Batch after batch until nothing is due; how many were removed. It ends before a row that failed can come again."""
    begun_at, removed = time.monotonic(), 0
    while time.monotonic() - begun_at < LONGEST_SECONDS:
        swept = await sweep_batch()
        removed += swept.removed
        if swept.taken == 0:
            break
    return removed


async def sweep_each(
    resources: Resources,
    batch: Sequence[Leftover],
    sweep_one: Callable[[Resources, Leftover], Awaitable[None]],
) -> int:
    """Several at once; one that fails is logged and comes again. How many did not."""
    places = asyncio.Semaphore(AT_ONCE)

    async def sweep_in_turn(leftover: Leftover) -> bool:
        async with places:
            try:
                await sweep_one(resources, leftover)
            except (StoreError, *database.UNREACHABLE) as error:
                log.warning(
                    "leftover stays",
                    what=sweep_one.__name__,
                    error=str(error) or type(error).__name__,
                )
                return False
            return True

    return sum(await asyncio.gather(*(sweep_in_turn(leftover) for leftover in batch)))


async def sweep_doomed_reservation(
    resources: Resources, reservation: sweeping.DoomedReservation
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


async def sweep_incoming_keys(resources: Resources, keys: Sequence[sweeping.LeftKey]) -> int:
    """How many the store deleted."""
    if not keys:
        return 0
    try:
        failed = set(
            await resources.incoming.delete_many(
                [left.incoming_key for left in keys], timeout_seconds=DELETE_SECONDS
            )
        )
        await sweeping.mark_incoming_swept(
            resources.pool, [left.id for left in keys if left.incoming_key not in failed]
        )
    except (StoreError, *database.UNREACHABLE) as error:
        log.warning(
            "leftover stays", what="sweep_incoming_keys", error=str(error) or type(error).__name__
        )
        return 0
    SWEPT.labels("incoming").inc(len(keys) - len(failed))
    return len(keys) - len(failed)


async def sweep_multipart_upload(resources: Resources, left: sweeping.LeftKey) -> None:
    """Parts that were never assembled, and the object of those that were."""
    await resources.incoming.abort_upload(left.incoming_key, left.upload_id or "")
    await resources.incoming.delete(left.incoming_key, timeout_seconds=DELETE_SECONDS)
    await sweeping.mark_incoming_swept(resources.pool, [left.id])
    SWEPT.labels("incoming").inc()


async def sweep_deleted_object(resources: Resources, left: sweeping.DeletedObject) -> None:
    await resources.vault.delete(str(left.minio_object_name), timeout_seconds=DELETE_SECONDS)
    await sweeping.mark_purged(resources.pool, left.id)
    SWEPT.labels("object").inc()
