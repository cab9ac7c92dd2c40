"""Memory for parts: in the order of asking, and nobody in the queue holds up another by having left."""

import asyncio

import pytest

from service.uploads.buffers import BUFFER_BYTES, Senders

pytestmark = pytest.mark.anyio


async def test_who_leaves_the_queue_lets_the_next_one_through() -> None:
    senders = Senders()
    await senders.take(BUFFER_BYTES - 10)
    large = asyncio.create_task(senders.take(20))
    small = asyncio.create_task(senders.take(5))
    await asyncio.sleep(0)
    assert not small.done()
    large.cancel()
    await asyncio.wait_for(small, 1)
    assert senders.bytes_left == 5
    senders.close()


async def test_who_leaves_as_its_turn_comes_keeps_nothing() -> None:
    senders = Senders()
    await senders.take(BUFFER_BYTES)
    waiting = asyncio.create_task(senders.take(20))
    await asyncio.sleep(0)
    senders.give_back(BUFFER_BYTES)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert senders.bytes_left == BUFFER_BYTES
    senders.close()
