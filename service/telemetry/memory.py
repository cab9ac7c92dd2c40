"""The settings of the C library's heap for a process with many threads and large buffers."""

import contextlib
import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
"""Constants of glibc's malloc.h."""

LARGEST_IN_HEAP: Final = 4 * 1024**2
"""The size up to which memory comes from the heap, as for the chunks of downloads.

A mapping for each chunk would cause a page fault for each page, and clear it.
"""
KEPT_BYTES: Final = 16 * 1024**2
"""The free memory at the heap's end that the process keeps for the next chunks."""


def set_up_heap() -> None:
    """Make all threads share one heap. Call this before threads start.

    By default, glibc gives each thread its own heap, and memory freed in one cannot be used by
    others.
    """
    with contextlib.suppress(
        OSError, AttributeError, TypeError
    ):  # another C library has one heap, or other settings
        library = ctypes.CDLL(None)
        library.mallopt(M_ARENA_MAX, 1)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_IN_HEAP)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
