"""Verification: check, copy, hash, commit.

One claim has one vault key and at most one request that writes to it.

The steps 1 to 4 below are those of a large file. A file of at most 1 MiB is read into memory,
hashed, and written to the vault instead (service/worker/small_files.py).

Every statement requires the claim's lease and an unproved state. If a statement updates no row, the
claim is lost.

1. Check: send a HEAD request for the incoming key, after the claim.
   - There is no object, and the grace period was over at the claim: the file becomes `expired`. The
     same statement deletes the reservation.
   - There is no object, and the grace period was not over: the file goes back to `pending` and is
     due after the next interval of the schedule. The same statement deletes the reservation. If an
     arrival was recorded after the claim, the file is due again at once.
   - The store reports that the object is permanently unreadable: the file becomes `rejected`
     (`unverifiable`).
   - Any other error: failure before writing.
   - There is an object, and the claim was a look (`Work.LOOK`): the file becomes `verifying` and is
     due again at once. The same statement deletes the reservation. The next claim takes a slot for
     verifications, so that a large object cannot occupy a slot for looks.
2. Compare size and content type with the declaration. If one of them differs, the file becomes
   `rejected` with that reason, and nothing is copied.
   - The size differs, and a read of the object gives another number of bytes than HEAD reported:
     failure before writing. (MinIO reports a wrong length for an object to which a client has given
     the headers of an encrypted one.)
3. Copy the object to the vault under the reserved key. The request carries the ETag just seen, if a
   condition can name it. (A client can choose the ETag on an old MinIO.) It is sent before the
   first lease period is over. An object above 5 GiB is copied in parts (service/worker/copying.py).
   - It is too late to send the request, the object changed (412), or it is missing (404): failure
     before writing. The store is not at fault.
   - The store refused the request: failure before writing. Nothing was written and nothing will be.
   - The object is permanently unreadable: the file becomes `rejected` (`unverifiable`). This
     refusal is certain as well.
   - Any other error: failure after writing, because the request may take effect at any later time.
4. Hash the copy, with `If-Match` of the copy's ETag.
   - The read fails, ends early, or has a length other than that of the object: failure after
     copying.
5. Commit, once. The statement requires that the reservation is not doomed, locks it, and compares
   what was declared with what was proved.
   - They match: the file becomes `ready` and names the object. The sweeper deletes the incoming
     object.
   - They differ for the first time: the statement dooms the reservation and makes the file due
     again, because one wrong read must not blame the client.
   - They differ, and the digest is the same as before: the file becomes `rejected`, and the
     statement dooms the reservation.
   - No row was updated, the statement failed, or its response was lost: none of these proves
     anything. Failure after writing.

Failure before writing: delete the reservation, then settle the failure.

Failure after writing: doom the reservation, then settle the failure. Delete the object only if the
doom updated a row. (Otherwise the commit may have succeeded, and the object belongs to the file.)
If one of these steps fails, the sweeper does the rest after the lease has expired.

Settle the failure (service/worker/store_health.py has the probe):

- It is the first consecutive failure both of the file and of the store: release the lease for a
  short wait.
- Otherwise, probe the store.
  - The probe fails: release the lease for the worker's own wait of at most ten seconds.
  - The probe succeeds: the failure belongs to this file. The file backs off with each attempt, and
    no other file does.
  - The probe succeeds, and a read of the incoming object itself had failed: the statement that
    releases the lease also counts the failed read. It rejects the file (`unverifiable`) after
    UNVERIFIABLE_READS of them over at least UNVERIFIABLE_AFTER. A failed copy of a readable source
    is not counted, because the vault may be full.

While the steps run, a heartbeat extends the lease in both tables. If the lease is lost, hashing
stops, and the claim ends with failure after writing.

Unexpected exception: end with failure after writing, shielded from cancellation, so that another
worker can claim the file.

Cancellation at shutdown: do the same, but leave the deletion to the sweeper, because a store that
does not answer would delay the shutdown.

See docs/architecture.md, "5. Verify" and "6. Commit".
"""

import asyncio
import contextlib
import functools
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from datetime import timedelta
from typing import Final

import structlog

