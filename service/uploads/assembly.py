"""Assembly: have the store put the parts of a multipart upload together, for a `complete` that finds nothing at the key.

The row is held by a lease meanwhile, like in a verification, so that one request assembles, no worker claims, and nothing expires.

1. No upload was ever begun: every part is missing, 409.
2. Claim the row. Somebody else has it, or the file is final: wait for a moment and begin `complete` anew.
3. Ask the store which parts it has; its list is the truth. It has no such upload: (a). Any other error: give the lease back, 503.
4. Parts are missing, or of another size than they should be: give the lease back, 409 with their numbers.
5. Ask the store to assemble what it listed: once, and before the first lease period is over.
   - answered: record the arrival and give the lease back, in one statement. No row: begin anew, for it was deleted or the lease is lost;
     or another digest became known, with an arrival: then the lease is given back first, for a worker waits for it.
   - no such upload: (a).
   - refused, because a part was sent again since it was listed: give the lease back, 409.
   - another error, or too late to ask: the request is over, or was never sent: give the lease back, 503.
   - no answer, or a gateway's: it may take effect at any later time. The lease runs out by itself, so that nobody asks a second time
     before; 503. Whoever looks then finds the object: a worker by the store's event or when the row is due, or the next `complete`.
(a) Look at the key. There: as if answered. Nothing: give the lease back, and only if that hit a row the upload is lost, 409;
    else another may have assembled, proved and tidied up: begin anew. The store does not say: give the lease back, 503.
(b) While 3 to 5 run, the lease is extended. It is lost, because the file was deleted: the statements at the end see it.
(c) Cancelled, because the process stops, or a fault of ours: as if not answered.
"""

import functools
import time
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

import structlog

from service import database, problems
from service.database.heartbeat import extending
from service.model import File, Parts, Sha256, UnprovedFile
from service.object_store import SentTooLate, StoredPart, StoreError, UploadMissing
from service.queries import assemblies
from service.resources import Resources
from service.telemetry.metrics import ARRIVALS
from service.uploads import arrivals, multipart

MOST_NUMBERS: Final = 1_000
"""Of missing parts that a refusal names."""
ASSEMBLE_SECONDS: Final = 60.0
PARTS_A_SECOND: Final = 50
CHANGED_PART: Final = "InvalidPart"
"""A part that was named has another ETag by now."""
UNANSWERED: Final = (None, 502, 504)
"""A gateway's answers say nothing of what the store behind it is doing."""

log = structlog.get_logger()


class StoreUpload(NamedTuple):
    """The store's multipart upload of a file."""

    key: str
    upload_id: str
    parts: Parts


