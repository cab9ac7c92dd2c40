"""The steps of a file's life below HTTP: declare, send, claim, verify and sweep."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import msgspec

from service import clock
from service.files.lookup import find_file
from service.model import Claim, File, Sha256, Work
from service.resources import Resources
from service.uploads.arrivals import record_event
from service.uploads.declaring import PART_BYTES, Declared, declare_file
from service.uploads.multipart import PartRequest, sign_parts
from service.uploads.signing import Upload
from service.worker.loop import Worker
from service.worker.store_health import StoreHealth
from service.worker.sweeper import sweep
from service.worker.verification import verify
from tests.support.claims import EVERY_KIND, claim_files
from tests.support.clock import DAY, pass_time
from tests.support.faults import FaultyBucket
from tests.support.objects import key_of
from tests.support.presigned import put as put_presigned
from tests.support.rows import make_declaration
from tests.support.stores import Answer
from tests.support.stores import send as send_request

BODY = b"what was sent" * 100
OTHER = b"WHAT WAS SENT" * 100
TWO_PARTS = b"part one" * (PART_BYTES // 8) + b"part two"
RETRY = timedelta(seconds=1)
MISMATCHED = """
    SELECT mismatched_sha256 IS NOT NULL AND state IN ('pending', 'verifying')
    FROM files WHERE id = $1
"""


def sha256(body: bytes) -> Sha256:
    return Sha256(hashlib.sha256(body).digest())


async def declare(
    resources: Resources,
    *,
    size: int = len(BODY),
    digest: Sha256 | None = None,
    content_type: str | None = "text/plain",
    owner: str = "ann",
    filename: str = "ä b.txt",
    multipart: bool | None = None,
) -> Declared:
    declaration = make_declaration(
        filename,
        owner=owner,
        size=size,
        content_type=content_type,
        sha256=digest,
        multipart=multipart,
    )
    return await declare_file(resources, declaration)


async def put(
    declared: Declared, body: bytes = BODY, headers: Mapping[str, str] | None = None
) -> Answer:
    """Send a PUT to the upload URL with the headers that it requires and those in `headers`."""
    upload = declared.upload
    assert isinstance(upload, Upload)
    return await asyncio.to_thread(put_presigned, upload, body, headers)


async def send(resources: Resources, body: bytes = BODY) -> Declared:
    """Declare a file and send its bytes, without an arrival report."""
    declared = await declare(resources, size=len(body))
    assert (await put(declared, body)).status == 200
    return declared


async def declare_parts(
    resources: Resources, *, size: int = len(TWO_PARTS), digest: Sha256 | None = None
) -> File:
    return (await declare(resources, size=size, digest=digest, multipart=True)).file


async def put_parts(resources: Resources, file: File, body: bytes, *numbers: int) -> None:
    """Send the parts with these numbers, or every part if no number is given."""
    assert file.parts is not None
    wanted = numbers or range(1, file.parts.count + 1)
    for part in await sign_parts(
        resources, file.id, [PartRequest(number, None) for number in wanted], owner="ann"
    ):
        start = (part.number - 1) * file.parts.part_size
        answer = await asyncio.to_thread(
            send_request,
            "PUT",
            part.url,
            body=body[start : start + part.size],
            headers=part.headers,
        )
        assert answer.status == 200, answer


async def send_parts(resources: Resources, body: bytes = TWO_PARTS) -> File:
    """Declare a multipart upload and send every part, without an arrival report."""
    file = await declare_parts(resources, size=len(body))
    await put_parts(resources, file, body)
    return await find(resources, file)


def watch(resources: Resources) -> tuple[Resources, FaultyBucket, FaultyBucket]:
    """Return resources whose buckets count the calls."""
    incoming, vault = FaultyBucket(resources.incoming), FaultyBucket(resources.vault)
    changed: dict[str, Any] = {"incoming": incoming, "vault": vault}
    return msgspec.structs.replace(resources, **changed), incoming, vault


async def claim(resources: Resources, file: File) -> Claim:
    await record_event(resources, key_of(file))
    return await claim_due(resources)


async def claim_due(resources: Resources) -> Claim:
    lease = resources.settings.lease
    [claimed] = await claim_files(resources.pool, 1, lease=lease, kinds=EVERY_KIND)
    return claimed


async def take_due(resources: Resources) -> None:
    """Claim the due file and run its verification. If it is a look, do the same with what it
    finds.
    """
    held = await claim_due(resources)
    await run(resources, held)
    if held.work == Work.LOOK:
        for found in await claim_files(resources.pool, 1, lease=resources.settings.lease):
            await run(resources, found)


async def run(
    resources: Resources,
    held: Claim,
    *,
    claimed_at: float | None = None,
    health: StoreHealth | None = None,
) -> bool:
    """Verify the claimed file, and return False if the last request to the store failed."""
    known = health or StoreHealth(resources)
    with ThreadPoolExecutor(1) as hashing:
        await verify(
            resources,
            held,
            claimed_at=claimed_at or clock.read_seconds(),
            hashing=hashing,
            health=known,
        )
    return known.failures == 0


async def prove(resources: Resources, file: File) -> File:
    """Claim and verify the file, and repeat both after a first mismatch."""
    await run(resources, await claim(resources, file))
    if await resources.pool.fetchval(MISMATCHED, file.id):
        await run(resources, await claim_due(resources))
    return await find(resources, file)


async def find(resources: Resources, file: File) -> File:
    return await find_file(resources, file.id, owner=None)


async def read_row(resources: Resources, file: File) -> Any:
    """Return the columns for the worker and the sweeper, which File does not have."""
    return await resources.pool.fetchrow(
        """
        SELECT state, lease, last_error, due_at > now() AS later,
               sweeps, sweep_at > now() AS sweep_later
        FROM files WHERE id = $1
        """,
        file.id,
    )


async def let_settle(resources: Resources) -> None:
    """Sweep and move time forward until every grace period is over."""
    for _ in range(12):
        await sweep(resources)
        await pass_time(resources.pool, DAY)
    await sweep(resources)


@contextlib.asynccontextmanager
async def working(resources: Resources) -> AsyncIterator[Worker]:
    worker = Worker(resources)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
