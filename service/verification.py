"""Verification: look, copy, hash, commit. One claim, one vault key, at most one copy request.

Every statement demands the claim's lease and an unproved state; a statement that hits nothing means that the claim is lost.

1. Look: HEAD the incoming key, after the claim.
   - nothing there, grace over at the claim: `expired`, the copies row goes in the same statement.
   - nothing there, grace not over: back to `pending` with the next step, the copies row goes in the same statement;
     if a notice came after the claim: due again at once.
   - the store says for good that it can't be read: `rejected`, `unverifiable`.
   - any other error: give up before copying (a).
2. Compare size and content type with what was declared. Another: `rejected` with that reason, nothing is copied.
3. Copy incoming → vault under the claim's key, with If-Match of the ETag just seen, sent before the first lease period is over; above
   5 GiB in parts (service/copying.py).
   - too late to send; the object changed (412) or went (404); the request was refused: nothing was written and nothing will be: (a).
   - unreadable for good: `rejected`, `unverifiable`: the refusal is certain as well.
   - any other error: the request may take effect at any later time: give up after copying (b).
4. Hash the copy, with If-Match of the copy's ETag. Any error: (b).
5. Commit, once: the copies row is locked and undoomed, declared is compared with proved in the statement.
   - `ready`: the object is the file's; the incoming object falls to the sweeper, which is woken.
   - `rejected`: the same statement has doomed the copy; the sweeper removes it.
   - no row, an error, a lost answer: they prove nothing: (b).

(a) Give up before copying: the copies row goes, then the lease is given back; the next claim has a new key. What is this file's own
    trouble costs it a wait that grows with its attempts, and only its first claim is repeated at once.
(b) Give up after copying: doom the copy. Only if that hit a row may the object be deleted; if it did not, the commit may have won
    and the object is the file's. Then the lease is given back. Each step that fails is the sweeper's, when the lease has ended.
(c) While 3 to 5 run, the lease is extended in both tables. Lost: the hash stops, then (b).
(d) A fault of ours: (b), shielded, so that another worker may go on. Cancelled, because the process stops: the same, but the deletion is
    left to the sweeper: a silent store would keep the process waiting.
"""

import asyncio
import contextlib
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from datetime import timedelta
from typing import Final

import msgspec
import structlog

from service import database
from service.copying import LeaseLost, copy_object
from service.model import Claim, File, Rejection, RejectionReason, Sha256, State
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
from service.queries import claims, copies
from service.resources import Resources
from service.telemetry import NOTICES, STORE_RETRIES, VERIFICATION_SECONDS, VERIFIED_BYTES, report_transition

CHUNK_BYTES: Final = 1024 * 1024
AT_ONCE: Final = timedelta(0)

log = structlog.get_logger()


class Proof(msgspec.Struct, frozen=True):
    """What was read back from the vault."""

    size: int
    sha256: Sha256
    etag: str


class NothingCopied(Exception):  # it says what is so
    """Nothing was written under the vault key, and nothing will be: (a)."""

    def __init__(self, cause: StoreError, *, again_in: timedelta) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.again_in = again_in


async def verify(resources: Resources, claim: Claim, *, claimed_at: float, hashing: Executor, retry_in: timedelta) -> bool:
    """Bring one claim to its end. False: the store was in the way, as it may be in every other file's.

    `claimed_at` is a `time.monotonic()` from before the claim was sent; `retry_in` is the wait after an error of the store.
    """
    try:
        await prove(resources, claim, claimed_at=claimed_at, hashing=hashing, retry_in=retry_in)
    except NothingCopied as error:
        await asyncio.shield(give_up_before_copying(resources, claim, error))
        return not count_outage(error.cause)
    except (StoreError, LeaseLost, *database.UNREACHABLE) as error:
        again_in = next_look(claim.attempts) if isinstance(error, StoreError) and not isinstance(error, StoreUnavailable) else retry_in
        await asyncio.shield(give_up_after_copying(resources, claim, str(error) or type(error).__name__, retry_in=again_in))
        return not count_outage(error)
    except asyncio.CancelledError:
        await asyncio.shield(give_back(resources, claim, "the worker was stopped", retry_in=retry_in))
        raise
    except BaseException as error:  # a fault of ours, which may come again each time
        again_in = next_look(claim.attempts)
        await asyncio.shield(give_up_after_copying(resources, claim, type(error).__name__, retry_in=again_in))
        raise
    return True