class Unanswered(Exception):  # it says what is so
    """The store was asked to assemble and gave no answer."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(str(error))
        self.error = error


async def assemble(
    resources: Resources, file: UnprovedFile, parts: Parts, sha256: Sha256 | None
) -> File | None:
    """Return the file with its arrival recorded, or None to begin anew, because another process holds it.

    Raises IncompleteParts, UploadLost, StoreError.
    """
    if file.upload_id is None:
        raise refuse_gaps(parts, [])
    upload = StoreUpload(file.incoming_key, file.upload_id, parts)
    asked_at = time.monotonic()
    lease = await assemblies.claim_assembly(
        resources.pool, file.id, file.upload_id, resources.settings.lease
    )
    if lease is None:
        return None
    extend = functools.partial(
        assemblies.extend_assembly, resources.pool, file.id, lease, resources.settings.lease
    )
    async with extending(
        extend, lease=resources.settings.lease, held_since=asked_at, file_id=file.id
    ):
        try:
            there = await put_together(
                resources,
                file,
                upload,
                send_before=asked_at + resources.settings.lease.total_seconds(),
            )
        except Unanswered as silence:
            raise silence.error from silence
        except (StoreError, problems.IncompleteParts) as error:
            await give_back(resources, file, lease, error)
            raise
        if not there:
            await report_lost(resources, file, lease)
            return None
        return await record_assembled(resources, file, lease, sha256)


async def put_together(
    resources: Resources, file: UnprovedFile, upload: StoreUpload, *, send_before: float
) -> bool:
    """Steps 3 to 5, and the look of (a): whether the object is there. Raises IncompleteParts, Unanswered, StoreError."""
    try:
        await ask_store(resources, upload, send_before=send_before)
    except UploadMissing:
        return await arrivals.is_uploaded(resources, file)
    return True


async def ask_store(resources: Resources, upload: StoreUpload, *, send_before: float) -> None:
    """Steps 3 to 5. Raises IncompleteParts, UploadMissing, Unanswered, StoreError."""
    key, upload_id, parts = upload
    found = [
        part
        for part in await resources.incoming.list_parts(key, upload_id)
        if part.number <= parts.count
    ]
    check_parts(parts, found)
    try:
        await resources.incoming.complete_upload(
            key,
            upload_id,
            [(part.number, part.etag) for part in found],
            timeout_seconds=ASSEMBLE_SECONDS + parts.count / PARTS_A_SECOND,
            send_before=send_before,
        )
    except StoreError as error:
        if error.code == CHANGED_PART:
            detail = "parts were sent again while they were put together: complete when none is under way"
            raise refuse(detail, [], wrong_size=[]) from error
        if error.status in UNANSWERED and not isinstance(error, SentTooLate):
            raise Unanswered(error) from error
        raise


def check_parts(parts: Parts, found: Sequence[StoredPart]) -> None:
    """Raises IncompleteParts, with the numbers."""
    wrong = [part.number for part in found if part.size != parts.size_of(part.number)]
    if wrong or len(found) != parts.count:
        raise refuse_gaps(parts, found, wrong_size=wrong)


def refuse_gaps(
    parts: Parts, found: Sequence[StoredPart], *, wrong_size: Sequence[int] = ()
) -> problems.IncompleteParts:
    there = {part.number for part in found}
    missing = [number for number in range(1, parts.count + 1) if number not in there]
    detail = f"of {parts.count} parts {len(missing)} are missing and {len(wrong_size)} have a wrong size: send those, then complete"
    return refuse(detail, missing, wrong_size=wrong_size)


def refuse(
    detail: str, missing: Sequence[int], *, wrong_size: Sequence[int]
) -> problems.IncompleteParts:
    return problems.IncompleteParts(
        detail,
        missing=list(missing[:MOST_NUMBERS]),
        missing_count=len(missing),
        wrong_size=list(wrong_size[:MOST_NUMBERS]),
        wrong_size_count=len(wrong_size),
    )


async def record_assembled(
    resources: Resources, file: File, lease: UUID, sha256: Sha256 | None
) -> File | None:
    """The last of step 5."""
    recorded = await assemblies.record_assembled(resources.pool, file.id, lease, sha256)
    if recorded is None:
        if await assemblies.release_assembly(resources.pool, file.id, lease):
            resources.notifications.notify_work()
    else:
        ARRIVALS.labels("complete").inc()
        resources.notifications.notify_work()
        resources.notifications.notify_history()
    return recorded


async def report_lost(resources: Resources, file: File, lease: UUID) -> None:
    """(a), with nothing at the key. Raises UploadLost; returns when another's work may be the reason."""
    if await assemblies.release_assembly(resources.pool, file.id, lease):
        raise multipart.lost()


async def give_back(resources: Resources, file: File, lease: UUID, error: Exception) -> None:
    if isinstance(error, StoreError):
        log.warning("assembly given up", file_id=str(file.id), error=str(error))
    try:
        await assemblies.release_assembly(resources.pool, file.id, lease)
    except database.UNREACHABLE as away:
        log.warning("lease not given back", file_id=str(file.id), error=type(away).__name__)
