"""What a download counts as its memory."""

from typing import Any

import pytest

from service.downloads.streaming import SMALLEST_CHUNK_BYTES, Body, DownloadBuffers

pytestmark = pytest.mark.anyio


class Bytes:
    """A source of so many bytes that notes what is lent at each read."""

    key = "k"
    position = 0

    def __init__(self, left: int) -> None:
        self.left = left
        self.body: Body | None = None
        self.lent: list[int] = []

    def let_go(self) -> None:
        """There is no connection."""

    def read(self, size: int) -> bytes:
        assert self.body
        self.lent.append(self.body.lent)
        self.left -= size
        return bytes(size)


async def test_who_downloads_while_memory_is_scarce_holds_one_chunk() -> None:
    downloads = DownloadBuffers(SMALLEST_CHUNK_BYTES)
    source: Any = Bytes(5 * SMALLEST_CHUNK_BYTES)
    source.body = Body(downloads, source, status=200, headers={})

    async def send(_: Any) -> None:
        """A client that takes all at once."""

    downloads.lend(SMALLEST_CHUNK_BYTES)  # somebody else's: nothing is left
    await source.body.send_all(source, send)
    assert source.lent == [SMALLEST_CHUNK_BYTES] * 5
    assert downloads.bytes_left == 0
    downloads.close()
