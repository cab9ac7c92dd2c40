"""What a worker does not do: run hot while the store is away, while large files wait for a slot, or over a file that can't be proved."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import pytest
from minio.helpers import DictType

from service.model import UNPROVED, Declaration, RejectionReason, State
from service.object_store import Bucket, ObjectChanged, RequestRefused
from service.object_store.connection import calling
from service.queries import claims
from service.resources import Resources, open_resources
from service.settings import Settings, Url
from service.uploads import declare_file, find_file, notice_event
from service.worker import Worker
from tests.faults import FaultyBucket, FaultyPool
from tests.servers import free_port
from tests.stores import StoreUnderTest

pytestmark = pytest.mark.anyio

BODY = b"bytes"
SECOND = 1.0


async def declare(resources: Resources, *, size: int = len(BODY)) -> Any:
    declaration = Declaration(owner="ann", filename="a.txt", size=size, content_type=None, sha256=None, metadata={})
    declared = await declare_file(resources, declaration)
    await notice_event(resources, declared.file.incoming_key or "")
    return declared


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


async def count_attempts(resources: Resources) -> int:
    attempts: int = await resources.pool.fetchval("SELECT sum(attempts) FROM files")
    return attempts


async def until_more_attempts(resources: Resources, *, than: int) -> None:
    while await count_attempts(resources) <= than:  # noqa: ASYNC110  # the database tells nobody
        await asyncio.sleep(0.01)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # a plain attribute
            await asyncio.sleep(0.01)


async def test_a_store_that_is_away_is_asked_ever_more_seldom_however_many_files_are_due(settings: Settings) -> None:
    away = msgspec.structs.replace(settings, s3_endpoint=Url(f"http://127.0.0.1:{free_port()}"))
    async with open_resources(away) as resources:
        for _ in range(50):
            await declare(resources)
        async with working(resources) as worker:
            await until(lambda: worker.errors >= resources.settings.worker_slots)
            before = await count_attempts(resources)
            with pytest.raises(TimeoutError):  # the wait after so many errors is longer
                await asyncio.wait_for(until_more_attempts(resources, than=before + 1), SECOND)


async def test_a_store_that_is_back_is_used_at_once_after_the_first_success(resources: Resources) -> None:
    worker = Worker(resources)
    worker.errors = 10  # a wait of a minute
    backing_off = asyncio.create_task(worker.back_off())
    await declare(resources)
    [claim] = await claims.claim_small(resources.pool, 1, resources.settings.lease)
    await worker.verify(claim, time.monotonic())  # nothing was sent: the store says so, and that is an answer
    await asyncio.wait_for(backing_off, 5)
    assert worker.errors == 0


async def test_a_large_file_without_a_slot_wakes_nobody(resources: Resources) -> None:
    statements = FaultyPool(resources.pool, claims.NEXT_DUE)
    worker = Worker(msgspec.structs.replace(resources, pool=statements))
    for _ in range(3):
        await declare(resources, size=2 * 1024**3)
    held = await claims.claim_large(resources.pool, 2, resources.settings.lease)
    never = asyncio.Event()
    for claim in held:
        worker.running[asyncio.create_task(wait(never))] = claim
    assert (await worker.time_to_sleep()).total_seconds() > SECOND
    for task in worker.running:
        task.cancel()


async def wait(event: asyncio.Event) -> None:
    await event.wait()


@pytest.mark.parametrize("answer", [ObjectChanged("another ETag"), RequestRefused("too much metadata", status=400)])
async def test_a_copy_that_is_refused_again_and_again_waits_longer_and_blames_nobody_else(resources: Resources, answer: Exception) -> None:
    def refuse() -> None:
        raise answer

    vault = FaultyBucket(resources.vault)
    vault.before["copy_from"] = refuse
    faulty = msgspec.structs.replace(resources, vault=vault)
    declared = await declare(resources)
    async with httpx.AsyncClient() as client:
        assert (await client.put(declared.upload.url, content=BODY, headers=declared.upload.headers)).status_code == 200
    async with working(faulty) as worker:
        async with asyncio.timeout(20):
            while not (await read_due(resources))[0]:  # noqa: ASYNC110  # the database tells nobody
                await asyncio.sleep(0.05)
        assert worker.errors == 0
    due_in, attempts, copies = await read_due(resources)
    assert due_in > 55
    assert attempts <= 2
    assert copies == 0


async def read_due(resources: Resources) -> tuple[float, int, int]:
    """Seconds until the file is due once it was given back for longer, else 0; its attempts; the rows in copies."""
    row = await resources.pool.fetchrow(
        "SELECT extract(epoch FROM due_at - now())::float8 AS due_in, lease, attempts, (SELECT count(*) FROM copies) AS copies FROM files"
    )
    given_back = row["lease"] is None and row["due_in"] > 10
    return row["due_in"] if given_back else 0, row["attempts"], row["copies"]


async def test_an_etag_that_no_condition_can_name_is_the_end_of_its_file(
    resources: Resources, store: StoreUnderTest, root_incoming: Bucket
) -> None:
    declared = await declare(resources)
    headers: DictType = {
        "x-minio-source-replication-request": "true",
        "x-minio-source-etag": 'a"b',
        "x-minio-source-mtime": f"{datetime.now(UTC):%FT%TZ}",
    }
    with calling(timeout_seconds=10):
        root_incoming._client._execute("PUT", root_incoming.name, declared.file.incoming_key, body=BODY, headers=headers)
    async with working(resources):
        async with asyncio.timeout(20):
            while (file := await find_file(resources, declared.file.id, owner=None)).state in UNPROVED:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.05)
    if store.kind == "minio":
        assert (file.state, file.rejection_reason) == (State.REJECTED, RejectionReason.UNVERIFIABLE)
    else:
        assert file.state == State.READY  # it takes no such header
