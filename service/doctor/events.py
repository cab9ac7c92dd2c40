"""One file's way from its URL to `ready`: the store's event arrives, and a worker is there."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final
from uuid import UUID

from service import uploads
from service.doctor.finding import Finding, failed, ok, warning
from service.doctor.requests import send
from service.model import UNPROVED, Declaration, Sha256, State, make_id
from service.presign import Signer
from service.queries import files
from service.queries.inspection import count_notices, count_unannounced
from service.resources import Resources

OWNER: Final = "assay-doctor"
EVENT_SECONDS: Final = 15.0
WORKER_SECONDS: Final = 15.0
SUPPRESSED_SECONDS: Final = 7.0
"""The store's queue adds up to 3 s to every event."""
LOOK_SECONDS: Final = 0.1
LATELY: Final = timedelta(hours=24)
EVENT_ADVICE: Final = (
    "see that the API runs, that the store's MINIO_NOTIFY_WEBHOOK_ENDPOINT reaches its /webhooks/minio and …_AUTH_TOKEN is "
    "ASSAY_WEBHOOK_TOKEN, and run `assay bootstrap` for the event rule"
)


async def check_events(resources: Resources) -> list[Finding]:
    findings = await check_round_trip(resources)
    if findings[0].status == "ok":
        findings.append(await check_suppression(resources))
    return findings


async def check_round_trip(resources: Resources) -> list[Finding]:
    file_id, status = await send_probe(resources, {})
    try:
        if status != 200:
            return [failed("event", f"the store answered {status} to an upload", "see the lines about the URL and the clocks")]
        begun = time.monotonic()
        if not await wait_for(lambda: is_noticed(resources, file_id), seconds=EVENT_SECONDS):
            return [failed("event", f"no event within {EVENT_SECONDS:.0f} s", EVENT_ADVICE)]
        return [ok("event", f"arrived after {time.monotonic() - begun:.1f} s"), await check_worker(resources, file_id)]
    finally:
        await remove_probe(resources, file_id)


async def check_worker(resources: Resources, file_id: UUID) -> Finding:
    await wait_for(lambda: is_final(resources, file_id), seconds=WORKER_SECONDS)
    _, state = await count_notices(resources.pool, file_id) or (0, State.DELETED)
    if state == State.READY:
        return ok("worker", "the upload was proved")
    if state == State.REJECTED:
        return failed("worker", "the upload was rejected", f"run `assay inspect {file_id}`")
    return failed("worker", f"the upload is {state} after {WORKER_SECONDS:.0f} s", "see that a worker runs, and its log")


async def check_suppression(resources: Resources) -> Finding:
    """A header that no signature covers tells the store that another store has told us already."""
    name = "event: suppressed"
    file_id, status = await send_probe(resources, {"x-minio-source-replication-request": "true"})
    try:
        if status != 200 or await wait_for(lambda: is_noticed(resources, file_id), seconds=SUPPRESSED_SECONDS):
            return ok(name, "a client cannot keep the store from telling us")
    finally:
        await remove_probe(resources, file_id)
    return warning(
        name,
        "a client can keep the store from sending the event; the file is then found by our own look, minutes later",
        "run a store with its fixes: pgsty/silo RELEASE.2026-09-16 or newer",
    )


async def send_probe(resources: Resources, headers: Mapping[str, str]) -> tuple[UUID, int]:
    """Declare a small file and send it by our own way to the store; the store's answer."""
    body = secrets.token_bytes(64)
    declaration = Declaration(
        owner=OWNER,
        filename="doctor.bin",
        size=len(body),
        content_type="application/octet-stream",
        sha256=Sha256(hashlib.sha256(body).digest()),
        metadata={},
    )
    settings = resources.settings
    inside = Signer(
        settings.s3_endpoint, access_key=settings.s3_signer_access_key, secret_key=settings.s3_signer_secret_key, region=settings.s3_region
    )
    file = await uploads.insert_file(resources, declaration, make_id(), database=resources.pool)
    upload = inside.presign_put(
        settings.incoming_bucket,
        file.incoming_key or "",
        size=file.size,
        content_type=file.content_type,
        sha256=str(file.declared_sha256),
        if_none_match=True,
        issued_at=file.created_at,
        expires_in_seconds=300,
    )
    return file.id, (await send("PUT", upload.url, body=body, headers={**upload.headers, **headers})).status


async def remove_probe(resources: Resources, file_id: UUID) -> None:
    """As its owner would; what lies in the buckets is the sweeper's."""
    await files.delete_file(resources.pool, file_id, owner=OWNER)


async def is_noticed(resources: Resources, file_id: UUID) -> bool:
    found = await count_notices(resources.pool, file_id)
    return found is not None and found[0] > 0


async def is_final(resources: Resources, file_id: UUID) -> bool:
    found = await count_notices(resources.pool, file_id)
    return found is None or found[1] not in UNPROVED


async def wait_for(condition: Callable[[], Awaitable[bool]], *, seconds: float) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() >= end:
            return False
        await asyncio.sleep(LOOK_SECONDS)
    return True


async def check_announcements(resources: Resources) -> list[Finding]:
    """Three triggers make up for each other, which hides a dead one."""
    count = await count_unannounced(resources.pool, LATELY)
    if count == 0:
        return [ok("announcements", "every upload of the last 24 h was announced")]
    return [warning("announcements", f"{count} uploads of the last 24 h were found by our own look: no event came", EVENT_ADVICE)]
