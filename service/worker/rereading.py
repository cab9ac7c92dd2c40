"""Reads of whole vault objects, by key alone, which show whether a file has its proved bytes.

One read proves that an object is whole. It takes more to show that it is not:

1. Read the object over the process's connections, and hash it.
   - *It has the proved size and digest:* it is whole.
   - *The store refuses the request (403):* the store has a problem. End.
2. Read it again over another connection.
   - *Whole:* as above. The difference is logged.
   - *The object is missing, or has other bytes:* that is the verdict.
3. The second read has failed. Probe the store (service/worker/store_health.py), wait for
   THIRD_READ_SECONDS, and read a third time.
   - *The probe fails:* the store is unavailable. End.
   - *The third read fails as well:* the object cannot be read. (MinIO answers 503 for bytes that
     were altered on its disk.)
   - Otherwise: as in step 2.

A read that the store or the network ends early goes on where it ended, with the ETag seen at its
beginning. It has failed if it ends RESUMES times in a row at the same place.
"""

import asyncio
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from uuid import UUID

import msgspec
import structlog

from service import clock
from service.model import Sha256
from service.object_store import Bucket, ObjectMissing, StoreError, StoreUnavailable
from service.resources import WorkerResources, open_store
from service.telemetry.metrics import SCRUBBED_BYTES
from service.worker.proofs import Proof
from service.worker.store_health import probe_store

LARGEST_CHUNK_BYTES: Final = 1024 * 1024
SMALLEST_CHUNK_BYTES: Final = 16 * 1024
CHUNKS_A_SECOND: Final = 4
"""The least number of reads in a second.

At a low rate, a chunk is smaller. The connection then never pauses for so long that the store ends
it.
"""
RESUMES: Final = 3
RESUME_SECONDS: Final = 1.0
THIRD_READ_SECONDS: Final = 10.0
FORBIDDEN: Final = 403

log = structlog.get_logger()


class Stopped(Exception):
    """The end of a read because its process stops."""


class StoreProblem(Exception):
    """A problem of the store, and not of an object."""


class Pace:
    """The rate that several reading threads share, in bytes per second, or None for no limit."""

    def __init__(self, bytes_per_second: int | None) -> None:
        self.rate = bytes_per_second
        self.free_at = 0.0
        self.lock = threading.Lock()
        self.stopped = threading.Event()

    @property
    def chunk_bytes(self) -> int:
        if self.rate is None:
            return LARGEST_CHUNK_BYTES
        return min(LARGEST_CHUNK_BYTES, max(SMALLEST_CHUNK_BYTES, self.rate // CHUNKS_A_SECOND))

    def wait(self, size: int) -> None:
        """Wait until `size` more bytes are within the rate. Raises Stopped."""
        pause = 0.0
        if self.rate is not None:
            with self.lock:
                now = clock.read_seconds()
                pause = max(self.free_at - now, 0)
                self.free_at = max(self.free_at, now) + size / self.rate
        self.pause(pause)

    def pause(self, seconds: float) -> None:
        """Wait for this time. Raises Stopped."""
        if self.stopped.wait(seconds):
            raise Stopped


class Verdict(msgspec.Struct, frozen=True):
    """The result of reading an object: its proof, and why it is not whole, or None if it is.

    There is no proof if the object is missing or cannot be read.
    """

    proof: Proof | None
    why: str | None = None
    is_certain: bool = True
    """False if a read has failed, which may be a problem of the store."""


MISSING: Final = Verdict(None, "the object is missing")


class Rereader:
    """The threads and the second connection to the store for reading objects again."""

    def __init__(self, resources: WorkerResources, *, threads: int, rate: int | None) -> None:
        self.resources = resources
        self.pace = Pace(rate)
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="reread")
        self.second_store = open_store(resources.settings)
        self.second_vault = self.second_store.bucket(resources.settings.vault_bucket)

    def close(self) -> None:
        """End the threads at their next chunk, and close the second connection."""
        self.pace.stopped.set()
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.second_store.close()

    async def judge(self, key: UUID, *, size: int, sha256: Sha256) -> Verdict:
        """Run the protocol above. Raises StoreProblem."""
        first = await self.read(self.resources.vault, key, size=size, sha256=sha256)
        if first.why is None:
            return first
        second = await self.read_again(key, size=size, sha256=sha256)
        if second.why is None:
            log.warning("a first read differed", object=str(key), first=first.why)
        if second.is_certain:
            return second
        error = await probe_store(self.resources)
        if error is not None:
            raise StoreProblem(f"the store is not available: {error}")
        await asyncio.sleep(THIRD_READ_SECONDS)
        return await self.read_again(key, size=size, sha256=sha256)

    async def read_again(self, key: UUID, *, size: int, sha256: Sha256) -> Verdict:
        """Read an object once over the second connection. Raises StoreProblem."""
        return await self.read(self.second_vault, key, size=size, sha256=sha256)

    async def read(self, vault: Bucket, key: UUID, *, size: int, sha256: Sha256) -> Verdict:
        try:
            proof = await self.hash(vault, key)
        except ObjectMissing:
            return MISSING
        except StoreError as error:
            if error.status == FORBIDDEN:
                raise StoreProblem(f"the store refuses to let Assay read: {error}") from error
            return Verdict(None, f"the object cannot be read: {error}", is_certain=False)
        except Stopped as error:
            raise StoreProblem("the process stops") from error
        SCRUBBED_BYTES.inc(proof.size)
        if (proof.size, proof.sha256) == (size, sha256):
            return Verdict(proof)
        return Verdict(proof, f"the object has {proof.size} bytes with SHA-256 {proof.sha256}")

    async def hash(self, vault: Bucket, key: UUID) -> Proof:
        """Hash an object in one of the threads. Raises StoreError and Stopped."""
        execute = asyncio.get_running_loop().run_in_executor
        return await execute(self.threads, hash_object, vault, str(key), self.pace)


def hash_object(vault: Bucket, key: str, pace: Pace) -> Proof:
    """Hash an object in the calling thread, in constant memory. Raises StoreError and Stopped."""
    reading = Reading(vault, key, pace)
    failures = 0
    while True:
        before = reading.size
        try:
            return reading.read_on()
        except StoreUnavailable:
            failures = 0 if reading.size > before else failures + 1
            if reading.size == 0 or failures == RESUMES:
                raise
        pace.pause(RESUME_SECONDS)


class Reading:
    """A read of one object from its beginning to its end, over one or more connections."""

    def __init__(self, vault: Bucket, key: str, pace: Pace) -> None:
        self.vault = vault
        self.key = key
        self.pace = pace
        self.digest = hashlib.sha256()
        self.size = 0
        self.etag: str | None = None

    def read_on(self) -> Proof:
        """Read to the end. After StoreUnavailable, the next call goes on at the same place."""
        with self.vault.open(self.key, etag=self.etag, offset=self.size) as reader:
            self.etag = reader.etag
            while chunk := reader.read(self.pace.chunk_bytes):
                self.digest.update(chunk)
                self.size += len(chunk)
                self.pace.wait(len(chunk))
            return Proof(self.size, Sha256(self.digest.digest()), reader.etag)
