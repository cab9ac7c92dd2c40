"""Complete: "my bytes are there", said by a client.

1. The row is read. Gone: 410. Another digest than the known one: 409, nothing changes. Final: answered from the row.
2. The store is asked. The object is there: an arrival is recorded, together with the digest.
   - no row: somebody made it final, deleted it, or set another digest in between: begin anew.
   - The store gives no usable answer: the arrival is recorded all the same, and a worker decides. (It may be the object that cannot be
     read, and the client could do nothing about it.) A file in parts that was not announced yet goes on with step 4, because its parts
     may not be assembled; the client gets 503 if the store is unavailable there too.
3. Nothing lies at the key, and the file comes in one PUT: the row is read again, for a worker may just have proved the file and tidied up.
   Still unproved: 409, nothing was sent.
4. Nothing lies at the key, and the file comes in parts: assemble them (service/uploads/assembly.py).
   - somebody else is at it: begin anew after a moment; for longer than WAIT_SECONDS: 503.
"""

import asyncio
import time
from typing import Final
from uuid import UUID

import structlog

from service import problems
from service.files import lookup
from service.model import GONE, File, Sha256, State, UnprovedFile
from service.object_store import StoreUnavailable
from service.resources import Resources
from service.uploads import arrivals, assembly

WAIT_SECONDS: Final = 45.0
LOOK_AGAIN_SECONDS: Final = 0.2

log = structlog.get_logger()


async def complete_upload(
    resources: Resources, file_id: UUID, *, owner: str | None, sha256: Sha256 | None
) -> File:
    """The file as it is now.

    Raises NotFound, FileGone, DigestConflict, NotUploaded, IncompleteParts, UploadLost, Unavailable, StoreError.
    """
    give_up_at = time.monotonic() + WAIT_SECONDS
    while True:
        file = await lookup.find_file(resources, file_id, owner=owner)
        if file.state in GONE:
            raise lookup.gone(file)
        check_digest(file, sha256)
        if not isinstance(file, UnprovedFile):
            return file
        recorded = await announce(resources, file, sha256)
        if recorded is not None:
            return recorded
        if time.monotonic() > give_up_at:
            raise problems.Unavailable("another request or a worker is at this file: ask again")


async def announce(resources: Resources, file: UnprovedFile, sha256: Sha256 | None) -> File | None:
    """Steps 2 to 4; None: begin anew."""
    if await may_be_uploaded(resources, file):
        return await arrivals.record_arrival(
            resources, file, sha256, why="the client completed the upload"
        )
    if file.parts is None:
        await check_still_unproved(resources, file)
        return None
    recorded = await assembly.assemble(resources, file, file.parts, sha256)
    if recorded is None:
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
    return recorded


async def may_be_uploaded(resources: Resources, file: UnprovedFile) -> bool:
    """Return whether the object is there, or the store cannot say and nothing else than a verification can find out."""
    try:
        return await arrivals.is_uploaded(resources, file)
    except StoreUnavailable as error:
        log.warning("upload not seen", file_id=str(file.id), error=str(error))
        return file.parts is None or file.state == State.VERIFYING


async def check_still_unproved(resources: Resources, file: UnprovedFile) -> None:
    """Nothing lies in incoming: either nothing was sent, or a worker was faster and has tidied up."""
    again = await lookup.find_file(resources, file.id, owner=None)
    if isinstance(again, UnprovedFile):
        raise problems.NotUploaded(
            "the store has no object for this file: send the bytes first, then complete",
            state=str(again.state),
        )


def check_digest(file: File, sha256: Sha256 | None) -> None:
    known = file.hash or file.declared_sha256
    if sha256 is not None and known is not None and sha256 != known:
        raise problems.DigestConflict(
            f"sha256: {sha256} is not the {known} that is known for this file; nothing was changed"
        )
