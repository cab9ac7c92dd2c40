"""Streamed uploads whose next part is received while the one before it is being sent.

The tests check the database, the vault, and the memory of the uploads.
"""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from service.model import File, State
from service.object_store import StoreError
from service.resources import Resources
from service.uploads.buffers import PART_BYTES, UNCOUNTED_BYTES, UploadBuffers
from service.uploads.streamed import UploadHeaders, upload_stream
from tests.integration.steps import let_settle
from tests.support.faults import FaultyBucket, lose_answer
from tests.support.invariants import (
    check_invariants,
    check_nothing_left,
    check_uploads_aborted,
    list_bucket,
)
from tests.support.objects import read_all
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

PIECE_BYTES = 65_536
PIECES_A_PART = PART_BYTES // PIECE_BYTES
CONTENT = os.urandom(3 * PART_BYTES + 5)
HEADERS = UploadHeaders(owner="ann", filename="photo.jpg", content_type=None, most_bytes=None)
DOOMED = "SELECT count(*) FROM reservations WHERE doomed_at IS NOT NULL"


class HeldVault(FaultyBucket):
    """A vault that sends no part until `released` is set."""

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources.vault)
        self.reached = threading.Event()
        self.released = threading.Event()
        self.before["put_part"] = self.hold

    def hold(self) -> None:
        self.reached.set()
        assert self.released.wait(60)


class Body:
    """A body in pieces, which counts those that were read."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.read = 0

    async def send(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.content), PIECE_BYTES):
            yield self.content[start : start + PIECE_BYTES]
            self.read += 1
            await asyncio.sleep(0)


@pytest.fixture
def buffers() -> Iterator[UploadBuffers]:
    buffers = UploadBuffers()
    yield buffers
    buffers.close()


@pytest.fixture
def vault(resources: Resources) -> Iterator[HeldVault]:
    vault = HeldVault(resources)
    yield vault
    vault.released.set()


def start(
    resources: Resources, vault: FaultyBucket, buffers: UploadBuffers, body: AsyncIterator[bytes]
) -> asyncio.Task[File]:
    faulty = msgspec.structs.replace(resources, vault=vault)
    loan = buffers.open_loan(HEADERS.owner)
    return asyncio.create_task(upload_stream(faulty, loan, HEADERS, body))


async def test_a_part_is_received_while_the_one_before_is_being_sent(
    resources: Resources, vault: HeldVault, buffers: UploadBuffers
) -> None:
    whole, body = buffers.bytes_left, Body()
    task = start(resources, vault, buffers, body.send())
    await until(lambda: body.read == 2 * PIECES_A_PART)
    await until(vault.reached.is_set)
    assert vault.calls["put_part"] == 0
    assert buffers.bytes_left == whole - 2 * (PART_BYTES - UNCOUNTED_BYTES)
    vault.released.set()
    file = await task
    assert file.state == State.READY
    assert read_all(resources.vault, str(file.minio_object_name), etag=file.vault_etag) == CONTENT
    assert buffers.bytes_left == whole
    await check_invariants(resources)


async def test_without_memory_for_two_parts_an_upload_needs_only_one(
    resources: Resources, vault: HeldVault, buffers: UploadBuffers
) -> None:
    buffers.bytes_left = PART_BYTES - UNCOUNTED_BYTES
    body = Body()
    task = start(resources, vault, buffers, body.send())
    uncounted = UNCOUNTED_BYTES // PIECE_BYTES  # of the second part
    await until(lambda: body.read == PIECES_A_PART + uncounted)
    assert buffers.bytes_left == 0
    assert not buffers.waiting, "the upload waits for its own part, and not for memory"
    vault.released.set()
    file = await task
    assert read_all(resources.vault, str(file.minio_object_name), etag=file.vault_etag) == CONTENT
    assert buffers.bytes_left == PART_BYTES - UNCOUNTED_BYTES


async def test_no_memory_is_lent_in_advance_while_another_upload_waits(
    resources: Resources, vault: HeldVault, buffers: UploadBuffers
) -> None:
    buffers.bytes_left = PART_BYTES - UNCOUNTED_BYTES
    first, second = Body(), Body()
    tasks = [start(resources, vault, buffers, body.send()) for body in (first, second)]
    await until(lambda: len(buffers.waiting) == 1)
    vault.released.set()
    for file in await asyncio.gather(*tasks):
        stored = read_all(resources.vault, str(file.minio_object_name), etag=file.vault_etag)
        assert stored == CONTENT
    assert buffers.bytes_left == PART_BYTES - UNCOUNTED_BYTES


async def test_a_part_that_fails_ends_the_upload_before_the_body_ends(
    resources: Resources, buffers: UploadBuffers
) -> None:
    whole = buffers.bytes_left
    vault = FaultyBucket(resources.vault)
    vault.before["put_part"] = lose_answer
    body = Body(os.urandom(6 * PART_BYTES))
    with pytest.raises(StoreError):
        await start(resources, vault, buffers, body.send())
    assert body.read <= 2 * PIECES_A_PART
    assert buffers.bytes_left == whole
    await check_given_up(resources)


async def test_a_body_that_ends_early_waits_for_the_part_that_is_being_sent(
    resources: Resources, vault: HeldVault, buffers: UploadBuffers
) -> None:
    whole, broken = buffers.bytes_left, asyncio.Event()

    async def send_and_break() -> AsyncIterator[bytes]:
        async for piece in Body(CONTENT[: 2 * PART_BYTES]).send():
            yield piece
        await until(vault.reached.is_set)
        broken.set()
        raise ConnectionResetError("the client disconnected")

    task = start(resources, vault, buffers, send_and_break())
    await until(broken.is_set)
    await until(lambda: buffers.bytes_left == whole - (PART_BYTES - UNCOUNTED_BYTES))
    assert not task.done(), "it has returned the memory of the second part, and waits for the first"
    vault.released.set()
    with pytest.raises(ConnectionResetError):
        await task
    assert buffers.bytes_left == whole
    await check_given_up(resources)


async def test_a_cancellation_does_not_wait_for_the_part_that_is_being_sent(
    resources: Resources, vault: HeldVault, buffers: UploadBuffers
) -> None:
    whole, body = buffers.bytes_left, Body()
    task = start(resources, vault, buffers, body.send())
    await until(vault.reached.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await resources.pool.fetchval(DOOMED) == 1
    assert buffers.bytes_left < whole, "the thread still uses the memory"
    vault.released.set()
    await until(lambda: buffers.bytes_left == whole)
    del task
    gc.collect()  # the event loop would report an error of the part that was never retrieved
    await let_settle(resources)
    await check_nothing_left(resources)
    await check_uploads_aborted(resources)


async def check_given_up(resources: Resources) -> None:
    """Check that the upload has left a doomed reservation, and nothing else."""
    assert await resources.pool.fetchval(DOOMED) == 1
    assert await resources.pool.fetchval("SELECT count(*) FROM files") == 0
    assert await list_bucket(resources.vault) == set()
    await check_uploads_aborted(resources)
    await let_settle(resources)
    await check_nothing_left(resources)
