"""Reads and writes of streams that may not be ready, such as non-blocking pipes.

A raw stream that is not ready returns None from `read` and `write`, and a buffered one raises
BlockingIOError. Neither is the end of the stream. The functions wait for its descriptor with
`poll`, or for a moment if it has none.
"""

import io
import select
import time
from typing import Any, BinaryIO, Final

PAUSE_SECONDS: Final = 0.02


def read_when_ready(file: BinaryIO, size: int) -> bytes:
    """Return at most `size` bytes, and b"" at the end. Raises OSError, and ValueError if `read`
    returns None although the object is no stream of the operating system or of `io`.
    """
    while True:
        try:
            piece: bytes | None = file.read(size)
        except BlockingIOError:
            piece = None
        if piece is not None:
            return piece
        if not can_wait(file):
            raise ValueError("`read` returned None, which is neither bytes nor the end")
        wait_until_ready(file, writing=False)


def write_when_ready(file: BinaryIO, view: memoryview) -> int:
    """Write some of the bytes, and return how many. Raises OSError.

    If `write` of an object outside of `io` returns None, it has written all of them.
    """
    while True:
        try:
            written: int | None = file.write(view)
        except BlockingIOError as error:
            written = getattr(error, "characters_written", 0)
        if written is None and not isinstance(file, io.IOBase):
            return len(view)
        if written:
            return written
        wait_until_ready(file, writing=True)


def flush_when_ready(file: BinaryIO) -> None:
    """Write what a buffered stream still holds. Raises OSError."""
    is_flushed = not isinstance(file, io.IOBase)
    while not is_flushed:
        try:
            file.flush()
            is_flushed = True
        except BlockingIOError:
            wait_until_ready(file, writing=True)


def can_wait(file: Any) -> bool:
    return isinstance(file, io.IOBase) or find_descriptor(file) is not None


def wait_until_ready(file: Any, *, writing: bool) -> None:
    descriptor = find_descriptor(file)
    if descriptor is None or not hasattr(select, "poll"):  # Windows has no poll
        time.sleep(PAUSE_SECONDS)
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if writing else select.POLLIN)
    poll.poll()


def find_descriptor(file: Any) -> int | None:
    try:
        descriptor: int = file.fileno()
    except (AttributeError, OSError):
        return None
    return descriptor
