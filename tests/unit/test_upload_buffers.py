"""The memory budget for parts, which is granted in request order."""

import asyncio

import pytest

from service.uploads.buffers import BUFFER_BYTES, UploadBuffers

pytestmark = pytest.mark.anyio


async def test_a_cancelled_request_lets_the_next_one_through() -> None:
    buffers = UploadBuffers()
    await buffers.take(BUFFER_BYTES - 10)
    large = asyncio.create_task(buffers.take(20))
    small = asyncio.create_task(buffers.take(5))
    await asyncio.sleep(0)
    assert not small.done()
    large.cancel()
    await asyncio.wait_for(small, 1)
    assert buffers.bytes_left == 5
    buffers.close()


async def test_a_request_cancelled_as_it_is_granted_keeps_nothing() -> None:
    buffers = UploadBuffers()
    await buffers.take(BUFFER_BYTES)
    waiting = asyncio.create_task(buffers.take(20))
    await asyncio.sleep(0)
    buffers.give_back(BUFFER_BYTES)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert buffers.bytes_left == BUFFER_BYTES
    buffers.close()
