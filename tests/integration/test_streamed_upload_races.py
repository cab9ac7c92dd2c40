"""Streamed uploads when the store or the database fails in the middle: looked at in the database and in the vault."""

import hashlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from service import problems
from service.model import File, State
from service.object_store import StoreError, StoreUnavailable
from service.resources import Resources
from service.senders import Senders
from service.streamed_uploads import PART_BYTES, Announced, upload_stream
from service.sweeper import sweep
from tests.faults import FaultyBucket, FaultyPool
from tests.invariants import check_invariants, list_bucket, read_object
from tests.running import resources, settings
from tests.stores import deployment, fresh_deployment, running_stores, store

__all__ = ["deployment", "fresh_deployment", "resources", "running_stores", "settings", "store"]

pytestmark = pytest.mark.anyio

SMALL = os.urandom(70_000)
LARGE = os.urandom(PART_BYTES + 5)
ANNOUNCED = Announced(owner="somebody", filename="photo.jpg", content_type=None, sha256=None, most_bytes=None)


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 65_536):
        yield content[start : start + 65_536]


async def upload(resources: Resources, content: bytes) -> File:
    senders = Senders()
    whole = senders.bytes_left
    try:
        return await upload_stream(resources, senders, ANNOUNCED, pieces(content))
    finally:
        assert senders.bytes_left == whole
        senders.close()


class FailingVault:
    """Passes everything on; the named call runs, or not, and then its answer is lost."""

    def __init__(self, bucket: Any, name: str, *, runs: bool) -> None:
        self.bucket = bucket
        self.name = bucket.name
        self.failing = name
        self.runs = runs
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.bucket, name)
        return self.fail(real) if name == self.failing else real

    def fail(self, real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.runs:
                real(*args, **options)
            raise StoreUnavailable("the answer did not come in time")

        async def call_and_wait(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.runs:
                await real(*args, **options)
            raise StoreUnavailable("the answer did not come in time")

        return call if self.failing in ("put_now", "put_part") else call_and_wait


async def check_only(resources: Resources, *files: File) -> None:
    """These files and their objects; whatever else was begun is doomed, and nothing lies under it."""
    await check_invariants(resources)
    assert await list_bucket(resources.vault) == {str(file.minio_object_name) for file in files}
    assert await resources.pool.fetchval("SELECT count(*) FROM files") == len(files)
    assert await resources.pool.fetch("SELECT 1 FROM copies WHERE doomed_at IS NULL") == []


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_the_file_is_ready_and_its_copy_row_gone(resources: Resources, content: bytes) -> None:
    file = await upload(resources, content)
    assert file.state == State.READY
    assert read_object(resources.vault, str(file.minio_object_name), etag=file.vault_etag) == content
    assert str(file.hash) == hashlib.sha256(content).hexdigest()
    await check_only(resources, file)
    assert await resources.pool.fetchval("SELECT count(*) FROM copies") == 0


@pytest.mark.parametrize("runs", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize(
    ("call", "content"), [("put_now", SMALL), ("create_upload", LARGE), ("put_part", LARGE), ("complete_upload", LARGE)]
)
async def test_no_orphan_is_left_when_the_stores_answer_is_lost(resources: Resources, call: str, content: bytes, runs: bool) -> None:
    vault = FailingVault(resources.vault, call, runs=runs)
    with pytest.raises(StoreError):
        await upload(msgspec.structs.replace(resources, vault=vault), content)
    assert vault.calls == 1, "nothing that writes is sent twice"
    await check_only(resources)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_commit_whose_answer_was_lost_is_found_again(resources: Resources, content: bytes) -> None:
    pool = FaultyPool(resources.pool, "INSERT INTO files", runs=True)
    file = await upload(msgspec.structs.replace(resources, pool=pool), content)
    assert pool.lost == 1
    await check_only(resources, file)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_no_orphan_is_left_when_the_commit_is_lost(resources: Resources, content: bytes) -> None:
    pool = FaultyPool(resources.pool, "INSERT INTO files", runs=False)
    with pytest.raises(ConnectionResetError):
        await upload(msgspec.structs.replace(resources, pool=pool), content)
    await check_only(resources)


async def test_the_sweeper_wins_against_an_upload_whose_lease_ended(resources: Resources) -> None:
    """It dooms the copy between the last part and the commit."""
    vault = FaultyBucket(resources.vault)

    async def sweep_now() -> None:
        await resources.pool.execute("UPDATE copies SET lease_until = now() - interval '1 second'")
        await sweep(resources)

    vault.after["complete_upload"] = sweep_now
    with pytest.raises(problems.Unavailable):
        await upload(msgspec.structs.replace(resources, vault=vault), LARGE)
    await check_only(resources)


async def test_an_upload_stops_when_its_copy_is_doomed_before_the_first_part(resources: Resources) -> None:
    vault = FaultyBucket(resources.vault)

    async def sweep_now() -> None:
        await resources.pool.execute("UPDATE copies SET lease_until = now() - interval '1 second'")
        await sweep(resources)

    vault.after["create_upload"] = sweep_now
    with pytest.raises(problems.Unavailable):
        await upload(msgspec.structs.replace(resources, vault=vault), LARGE)
    await check_only(resources)


async def test_a_put_is_not_sent_after_its_lease(resources: Resources) -> None:
    short = msgspec.structs.replace(resources.settings, lease=timedelta(microseconds=1))
    with pytest.raises(problems.Unavailable):
        await upload(msgspec.structs.replace(resources, settings=short), SMALL)
    await check_only(resources)
    assert await resources.pool.fetchval("SELECT count(*) FROM copies") == 0


async def test_a_lease_is_extended_while_the_client_sends(resources: Resources) -> None:
    short = msgspec.structs.replace(resources.settings, lease=timedelta(seconds=0.6))

    async def watch(pool: asyncpg.Pool) -> AsyncIterator[bytes]:
        async for piece in pieces(LARGE):
            yield piece
        first = await pool.fetchval("SELECT lease_until FROM copies")
        while await pool.fetchval("SELECT lease_until FROM copies") == first:
            await pool.fetchval("SELECT pg_sleep(0.05)")

    senders = Senders()
    file = await upload_stream(msgspec.structs.replace(resources, settings=short), senders, ANNOUNCED, watch(resources.pool))
    senders.close()
    await check_only(resources, file)