from service import clock, database
from service.database.heartbeat import extending
from service.model import UNPROVED, Claim, File, Rejection, Sha256, State, Work
from service.object_store import (
    Bucket,
    ObjectMissing,
    ObjectUnreadable,
    RequestRefused,
    SentTooLate,
    StoredObject,
    StoreError,
    StoreUnavailable,
)
from service.queries import claims, reservations, verdicts
from service.resources import WorkerResources
from service.telemetry.metrics import (
    ARRIVALS,
    FAILED_READS,
    STORE_RETRIES,
    VERIFICATION_SECONDS,
    VERIFIED_BYTES,
)
from service.telemetry.transitions import report_transition
from service.worker.copying import LeaseLost, copy_object
from service.worker.proofs import EXCULPATED, NotVerified, Proof, compare, unverifiable
from service.worker.small_files import prove_small_file, takes_memory
from service.worker.store_health import PROBE_AFTER, StoreHealth

CHUNK_BYTES: Final = 1024 * 1024
AT_ONCE: Final = timedelta(0)
log = structlog.get_logger()


async def verify(
    resources: WorkerResources,
    claim: Claim,
    *,
    claimed_at: float,
    hashing: Executor,
    health: StoreHealth,
) -> None:
    """Run the protocol above for one claim, including the branches for failure.

    `claimed_at` is the time of `clock` before the claim was sent.
    """
    try:
        await prove(resources, claim, claimed_at=claimed_at, hashing=hashing)
    except NotVerified as failure:
        await asyncio.shield(give_up(resources, claim, failure, health=health))
    except (LeaseLost, *database.UNREACHABLE) as error:
        await asyncio.shield(
            give_up_after_writing(resources, claim, error, retry_in=health.retry_in)
        )
    except asyncio.CancelledError:
        await asyncio.shield(
            give_back(resources, claim, "the worker was stopped", retry_in=health.retry_in)
        )
        raise
    except BaseException as error:  # a defect, which may occur again with each attempt
        await asyncio.shield(
            give_up_after_writing(resources, claim, error, retry_in=next_look(claim.attempts))
        )
        raise
    else:
        health.note_success()


