"""The memory that a download takes from its budget."""

from typing import Any
from uuid import UUID

import pytest

from service.downloads.permits import Permits
from service.downloads.streaming import SMALLEST_CHUNK_BYTES, Body, DownloadBuffers

pytestmark = pytest.mark.anyio


class Bytes:
    """A source of `left` bytes that records the memory that is lent at each read."""

    key = "k"
    position = 0

    def __init__(self, left: int) -> None:
        self.left = left
        self.body: Body | None = None
        self.lent: list[int] = []

    def let_go(self) -> None:
        """Do nothing, because there is no connection."""

    def read(self, size: int) -> bytes:
        assert self.body
        self.lent.append(self.body.lent)
        self.left -= size
        return bytes(size)


async def test_a_download_holds_one_chunk_while_memory_is_scarce() -> None:
    downloads = DownloadBuffers(SMALLEST_CHUNK_BYTES)
    source: Any = Bytes(5 * SMALLEST_CHUNK_BYTES)
    resources: Any = None  # a permit is checked only while Permits.run is running
    permit = Permits(resources).issue(UUID(int=1), UUID(int=2))
    source.body = Body(downloads, source, permit, status=200, headers={})

    async def send(_: Any) -> None:
        """Accept everything at once, as a fast client does."""

    downloads.lend(SMALLEST_CHUNK_BYTES)  # another download has taken all memory
    await source.body.send_all(source, send)
    assert source.lent == [SMALLEST_CHUNK_BYTES] * 5
    assert downloads.bytes_left == 0
    downloads.close()
