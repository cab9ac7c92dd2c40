"""The C library's heap, as a process with many threads and large buffers needs it."""

import contextlib
import ctypes
from typing import Final

M_ARENA_MAX: Final = -8
"""From glibc's malloc.h."""


def share_one_heap() -> None:
    """Call it before threads begin. glibc gives each a heap of its own: a buffer freed in one is no use to the others."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library has one heap, or ways of its own
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
