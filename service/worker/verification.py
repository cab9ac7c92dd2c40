"""Verification: check, copy, hash, commit. One claim, one vault key, at most one copy request.

Every statement requires the claim's lease and an unproved state. A statement that updates no row shows that the claim is lost.

1. Check: HEAD the incoming key, after the claim.
   - Nothing is there and the grace period was over at the claim: `expired`; the reservation is deleted in the same statement.
   - Nothing is there and the grace period was not over: back to `pending` with the next interval of the schedule; the reservation is
     deleted in the same statement. If an arrival was reported after the claim, the file is due again at once.
   - The store reports that the object is unreadable for good: `rejected`, `unverifiable`.
   - Any other error: failure before copying.
2. Compare size and content type with the declaration. A difference: `rejected` with that reason, nothing is copied.
   - Another size, and a read of the object does not give as many bytes as HEAD said: failure before copying. (MinIO reports a wrong length
     for an object to which a client has given the headers of an encrypted one.)
3. Copy incoming to the vault under the reserved key. The request carries the ETag just seen, if a condition can name it (a client can
   choose the ETag on an old MinIO). It is sent before the first lease period is over; above 5 GiB in parts (service/worker/copying.py).
   - Too late to send, the object changed (412), or it is missing (404): failure before copying, the store is not at fault.
   - The request was refused: failure before copying. Nothing was written and nothing will be.
   - Unreadable for good: `rejected`, `unverifiable`; the refusal is certain as well.
   - Any other error: failure after copying, because the request may take effect at any later time.
4. Hash the copy, with If-Match of the copy's ETag. An error, an early end, or another length than the object's: failure after copying.
5. Commit, once: the reservation is locked and not doomed, and the statement compares what was declared with what was proved.
   - `ready`: the object is the file's. The sweeper deletes the incoming object.
   - A mismatch for the first time: the statement dooms the reservation and makes the file due again. One wrong read blames no client.
   - A mismatch with the same digest as before: `rejected`; the statement dooms the reservation.
   - No row, an error, a lost answer: none of them proves anything. Failure after copying.

Failure before copying: delete the reservation, then settle the failure.
Failure after copying: doom the reservation, then settle the failure. The object may be deleted only if the doom updated
a row: otherwise the commit may have succeeded, and the object is the file's. Each step that fails is left to the sweeper,
after the lease has ended.

Settle the failure (service/worker/store_health.py has the probe):
   - The file's first failure in a row, and the store's: give the lease back for a short wait.
   - Otherwise probe the store. The probe fails: give the lease back for the worker's own wait, at most ten seconds.
   - The probe succeeds: the failure belongs to this file. It backs off with its attempts, and no other file does.
   - The probe succeeds, and a read of the incoming object itself had failed: the statement that gives the lease back also counts the failed
     read, and rejects the file (`unverifiable`) after UNVERIFIABLE_READS of them over at least UNVERIFIABLE_AFTER. A copy that fails while
     the source can be read counts nothing: the vault may be full.

While steps 3 to 5 run, the lease is extended in both tables. If it is lost, the hash stops, and the claim ends as after a failed copy.
Unexpected exception: end as after a failed copy, shielded from cancellation, so that another worker can claim the file.
Cancellation at shutdown: the same, but the deletion is left to the sweeper, because a store that does not answer would delay the shutdown.
"""

import asyncio
import contextlib
import functools
import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from datetime import timedelta
from typing import Final

import msgspec
import structlog

from service import database
from service.database.heartbeat import extending
from service.model import UNPROVED, Claim, File, Rejection, RejectionReason, Sha256, State
from service.object_store import (
    Bucket,
    ObjectChanged,
    ObjectMissing,
    ObjectUnreadable,
    RequestRefused,
    SentTooLate,
    StoredObject,
    StoreError,
    StoreUnavailable,
)
from service.queries import claims, reservations, verdicts
from service.resources import Resources
from service.telemetry.metrics import (
    ARRIVALS,
    FAILED_READS,
    STORE_RETRIES,
    VERIFICATION_SECONDS,
    VERIFIED_BYTES,
)
from service.telemetry.transitions import report_transition
from service.worker.copying import LeaseLost, copy_object
from service.worker.store_health import PROBE_AFTER, StoreHealth

CHUNK_BYTES: Final = 1024 * 1024
AT_ONCE: Final = timedelta(0)
EXCULPATED: Final = (SentTooLate, ObjectChanged, ObjectMissing)
"""Failures of a copy that show no fault of the store or the object: the object is another one by now, or nothing was sent."""

log = structlog.get_logger()


class Proof(msgspec.Struct, frozen=True):
    """What was read back from the vault."""

    size: int
    sha256: Sha256
    etag: str


