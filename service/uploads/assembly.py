"""Assembly: have the store assemble the parts of a multipart upload.

A `complete` that finds no object at the incoming key runs this protocol. A lease holds the row
meanwhile, as in a verification, so that only one request assembles the parts, no worker claims the
file, and the file does not expire.

1. Check that the row names a multipart upload. If it does not, every part is missing: 409.
2. Claim the row. If another process holds it, or the file is final, wait for a moment and begin
   `complete` again.
3. List the parts that the store has. This list is authoritative.
   - The store has no such upload: see "Upload missing" below.
   - Any other error: release the lease, 503.
4. Compare the list with the declaration. If parts are missing or have a wrong size, release the
   lease and answer 409 with their numbers.
5. Request the assembly of the listed parts, once, and before the first lease period is over.
   - The store has assembled them: see "Object present" below.
   - The store has no such upload: see "Upload missing" below.
   - The store refuses, because a part was sent again after it was listed: release the lease, 409.
   - Any other error response, or it is too late to send the request: the request has ended or was
     never sent. Release the lease, 503.
   - No response, or a gateway's response: the assembly may take effect at any later time. Answer
     503, and let the lease expire, so that no second request is sent before. After that, a worker
     finds the object (by the store's event or by the schedule), or the next `complete` does.

Object present: record the arrival and release the lease, in one statement.
   - No row was updated, because the file was deleted or the lease is lost: begin `complete` again.
   - No row was updated, because another arrival brought another digest: release the lease, so
     that a worker can claim the file, and begin `complete` again.

Upload missing: check the incoming key with a HEAD request.
   - There is an object: see "Object present" above.
   - There is no object: release the lease. If that updated a row, the upload is lost: 409.
     Otherwise another process may have assembled and proved the file and removed the object: begin
     `complete` again.
   - The store gives no usable response: release the lease, 503.

While steps 3 to 5 run, the lease is extended. If it is lost because the file was deleted, the
statements at the end update no row.

Cancellation at shutdown, or an unexpected exception: let the lease expire, as without a
response.
"""

import functools
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

import structlog

from service import clock, database, problems
from service.database.heartbeat import extending
from service.model import File, Parts, Sha256, UnprovedFile
from service.object_store import SentTooLate, StoredPart, StoreError, UploadMissing
from service.queries import assemblies
from service.resources import Resources
from service.telemetry.metrics import ARRIVALS
from service.uploads import arrivals, multipart

MOST_NUMBERS: Final = 1_000
"""The largest number of missing parts that a refusal names."""
ASSEMBLE_SECONDS: Final = 60.0
PARTS_A_SECOND: Final = 50
CHANGED_PART: Final = "InvalidPart"
"""The error code for a listed part that has another ETag by now."""
UNANSWERED: Final = (None, 502, 504)
"""Statuses that show no outcome: no response, or a gateway's response."""

log = structlog.get_logger()


class StoreUpload(NamedTuple):
    """The store's multipart upload of a file."""

    key: str
    upload_id: str
    parts: Parts


class Unanswered(Exception):
    """An assembly request without a response by the store, so that its outcome is unknown."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(str(error))
        self.error = error


async def assemble(
    resources: Resources, file: UnprovedFile, parts: Parts, sha256: Sha256 | None
) -> File | None:
    """Run the protocol above and return the file with its arrival recorded.

    Return None if the caller must begin again. Raises IncompleteParts, UploadLost, StoreError.
    """
    if file.upload_id is None:
        raise refuse_gaps(parts, [])
    upload = StoreUpload(file.incoming_key, file.upload_id, parts)
    asked_at = clock.read_seconds()
    lease = await assemblies.claim_assembly(
        resources.pool, file.id, file.upload_id, resources.settings.lease
    )
    if lease is None:
        return None
    extend = functools.partial(
        assemblies.extend_assembly, resources.pool, file.id, lease, resources.settings.lease
    )
    async with extending(extend, lease=resources.settings.lease, file_id=file.id):
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
    """Run steps 3 to 5 of the protocol above, and return whether the object is present.

    Raises IncompleteParts, Unanswered, StoreError.
    """
    try:
        await ask_store(resources, upload, send_before=send_before)
    except UploadMissing:
        return await arrivals.is_uploaded(resources, file)
    return True


async def ask_store(resources: Resources, upload: StoreUpload, *, send_before: float) -> None:
    """Run steps 3 to 5 of the protocol above, without the branch for a missing upload.

    Raises IncompleteParts, UploadMissing, Unanswered, StoreError.
    """
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
            detail = (
                "parts were sent again during their assembly: "
                "send `complete` when no part is being sent"
            )
            raise refuse(detail, [], wrong_size=[]) from error
        if error.status in UNANSWERED and not isinstance(error, SentTooLate):
            raise Unanswered(error) from error
        raise


def check_parts(parts: Parts, found: Sequence[StoredPart]) -> None:
    """Compare the listed parts with the expected ones.

    Raises IncompleteParts with their numbers.
    """
    wrong = [part.number for part in found if part.size != parts.size_of(part.number)]
    if wrong or len(found) != parts.count:
        raise refuse_gaps(parts, found, wrong_size=wrong)


def refuse_gaps(
    parts: Parts, found: Sequence[StoredPart], *, wrong_size: Sequence[int] = ()
) -> problems.IncompleteParts:
    there = {part.number for part in found}
    missing = [number for number in range(1, parts.count + 1) if number not in there]
    detail = (
        f"of {parts.count} parts, {len(missing)} are missing and {len(wrong_size)} "
        "have a wrong size: send these parts, then `complete`"
    )
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
    """Run the branch "Object present" of the protocol above.

    Return None to begin `complete` again.
    """
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
    """Run the branch "Upload missing" of the protocol above, after the check has found no object.

    Raises UploadLost, unless another process may have assembled the file meanwhile.
    """
    if await assemblies.release_assembly(resources.pool, file.id, lease):
        raise multipart.lost()


async def give_back(resources: Resources, file: File, lease: UUID, error: Exception) -> None:
    if isinstance(error, StoreError):
        log.warning("assembly abandoned", file_id=str(file.id), error=str(error))
    try:
        await assemblies.release_assembly(resources.pool, file.id, lease)
    except database.UNREACHABLE as away:
        log.warning("lease not released", file_id=str(file.id), error=type(away).__name__)
