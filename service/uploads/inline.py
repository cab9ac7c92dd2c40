"""Inline proof: `complete` proves a small file itself, without a claim.

It is tried for a file of at most 1 MiB that is sent by one PUT, if no worker holds the file, no
attempt with it has failed, and this process proves fewer than MOST_AT_ONCE files, among them not
this one.

1. Read and compare the incoming object, as a worker does (service/worker/small_files.py, steps 1
   and 2). The digest that the client states counts as declared.
   - There is no object: the caller reads the row again. If the file is still unproved, nothing was
     sent.
   - The type differs, or the digest differs in two reads: reject, in one statement that requires an
     unproved state, and that the row has no other digest. Nothing was written.
   - The rejection updates no row, the size differs, or any other error: uncertain.
2. Take a reserved key, and send one PUT, as a worker does (step 3).
   - No key can be reserved: uncertain.
   - It is too late to send the request, or the store refuses it: delete the reservation; uncertain.
   - The response is lost: failure after writing.
3. Commit, once. The statement requires that the reservation is not doomed, that the file is
   unproved, and that every known digest agrees. A worker that has claimed the file meanwhile loses
   its lease.
   - No row was updated, or the response is lost: failure after writing.

Uncertain: the caller records an arrival, and a worker decides.

Failure after writing: doom the reservation.
   - It updated a row: no commit has succeeded or can succeed. Delete the object; uncertain.
   - It updated no row: the commit may have succeeded. Read the row. If the file is final, return
     it; otherwise uncertain.
   - The database is unavailable: the sweeper does the rest; uncertain.

Cancellation: doom the reservation, shielded. The deletion is left to the sweeper.

The process dies: the sweeper dooms the reservation when its lease has expired. The file is still
unproved, so an event or the schedule finds it.

See docs/architecture.md, "5. Verify".
"""

import asyncio
import contextlib
from typing import Final

import msgspec
import structlog

from service import clock, database
from service.database.reserved_keys import ReservedKey
from service.model import UNPROVED, File, Rejection, Sha256, State, UnprovedFile
from service.object_store import ObjectMissing, StoreError
from service.queries import completing, files, reservations
from service.queries.reservations import HeldKey
from service.resources import Resources
from service.telemetry.metrics import ARRIVALS, VERIFICATION_SECONDS, VERIFIED_BYTES
from service.telemetry.transitions import report_transition
from service.worker.proofs import NotVerified
from service.worker.small_files import SmallBody, is_small, read_small_file, write_small_file

MOST_AT_ONCE: Final = 16

log = structlog.get_logger()


def may_prove(resources: Resources, file: UnprovedFile) -> bool:
    """Return whether the file is small, and this process may begin to prove it."""
    settling = resources.settled_uploads.settling
    return (
        file.parts is None
        and is_small(file.size)
        and len(settling) < MOST_AT_ONCE
        and file.incoming_key not in settling
    )


async def prove_upload(
    resources: Resources, file: UnprovedFile, stated: Sha256 | None
) -> File | None:
    """Run the protocol above, and return the final file.

    Return None if the outcome is uncertain. Raises ObjectMissing.
    """
    begun_at = clock.read_seconds()
    file = msgspec.structs.replace(file, declared_sha256=file.declared_sha256 or stated)
    with resources.settled_uploads.settle(file.incoming_key):
        final = await settle(resources, file)
        if final is None:
            return None
        resources.settled_uploads.remember(file.incoming_key)
    ARRIVALS.labels("complete").inc()
    if final.state == State.READY:
        VERIFICATION_SECONDS.observe(clock.read_seconds() - begun_at)
        VERIFIED_BYTES.inc(final.size)
    resources.notifications.notify_change(final.id)
    resources.notifications.announce_leftovers()
    report_transition(final)
    return final


async def settle(resources: Resources, file: UnprovedFile) -> File | None:
    """Run step 1 of the protocol above, and the steps that follow from it."""
    try:
        found = await read_small_file(resources, file)
        if isinstance(found, SmallBody):
            reserved = await resources.reserved_keys.take()
            return await store(resources, file, found, reserved)
        if isinstance(found, Rejection):
            return await completing.reject_small_file(
                resources.pool, file.id, found, stated=file.declared_sha256
            )
    except ObjectMissing:
        raise
    except (NotVerified, StoreError, *database.UNREACHABLE) as error:
        log.warning("upload left to a worker", file_id=str(file.id), error=str(error))
    return None


async def store(
    resources: Resources, file: UnprovedFile, body: SmallBody, reserved: ReservedKey
) -> File | None:
    """Run steps 2 and 3 of the protocol above, and the branches for their failures."""
    held = reserved.held
    try:
        etag = await write_small_file(
            resources, file, body, vault_key=held.vault_key, send_before=reserved.end
        )
        final = await completing.commit_small_file(
            resources.pool,
            held,
            file.id,
            size=len(body.content),
            sha256=body.sha256,
            etag=etag,
            stated=file.declared_sha256,
        )
    except NotVerified as error:
        log.warning("upload left to a worker", file_id=str(file.id), error=str(error))
        if not error.written:
            await reservations.forget_reservation(resources.pool, held.vault_key, held.lease)
            return None
    except database.UNREACHABLE as error:
        log.warning("commit not answered", file_id=str(file.id), error=type(error).__name__)
    except BaseException:  # cancelled, or a defect
        await asyncio.shield(doom(resources, held))
        raise
    else:
        if final is not None:
            return final
    return await asyncio.shield(settle_failure(resources, file, held))


async def settle_failure(resources: Resources, file: UnprovedFile, held: HeldKey) -> File | None:
    """Run the branch "failure after writing". Return the file if its commit has succeeded."""
    if await doom(resources, held):
        with contextlib.suppress(StoreError):  # the sweeper repeats it
            await resources.vault.delete(str(held.vault_key))
        return None
    found = await files.find_file(resources.pool, file.id, owner=None)
    return None if found is None or found.state in UNPROVED else found


async def doom(resources: Resources, held: HeldKey) -> bool:
    """Doom the reservation, and return whether a row was updated.

    Return False too if the database is unavailable.
    """
    try:
        return await reservations.doom_reservation(resources.pool, held.vault_key, held.lease)
    except database.UNREACHABLE as error:
        log.warning("reservation left to the sweeper", error=type(error).__name__)
        return False