class NotVerified(Exception):  # it is an outcome of a claim
    """The end of a claim without a verdict, because of the store or the object.

    `copied`: a copy request may have been sent, so the reservation must be doomed. `source_failed`:
    a read of the incoming object itself failed.
    """

    def __init__(self, cause: StoreError, *, copied: bool, source_failed: bool = False) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.copied = copied
        self.source_failed = source_failed


async def verify(
    resources: Resources, claim: Claim, *, claimed_at: float, hashing: Executor, health: StoreHealth
) -> None:
    """Bring one claim to its end.

    `claimed_at` is a `time.monotonic()` from before the claim was sent.
    """
    try:
        await prove(resources, claim, claimed_at=claimed_at, hashing=hashing)
    except NotVerified as failure:
        await asyncio.shield(give_up(resources, claim, failure, health=health))
    except (LeaseLost, *database.UNREACHABLE) as error:
        await asyncio.shield(
            give_up_after_copying(resources, claim, error, retry_in=health.retry_in)
        )
    except asyncio.CancelledError:
        await asyncio.shield(
            give_back(resources, claim, "the worker was stopped", retry_in=health.retry_in)
        )
        raise
    except BaseException as error:  # a defect, which may occur again with each attempt
        await asyncio.shield(
            give_up_after_copying(resources, claim, error, retry_in=next_look(claim.attempts))
        )
        raise
    else:
        health.note_success()


async def prove(
    resources: Resources, claim: Claim, *, claimed_at: float, hashing: Executor
) -> None:
    """Steps 1 to 5. Raises NotVerified, LeaseLost, and what the database raises."""
    lease = resources.settings.lease
    extend = functools.partial(claims.extend_lease, resources.pool, claim, lease)
    async with extending(extend, lease=lease, held_since=claimed_at, file_id=claim.id) as heartbeat:
        stopped = heartbeat.ended
        try:
            proof = await read_copy(
                resources, claim, claimed_at=claimed_at, hashing=hashing, stopped=stopped
            )
        except NotVerified as failure:
            if claim.failed_before and not isinstance(failure.cause, EXCULPATED):
                failure.source_failed = await fails_to_read(
                    resources, claim, hashing=hashing, stopped=stopped
                )
            raise
        if proof is None:
            return
        await commit(resources, claim, proof)
    VERIFICATION_SECONDS.observe(time.monotonic() - claimed_at)
    VERIFIED_BYTES.inc(proof.size)


async def read_copy(
    resources: Resources,
    claim: Claim,
    *,
    claimed_at: float,
    hashing: Executor,
    stopped: threading.Event,
) -> Proof | None:
    """Steps 1 to 4. Return None if the file is settled without a copy. Raises NotVerified, LeaseLost."""
    seen = await look(resources, claim, hashing=hashing, stopped=stopped)
    if seen is None:
        return None
    send_before = claimed_at + resources.settings.lease.total_seconds()
    etag = await copy(resources, claim, seen, send_before=send_before, stopped=stopped)
    if etag is None:
        return None
    run = asyncio.get_running_loop().run_in_executor
    try:
        return await run(hashing, hash_copy, resources.vault, claim, etag, seen.size, stopped)
    except StoreError as error:
        raise NotVerified(error, copied=True) from error


async def fails_to_read(
    resources: Resources, claim: Claim, *, hashing: Executor, stopped: threading.Event
) -> bool:
    """Return whether the incoming object cannot be read to its end. An object that is missing can be: its file expires."""
    run = asyncio.get_running_loop().run_in_executor
    try:
        await run(hashing, read_source, resources.incoming, claim, stopped)
    except ObjectMissing:
        return False
    except StoreError:
        return True
    return False


def read_source(incoming: Bucket, claim: Claim, stopped: threading.Event) -> int:
    """Read the incoming object in the caller's thread, and return how many bytes it gives. Raises StoreError, LeaseLost."""
    size = 0
    with incoming.open(claim.incoming_key, etag=None) as reader:
        while chunk := reader.read(CHUNK_BYTES):
            size += len(chunk)
            if stopped.is_set():
                raise LeaseLost("the lease was lost while the source was read")
    return size


async def look(
    resources: Resources, claim: Claim, *, hashing: Executor, stopped: threading.Event
) -> StoredObject | None:
    """Steps 1 and 2: return the incoming object, or None if the file is settled without a copy. Raises NotVerified."""
    try:
        seen = await resources.incoming.head(claim.incoming_key)
    except ObjectMissing:
        await settle_missing(resources, claim)
        return None
    except ObjectUnreadable as error:
        await reject(resources, claim, unverifiable(error))
        return None
    except StoreError as error:
        raise NotVerified(error, copied=False) from error
    if seen.size != claim.size:
        await confirm_size(resources, claim, seen, hashing=hashing, stopped=stopped)
    mismatch = compare(claim, seen)
    if mismatch is not None:
        await reject(resources, claim, mismatch)
        return None
    return seen


