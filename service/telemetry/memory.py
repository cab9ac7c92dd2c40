"""The C library's heap, as a process with many threads and large buffers needs it."""

import contextlib
import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
"""From glibc's malloc.h."""

LARGEST_IN_HEAP: Final = 4 * 1024**2
"""A download's chunk comes from the heap, not from a mapping of its own, whose every page is a fault and is cleared."""
KEPT_BYTES: Final = 16 * 1024**2
"""What is free at the heap's end stays with the process up to here: the next chunks take it as it is."""


def set_up_heap() -> None:
    """Call it before threads begin. One heap for all: glibc gives each thread its own, and what is freed in one is no use to others."""
    with contextlib.suppress(
        OSError, AttributeError, TypeError
    ):  # another C library has one heap, or ways of its own
        library = ctypes.CDLL(None)
        library.mallopt(M_ARENA_MAX, 1)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_IN_HEAP)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