def count_outage(error: Exception) -> bool:
    """Whether the store was away, rather than that it answered; then it is counted."""
    away = isinstance(error, StoreUnavailable)
    STORE_RETRIES.inc(int(away))
    return away


async def prove(resources: Resources, claim: Claim, *, claimed_at: float, hashing: Executor, retry_in: timedelta) -> None:
    """Steps 1 to 5."""
    async with extending(resources, claim) as stopped:
        seen = await look(resources, claim, retry_in=retry_in)
        if seen is None:
            return
        send_before = claimed_at + resources.settings.lease.total_seconds()
        etag = await copy(resources, claim, seen, send_before=send_before, stopped=stopped)
        if etag is None:
            return
        proof = await asyncio.get_running_loop().run_in_executor(hashing, hash_copy, resources.vault, claim, etag, stopped)
        await commit(resources, claim, proof)
    VERIFICATION_SECONDS.observe(time.monotonic() - claimed_at)
    VERIFIED_BYTES.inc(proof.size)


async def look(resources: Resources, claim: Claim, *, retry_in: timedelta) -> StoredObject | None:
    """Steps 1 and 2: what lies in incoming, when it is worth a copy."""
    try:
        seen = await resources.incoming.head(claim.incoming_key)
    except ObjectMissing:
        await settle_missing(resources, claim)
        return None
    except ObjectUnreadable as error:
        await reject(resources, claim, unverifiable(error))
        return None
    except StoreError as error:
        raise NothingCopied(error, again_in=retry_in) from error
    mismatch = compare(claim, seen)
    if mismatch is not None:
        await reject(resources, claim, mismatch)
        return None
    return seen


async def settle_missing(resources: Resources, claim: Claim) -> None:
    if claim.grace_over:
        finish(resources, await claims.expire_file(resources.pool, claim))
        return
    state = await claims.return_to_pending(resources.pool, claim, next_look(claim.attempts))
    if state == State.VERIFYING:  # a notice came after the claim
        resources.signals.give_work()
    elif state is not None and claim.state != state:
        resources.signals.give_change(claim.id)


def next_look(attempts: int) -> timedelta:
    """How long a file that nobody announced may wait: from a minute on, each time by half as much again, up to ten."""
    return timedelta(seconds=min(60 * 1.5 ** min(attempts, 10), 600))


def compare(claim: Claim, seen: StoredObject) -> Rejection | None:
    """The fences that need no bytes. A type that was not declared is not compared."""
    if seen.size != claim.size:
        return Rejection(RejectionReason.SIZE_MISMATCH, f"declared {claim.size} bytes, received {seen.size}")
    if claim.content_type is not None and seen.content_type != claim.content_type:
        return Rejection(RejectionReason.CONTENT_TYPE_MISMATCH, f"declared {claim.content_type}, received {seen.content_type[:200]}")
    return None


def unverifiable(error: StoreError) -> Rejection:
    return Rejection(RejectionReason.UNVERIFIABLE, f"the store cannot read the object ({error.code or error.status})")


async def reject(resources: Resources, claim: Claim, rejection: Rejection) -> None:
    """Without a copy."""
    finish(resources, await claims.reject_file(resources.pool, claim, rejection), found=claim)