async def prove(
    resources: WorkerResources, claim: Claim, *, claimed_at: float, hashing: Executor
) -> None:
    """Run steps 1 to 5 of the protocol above, while a heartbeat extends the lease.

    Raises NotVerified, LeaseLost, and the errors in database.UNREACHABLE.
    """
    lease = resources.settings.lease
    extend = functools.partial(claims.extend_lease, resources.pool, claim, lease)
    async with extending(extend, lease=lease, file_id=claim.id) as heartbeat:
        stopped = heartbeat.ended
        try:
            proof = await prove_object(
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
    VERIFICATION_SECONDS.observe(clock.read_seconds() - claimed_at)
    VERIFIED_BYTES.inc(proof.size)


async def prove_object(
    resources: WorkerResources,
    claim: Claim,
    *,
    claimed_at: float,
    hashing: Executor,
    stopped: threading.Event,
) -> Proof | None:
    """Prove the object in the way for its size, and return the proof.

    Return None if this claim writes nothing into the vault. Raises NotVerified and LeaseLost.
    """
    if takes_memory(claim):
        send_before = claimed_at + resources.settings.lease.total_seconds()
        try:
            found = await prove_small_file(resources, claim, send_before=send_before)
        except StoreError as error:
            await settle_unread(resources, claim, error)
            return None
        if isinstance(found, Rejection):
            await reject(resources, claim, found)
            return None
        if found is not None:
            return found
    return await read_copy(
        resources, claim, claimed_at=claimed_at, hashing=hashing, stopped=stopped
    )


async def read_copy(
    resources: WorkerResources,
    claim: Claim,
    *,
    claimed_at: float,
    hashing: Executor,
    stopped: threading.Event,
) -> Proof | None:
    """Run steps 1 to 4 of the protocol above and return what they proved.

    Return None if this claim makes no copy. Raises NotVerified and LeaseLost.
    """
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
        raise NotVerified(error, written=True) from error


async def fails_to_read(
    resources: WorkerResources, claim: Claim, *, hashing: Executor, stopped: threading.Event
) -> bool:
    """Return whether a read of the incoming object fails.

    Return False for a missing object, because its file will expire and needs no verdict.
    """
    run = asyncio.get_running_loop().run_in_executor
    try:
        await run(hashing, read_source, resources.incoming, claim, stopped)
    except ObjectMissing:
        return False
    except StoreError:
        return True
    return False


def read_source(incoming: Bucket, claim: Claim, stopped: threading.Event) -> int:
    """Read the incoming object in the caller's thread, and return the number of bytes read.

    Raises StoreError and LeaseLost.
    """
    size = 0
    with incoming.open(claim.incoming_key, etag=None) as reader:
        while chunk := reader.read(CHUNK_BYTES):
            size += len(chunk)
            if stopped.is_set():
                raise LeaseLost("the lease was lost during the read of the source")
    return size


async def look(
    resources: WorkerResources, claim: Claim, *, hashing: Executor, stopped: threading.Event
) -> StoredObject | None:
    """Run steps 1 and 2 of the protocol above and return the incoming object.

    Return None if this claim makes no copy. Raises NotVerified.
    """
    try:
        seen = await resources.incoming.head(claim.incoming_key)
    except StoreError as error:
        await settle_unread(resources, claim, error)
        return None
    if claim.work == Work.LOOK:
        await announce(resources, claim)
        return None
    if seen.size != claim.size:
        await confirm_size(resources, claim, seen, hashing=hashing, stopped=stopped)
    mismatch = compare(claim, seen)
    if mismatch is not None:
        await reject(resources, claim, mismatch)
        return None
    return seen


async def confirm_size(
    resources: WorkerResources,
    claim: Claim,
    seen: StoredObject,
    *,
    hashing: Executor,
    stopped: threading.Event,
) -> None:
    """Read the object to confirm the size that HEAD reported.

    Raises NotVerified if the read fails or gives another number of bytes.
    """
    run = asyncio.get_running_loop().run_in_executor
    try:
        size = await run(hashing, read_source, resources.incoming, claim, stopped)
        if size != seen.size:
            raise StoreUnavailable(f"HEAD reported {seen.size} bytes, but a read gave {size}")
    except StoreError as error:
        raise NotVerified(error, written=False) from error


async def settle_unread(resources: WorkerResources, claim: Claim, error: StoreError) -> None:
    """Settle a claim whose first request for the object failed. Raises NotVerified."""
    if isinstance(error, ObjectMissing):
        await settle_missing(resources, claim)
    elif isinstance(error, ObjectUnreadable):
        await reject(resources, claim, unverifiable(error))
    else:
        raise NotVerified(error, written=False) from error


async def settle_missing(resources: WorkerResources, claim: Claim) -> None:
    if claim.grace_over:
        finish(resources, await verdicts.expire_file(resources.pool, claim))
        return
    state = await claims.return_to_pending(resources.pool, claim, next_look(claim.attempts))
    if state == State.VERIFYING:  # an arrival came after the claim
        resources.notifications.notify_work()
    elif state is not None and claim.state != state:
        resources.notifications.notify_change(claim.id)


async def announce(resources: WorkerResources, claim: Claim) -> None:
    """Record that the worker's own check found the object before any report of its arrival."""
    if await claims.announce_found(resources.pool, claim):
        ARRIVALS.labels("sweep").inc()
        resources.notifications.notify_work()
        resources.notifications.notify_change(claim.id)


def next_look(attempts: int) -> timedelta:
    """Return the delay before the next check of a file without an arrival report.

    The delay starts from one minute and grows by half with each attempt, to at most ten minutes.
    """
    return timedelta(seconds=min(60 * 1.5 ** min(attempts, 10), 600))


def back_off(attempts: int) -> timedelta:
    """Return the wait after a file-specific failure. Each attempt doubles it, from 10 s to 10 min.

    It starts short, because an outage of the store may have ended between the failure and the
    probe.
    """
    return timedelta(seconds=min(5 * 2 ** min(attempts, 10), 600))


async def reject(resources: WorkerResources, claim: Claim, rejection: Rejection) -> None:
    """Reject the file. No copy request may have been sent, because the reservation is deleted."""
    finish(resources, await verdicts.reject_file(resources.pool, claim, rejection))


async def copy(
    resources: WorkerResources,
    claim: Claim,
    seen: StoredObject,
    *,
    send_before: float,
    stopped: threading.Event,
) -> str | None:
    """Step 3 of the protocol above: copy the object and return the copy's ETag.

    Return None if the object is permanently unreadable; the file is then rejected. Raises
    NotVerified.
    """
    try:
        return await copy_object(resources, claim, seen, send_before=send_before, stopped=stopped)
    except ObjectUnreadable as error:
        await reject(resources, claim, unverifiable(error))
        return None
    except StoreError as error:
        refused = isinstance(error, (*EXCULPATED, RequestRefused))
        raise NotVerified(error, written=not refused) from error


def hash_copy(
    vault: Bucket, claim: Claim, etag: str, length: int, stopped: threading.Event
) -> Proof:
    """Step 4 of the protocol above: hash the copy in the caller's thread, in constant memory.

    Raises LeaseLost and StoreError. A copy whose length differs from `length` is a StoreError too.
    """
    digest, size = hashlib.sha256(), 0
    with vault.open(str(claim.vault_key), etag=etag) as reader:
        if reader.content_length != length:
            raise StoreUnavailable(f"the copy of {length} bytes has {reader.content_length} bytes")
        while chunk := reader.read(CHUNK_BYTES):
            if stopped.is_set():
                raise LeaseLost("the lease was lost during hashing")
            digest.update(chunk)
            size += len(chunk)
    return Proof(size, Sha256(digest.digest()), etag)


async def commit(resources: WorkerResources, claim: Claim, proof: Proof) -> None:
    """Step 5 of the protocol above: commit, and report the outcome within this process.

    Raises LeaseLost, and the errors in database.UNREACHABLE.
    """
    file = await verdicts.commit_verification(
        resources.pool, claim, size=proof.size, sha256=proof.sha256, etag=proof.etag
    )
    if file is None:
        raise LeaseLost("the claim was lost before the commit")
    if file.state in UNPROVED:
        log.warning(
            "copy does not match", file_id=str(claim.id), sha256=str(proof.sha256), bytes=proof.size
        )
        resources.notifications.notify_work()
        resources.notifications.notify_leftovers()
        return
    finish(resources, file)


def finish(resources: WorkerResources, file: File | None) -> None:
    """Report a file that a commit has made final. If it is None, the claim was lost: do nothing."""
    if file is not None:
        resources.notifications.notify_change(file.id)
        resources.notifications.notify_leftovers()
        report_transition(file)


async def give_up(
    resources: WorkerResources, claim: Claim, failure: NotVerified, *, health: StoreHealth
) -> None:
    """Run the branch for a failure before or after writing, as the protocol above describes."""
    doomed = False
    with logged_when_unreachable(claim):
        if failure.written:
            doomed = await reservations.doom_reservation(
                resources.pool, claim.vault_key, claim.lease
            )
        else:
            await reservations.forget_reservation(resources.pool, claim.vault_key, claim.lease)
        await settle_failure(resources, claim, failure, health=health)
    if doomed:
        await delete_copy(resources, claim)


async def settle_failure(
    resources: WorkerResources, claim: Claim, failure: NotVerified, *, health: StoreHealth
) -> None:
    """Settle the failure, as the protocol above describes.

    The lease is released, and the failure is counted against the object or the store.
    """
    if isinstance(failure.cause, EXCULPATED):
        if not isinstance(failure.cause, SentTooLate):
            health.note_success()  # the store has answered as it should
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
    resources: WorkerResources, claim: Claim, failure: NotVerified, *, retry_in: timedelta
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


async def count_failed_read(resources: WorkerResources, claim: Claim, failure: NotVerified) -> None:
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
        finish(resources, file)


async def give_up_after_writing(
    resources: WorkerResources, claim: Claim, error: BaseException, *, retry_in: timedelta
) -> None:
    """Run the branch "failure after writing" for a cause other than the store or the object."""
    if await give_back(resources, claim, str(error) or type(error).__name__, retry_in=retry_in):
        await delete_copy(resources, claim)


async def delete_copy(resources: WorkerResources, claim: Claim) -> None:
    """Delete the object of a doomed reservation. If this fails, the sweeper does it later."""
    with contextlib.suppress(StoreError):
        await resources.vault.delete(str(claim.vault_key))


async def give_back(
    resources: WorkerResources, claim: Claim, error: str, *, retry_in: timedelta
) -> bool:
    """Doom the reservation and release the lease. Return whether the reservation was doomed."""
    log.warning(
        "verification abandoned",
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
    """Suppress and log the errors of an unavailable database. The lease then expires."""
    try:
        yield
    except database.UNREACHABLE as error:
        log.warning("lease not released", file_id=str(claim.id), error=type(error).__name__)
