"""The memory that a download takes from its budget, and the name in a link."""

from typing import Any

import pytest

from service.downloads.links import encode_name
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
    permit: Any = None  # `send_all` does not use it
    source.body = Body(downloads, source, permit, status=200, headers={})

    async def send(_: Any) -> None:
        """Accept everything at once, as a fast client does."""

    downloads.lend(SMALLEST_CHUNK_BYTES)  # another download has taken all memory
    await source.body.send_all(source, send)
    assert source.lent == [SMALLEST_CHUNK_BYTES] * 5
    assert downloads.bytes_left == 0
    downloads.close()


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("a b.txt", "a%20b.txt"),
        ("\u20ac", "%E2%82%AC"),
        ("a%2Fb?c#d", "a%252Fb%3Fc%23d"),
        ("..", "_"),
        (".", "_"),
        ("...", "..."),
        ("..\n", ".._"),
        ("../a", ".._a"),
        ("a\\b\x00\x7f\x85c", "a_b___c"),
    ],
)
def test_the_name_in_a_link_is_one_segment_of_a_path(filename: str, expected: str) -> None:
    assert encode_name(filename) == expected
