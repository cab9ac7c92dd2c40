"""Completion: a client reports that its bytes have arrived (`complete`).

1. Read the row.
   - The file is gone: 410.
   - The known digest differs from the given one: 409, and nothing changes.
   - The file is final: answer from the row.
   - The file is small, no worker has begun with it, and the database agrees with the vault
     (service/marker/__init__.py): prove it (service/uploads/inline.py), and
     answer with the final file. If there is no object, continue with step 3. If the outcome is
     uncertain, record an arrival.
2. Check the store. If the object exists, record an arrival, together with the digest.
   - No row was updated, because the file became final or was deleted, or because another digest
     became known: begin again.
   - The store gives no usable response: record the arrival as well, and let a worker decide. (The
     object may be unreadable, and the client cannot repair that.) The exception is a file in parts
     without an earlier arrival. Its parts may not be assembled, so it continues with step 4. The
     client gets 503 if the store is unavailable there too.
3. There is no object, and the file is sent by one PUT: read the row again, because a worker may
   just have proved the file and removed the object. If the file is still unproved, nothing was
   sent: 409.
4. There is no object, and the file is sent in parts: assemble them (service/uploads/assembly.py).
   - Another process holds the file: begin again after a moment. After WAIT_SECONDS, answer 503.
"""

import asyncio
import time
from typing import Final
from uuid import UUID

import structlog

from service import problems
from service.files import lookup
from service.model import GONE, File, Sha256, State, UnprovedFile
from service.object_store import ObjectMissing, StoreUnavailable
from service.queries import completing
from service.resources import Resources
from service.uploads import arrivals, assembly, inline

WAIT_SECONDS: Final = 45.0
LOOK_AGAIN_SECONDS: Final = 0.2
COMPLETED: Final = "the client completed the upload"

log = structlog.get_logger()


async def complete_upload(
    resources: Resources, file_id: UUID, *, owner: str | None, sha256: Sha256 | None
) -> File:
    """Run the protocol above and return the file in its current state.

    Raises NotFound, FileGone, DigestConflict, NotUploaded, IncompleteParts, UploadLost,
    Unavailable, StoreError.
    """
    give_up_at = time.monotonic() + WAIT_SECONDS
    while True:
        standing = await resources.guard.check()
        found = await completing.find_completed(
            resources.pool, file_id, owner=owner, counter=standing.counter
        )
        if found is None:
            raise problems.NotFound("no such file")
        file = found.file
        if file.state in GONE:
            raise lookup.gone(file)
        check_digest(file, sha256)
        if not isinstance(file, UnprovedFile):
            return file
        if standing.stopped is None and found.is_free and inline.may_prove(resources, file):
            settled = await prove_or_announce(resources, file, sha256)
        else:
            settled = await announce(resources, file, sha256)
        if settled is not None:
            return settled
        if time.monotonic() > give_up_at:
            raise problems.Unavailable(
                "another request or a worker is processing this file: try again"
            )


async def prove_or_announce(
    resources: Resources, file: UnprovedFile, sha256: Sha256 | None
) -> File | None:
    """Prove a small file, or record an arrival. Return None if the caller must begin again."""
    try:
        proved = await inline.prove_upload(resources, file, sha256)
    except ObjectMissing:
        await check_still_unproved(resources, file)
        return None
    return proved or await arrivals.record_arrival(resources, file, sha256, why=COMPLETED)


async def announce(resources: Resources, file: UnprovedFile, sha256: Sha256 | None) -> File | None:
    """Run steps 2 to 4 of the protocol above. Return None if the caller must begin again."""
    if await may_be_uploaded(resources, file):
        return await arrivals.record_arrival(resources, file, sha256, why=COMPLETED)
    if file.parts is None:
        await check_still_unproved(resources, file)
        return None
    recorded = await assembly.assemble(resources, file, file.parts, sha256)
    if recorded is None:
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
    return recorded


async def may_be_uploaded(resources: Resources, file: UnprovedFile) -> bool:
    """Return whether the object exists, or only a worker can decide."""
    try:
        return await arrivals.is_uploaded(resources, file)
    except StoreUnavailable as error:
        log.warning("upload not checked", file_id=str(file.id), error=str(error))
        return file.parts is None or file.state == State.VERIFYING


async def check_still_unproved(resources: Resources, file: UnprovedFile) -> None:
    """Read the row again after a check has found no object.

    Raises NotUploaded if the file is still unproved. Otherwise a worker has removed the object.
    """
    again = await lookup.find_file(resources, file.id, owner=None)
    if isinstance(again, UnprovedFile):
        raise problems.NotUploaded(
            "the store has no object for this file: send the bytes before `complete`",
            state=str(again.state),
        )


def check_digest(file: File, sha256: Sha256 | None) -> None:
    known = file.hash or file.declared_sha256
    if sha256 is not None and known is not None and sha256 != known:
        raise problems.DigestConflict(
            f"sha256: {sha256} differs from the known {known}; nothing was changed"
        )
