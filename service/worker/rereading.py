"""Reads of whole vault objects, by key alone and at a limited rate."""

import hashlib
import threading
from collections.abc import Callable
from typing import Final

from service import clock
from service.model import Sha256
from service.object_store import Bucket
from service.worker.proofs import Proof

LARGEST_CHUNK_BYTES: Final = 1024 * 1024
SMALLEST_CHUNK_BYTES: Final = 16 * 1024
CHUNKS_A_SECOND: Final = 4
"""The least number of reads in a second.

At a low rate, a chunk is smaller. The connection then never pauses for so long that the store ends
it.
"""


class Stopped(Exception):
    """The end of a read because its process stops."""


class Pace:
    """The rate that several reading threads share, in bytes per second."""

    def __init__(self, bytes_per_second: int) -> None:
        self.rate = bytes_per_second
        self.free_at = 0.0
        self.lock = threading.Lock()
        self.stopped = threading.Event()

    @property
    def chunk_bytes(self) -> int:
        return min(LARGEST_CHUNK_BYTES, max(SMALLEST_CHUNK_BYTES, self.rate // CHUNKS_A_SECOND))

    def wait(self, size: int) -> None:
        """Wait until `size` more bytes are within the rate. Raises Stopped."""
        with self.lock:
            now = clock.read_seconds()
            pause = max(self.free_at - now, 0)
            self.free_at = max(self.free_at, now) + size / self.rate
        if self.stopped.wait(pause):
            raise Stopped


def read_at_once(_: int) -> None:
    """Limit nothing."""


def hash_object(
    vault: Bucket,
    key: str,
    *,
    wait: Callable[[int], None] = read_at_once,
    chunk_bytes: int = LARGEST_CHUNK_BYTES,
) -> Proof:
    """Hash an object in the calling thread, in constant memory.

    `wait` is called with the size of each chunk before the next one is read. Raises StoreError.
    """
    digest, size = hashlib.sha256(), 0
    with vault.open(key, etag=None) as reader:
        while chunk := reader.read(chunk_bytes):
            digest.update(chunk)
            size += len(chunk)
            wait(len(chunk))
        return Proof(size, Sha256(digest.digest()), reader.etag)