async def copy(resources: Resources, claim: Claim, seen: StoredObject, *, send_before: float, stopped: threading.Event) -> str | None:
    """Step 3: the ETag of the copy. None: the store can never read the object, and the file is rejected."""
    try:
        return await copy_object(resources, claim, seen, send_before=send_before, stopped=stopped)
    except (SentTooLate, ObjectChanged, ObjectMissing) as error:
        raise NothingCopied(error, again_in=AT_ONCE if claim.attempts == 1 else next_look(claim.attempts)) from error
    except RequestRefused as error:
        raise NothingCopied(error, again_in=next_look(claim.attempts)) from error
    except ObjectUnreadable as error:
        await reject(resources, claim, unverifiable(error))
        return None


def hash_copy(vault: Bucket, claim: Claim, etag: str, stopped: threading.Event) -> Proof:
    """Step 4, in a thread of its own: the copy's digest and size, in constant memory."""
    digest, size = hashlib.sha256(), 0
    with vault.open(str(claim.vault_key), etag=etag) as reader:
        while chunk := reader.read(CHUNK_BYTES):
            if stopped.is_set():
                raise LeaseLost("the lease was lost while hashing")
            digest.update(chunk)
            size += len(chunk)
    return Proof(size, Sha256(digest.digest()), etag)


async def commit(resources: Resources, claim: Claim, proof: Proof) -> None:
    """Step 5."""
    file = await claims.commit_verification(resources.pool, claim, size=proof.size, sha256=proof.sha256, etag=proof.etag)
    if file is None:
        raise LeaseLost("the commit found the claim lost")
    finish(resources, file, found=claim)


def finish(resources: Resources, file: File | None, *, found: Claim | None = None) -> None:
    """After a commit that made the file final; None: somebody else was first. `found`: something lay there at this claim's look."""
    if file is not None:
        if found is not None and found.state == State.PENDING:
            NOTICES.labels("sweep").inc()  # neither event nor complete came before our own look
        resources.signals.give_change(file.id)
        resources.signals.give_leftovers()
        report_transition(file)


async def give_up_before_copying(resources: Resources, claim: Claim, error: NothingCopied) -> None:
    """(a)"""
    log.warning("verification retried", file_id=str(claim.id), error=str(error), retry_seconds=error.again_in.total_seconds())
    with logged_when_unreachable(claim):
        await copies.forget_copy(resources.pool, claim.vault_key, claim.lease)
        await claims.release_claim(resources.pool, claim, retry_in=error.again_in, error=str(error))
        if error.again_in == AT_ONCE:
            resources.signals.give_work()


async def give_up_after_copying(resources: Resources, claim: Claim, error: str, *, retry_in: timedelta) -> None:
    """(b)"""
    if await give_back(resources, claim, error, retry_in=retry_in):
        with contextlib.suppress(StoreError):  # the sweeper comes by anyway
            await resources.vault.delete(str(claim.vault_key))


async def give_back(resources: Resources, claim: Claim, error: str, *, retry_in: timedelta) -> bool:
    """(b) without the deletion: whether the copy is doomed."""
    log.warning("verification given up", file_id=str(claim.id), error=error, retry_seconds=retry_in.total_seconds())
    with logged_when_unreachable(claim):
        doomed = await copies.doom_copy(resources.pool, claim.vault_key, claim.lease)
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


@contextlib.asynccontextmanager
async def extending(resources: Resources, claim: Claim) -> AsyncIterator[threading.Event]:
    """(c): extend the lease in the background. The event is set when it is lost, or when the block is left."""
    stopped = threading.Event()
    task = asyncio.create_task(extend(resources, claim, stopped))
    try:
        yield stopped
    finally:
        stopped.set()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def extend(resources: Resources, claim: Claim, stopped: threading.Event) -> None:
    while not stopped.is_set():
        await asyncio.sleep(resources.settings.lease.total_seconds() / 3)
        with logged_when_unreachable(claim):
            if not await claims.extend_lease(resources.pool, claim, resources.settings.lease):
                stopped.set()