async def confirm_size(
    resources: Resources,
    claim: Claim,
    seen: StoredObject,
    *,
    hashing: Executor,
    stopped: threading.Event,
) -> None:
    """Read the object. Raises NotVerified if that fails, or if it gives another number of bytes than HEAD said."""
    run = asyncio.get_running_loop().run_in_executor
    try:
        size = await run(hashing, read_source, resources.incoming, claim, stopped)
        if size != seen.size:
            raise StoreUnavailable(f"HEAD says {seen.size} bytes, a read gives {size}")
    except StoreError as error:
        raise NotVerified(error, copied=False) from error


async def settle_missing(resources: Resources, claim: Claim) -> None:
    if claim.grace_over:
        finish(resources, await verdicts.expire_file(resources.pool, claim))
        return
    state = await claims.return_to_pending(resources.pool, claim, next_look(claim.attempts))
    if state == State.VERIFYING:  # an arrival came after the claim
        resources.notifications.notify_work()
    elif state is not None and claim.state != state:
        resources.notifications.notify_change(claim.id)


def next_look(attempts: int) -> timedelta:
    """How long a file that nobody announced may wait: from a minute on, each time by half as much again, up to ten."""
    return timedelta(seconds=min(60 * 1.5 ** min(attempts, 10), 600))


def back_off(attempts: int) -> timedelta:
    """Return the wait after a failure that is the file's own: doubled by each attempt, from 10 s to 10 min.

    It starts short, because an outage of the store may have ended between the failure and the probe.
    """
    return timedelta(seconds=min(5 * 2 ** min(attempts, 10), 600))


def compare(claim: Claim, seen: StoredObject) -> Rejection | None:
    """The fences that need no bytes. A type that was not declared is not compared."""
    if seen.size != claim.size:
        return Rejection(
            RejectionReason.SIZE_MISMATCH, f"declared {claim.size} bytes, received {seen.size}"
        )
    if claim.content_type is not None and seen.content_type != claim.content_type:
        return Rejection(
            RejectionReason.CONTENT_TYPE_MISMATCH,
            f"declared {claim.content_type}, received {seen.content_type[:200]}",
        )
    return None


def unverifiable(error: StoreError) -> Rejection:
    return Rejection(
        RejectionReason.UNVERIFIABLE,
        f"the store cannot read the object ({error.code or error.status})",
    )


async def reject(resources: Resources, claim: Claim, rejection: Rejection) -> None:
    """Without a copy."""
    finish(resources, await verdicts.reject_file(resources.pool, claim, rejection), found=claim)


async def copy(
    resources: Resources,
    claim: Claim,
    seen: StoredObject,
    *,
    send_before: float,
    stopped: threading.Event,
) -> str | None:
    """Step 3: return the ETag of the copy, or None if the file is rejected because it is unreadable for good. Raises NotVerified."""
    try:
        return await copy_object(resources, claim, seen, send_before=send_before, stopped=stopped)
    except ObjectUnreadable as error:
        await reject(resources, claim, unverifiable(error))
        return None
    except StoreError as error:
        refused = isinstance(error, (*EXCULPATED, RequestRefused))
        raise NotVerified(error, copied=not refused) from error


def hash_copy(
    vault: Bucket, claim: Claim, etag: str, length: int, stopped: threading.Event
) -> Proof:
    """Step 4, in a thread of its own: return the copy's digest and size, in constant memory.

    Raises StoreError, also for a copy whose length is not that of the object it was made of, and LeaseLost.
    """
    digest, size = hashlib.sha256(), 0
    with vault.open(str(claim.vault_key), etag=etag) as reader:
        if reader.content_length != length:
            raise StoreUnavailable(f"the copy of {length} bytes has {reader.content_length}")
        while chunk := reader.read(CHUNK_BYTES):
            if stopped.is_set():
                raise LeaseLost("the lease was lost while hashing")
            digest.update(chunk)
            size += len(chunk)
    return Proof(size, Sha256(digest.digest()), etag)


async def commit(resources: Resources, claim: Claim, proof: Proof) -> None:
    """Step 5. Raises LeaseLost, and what the database raises."""
    file = await verdicts.commit_verification(
        resources.pool, claim, size=proof.size, sha256=proof.sha256, etag=proof.etag
    )
    if file is None:
        raise LeaseLost("the commit found the claim lost")
    if file.state in UNPROVED:
        log.warning(
            "copy does not match", file_id=str(claim.id), sha256=str(proof.sha256), bytes=proof.size
        )
        resources.notifications.notify_work()
        resources.notifications.notify_leftovers()
        return
    finish(resources, file, found=claim)


def finish(resources: Resources, file: File | None, *, found: Claim | None = None) -> None:
    """After a commit that made the file final; None: somebody else was first. `found`: something lay there at this claim's look."""
    if file is not None:
        if found is not None and found.state == State.PENDING:
            ARRIVALS.labels("sweep").inc()  # neither event nor complete came before our own look
        resources.notifications.notify_change(file.id)
        resources.notifications.notify_leftovers()
        report_transition(file)


async def give_up(
    resources: Resources, claim: Claim, failure: NotVerified, *, health: StoreHealth
) -> None:
    """Failure before or after copying, and its settlement."""
    doomed = False
    with logged_when_unreachable(claim):
        if failure.copied:
            doomed = await reservations.doom_reservation(
                resources.pool, claim.vault_key, claim.lease
            )
        else:
            await reservations.forget_reservation(resources.pool, claim.vault_key, claim.lease)
        await settle_failure(resources, claim, failure, health=health)
    if doomed:
        await delete_copy(resources, claim)


async def settle_failure(
    resources: Resources, claim: Claim, failure: NotVerified, *, health: StoreHealth
) -> None:
    """Give the lease back; count the failure against the object or the store."""
    if isinstance(failure.cause, EXCULPATED):
        if not isinstance(failure.cause, SentTooLate):
            health.note_success()  # the store has answered
        await release(
            resources,
            claim,
            failure,
            retry_in=next_look(claim.attempts) if claim.failed_before else AT_ONCE,
        )
        return
    health.note_failure()
    STORE_RETRIES.inc()
    if (not claim.failed_before and health.failures < PROBE_AFTER) or not await health.probe():
        await release(resources, claim, failure, retry_in=health.retry_in)
    elif failure.source_failed:
        await count_failed_read(resources, claim, failure)
    else:
        await release(resources, claim, failure, retry_in=back_off(claim.attempts))


async def release(
    resources: Resources, claim: Claim, failure: NotVerified, *, retry_in: timedelta
) -> None:
    log.warning(
        "verification retried",
        file_id=str(claim.id),
        error=str(failure),
        retry_seconds=retry_in.total_seconds(),
    )
    await claims.release_claim(resources.pool, claim, retry_in=retry_in, error=str(failure))
    if retry_in == AT_ONCE:
        resources.notifications.notify_work()


async def count_failed_read(resources: Resources, claim: Claim, failure: NotVerified) -> None:
    FAILED_READS.inc()
    log.warning(
        "upload not readable", file_id=str(claim.id), error=str(failure), attempts=claim.attempts
    )
    file = await verdicts.count_failed_read(
        resources.pool,
        claim,
        retry_in=back_off(claim.attempts),
        error=str(failure),
        most_reads=resources.settings.unverifiable_reads,
        most_time=resources.settings.unverifiable_after,
    )
    if file is not None and file.state == State.REJECTED:
        finish(resources, file, found=claim)


async def give_up_after_copying(
    resources: Resources, claim: Claim, error: BaseException, *, retry_in: timedelta
) -> None:
    """Failure after copying, where the store has nothing to do with it."""
    if await give_back(resources, claim, str(error) or type(error).__name__, retry_in=retry_in):
        await delete_copy(resources, claim)


async def delete_copy(resources: Resources, claim: Claim) -> None:
    """Delete the object of a doomed reservation. A deletion that fails is the sweeper's."""
    with contextlib.suppress(StoreError):
        await resources.vault.delete(str(claim.vault_key))


async def give_back(resources: Resources, claim: Claim, error: str, *, retry_in: timedelta) -> bool:
    """Doom the reservation, then give the lease back; return whether the doom updated a row."""
    log.warning(
        "verification given up",
        file_id=str(claim.id),
        error=error,
        retry_seconds=retry_in.total_seconds(),
    )
    with logged_when_unreachable(claim):
        doomed = await reservations.doom_reservation(resources.pool, claim.vault_key, claim.lease)
        await claims.release_claim(resources.pool, claim, retry_in=retry_in, error=error)
        return doomed
    return False


@contextlib.contextmanager
def logged_when_unreachable(claim: Claim) -> Iterator[None]:
    """Without the database nothing can be given back: the lease ends by itself."""
    try:
        yield
    except database.UNREACHABLE as error:
        log.warning("lease not given back", file_id=str(claim.id), error=type(error).__name__)
