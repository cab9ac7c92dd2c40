"""The scrub: it reads the objects of proved files again and compares them with what was proved.

A store can lose bytes after they were proved, and an administrator can remove, replace or restore
objects. Readers never get other bytes by chance, because a read requires the ETag of the row. But
only a read of the whole object shows whether the file can still be downloaded.

A scrub runs in any worker, and in one process of the deployment at a time. That process holds a
session-level advisory lock. The lock keeps the deployment within SCRUB_RATE. Nothing else depends
on it, because each statement below is guarded by the state and the vault key.

1. Take the lock, and check the marker (service/marker/__init__.py).
   - Another session has the lock: end.
   - The database does not agree with the vault: end. The marker's check reports it.
2. Take the files that are due, a page at a time, the oldest check first. A `ready` file is due
   SCRUB_EVERY after it was last read. For a worker, a `damaged` file is due after a day, and for
   `assay scrub` always. Check the marker and the lock before each page.
3. Read each object by its key alone, and hash it.
   - *It has the proved size and digest:* record the time and the object's ETag of today. (A
     restored object has another one than before.) A damaged file becomes `ready`.
   - *The store refuses the request (403):* stop.
   - *It is missing, has other bytes or cannot be read:* read it again over another connection.
     - It is whole now: as above.
     - It is missing or has other bytes: it is suspect.
     - The file was deleted meanwhile, or names another object: it is not suspect.
     - It cannot be read: probe the store (service/worker/store_health.py). If the probe fails,
       stop. Otherwise the object is suspect.
4. More than MOST_SUSPECTS files in a row are suspect: stop. That is a store with a problem, or
   another store, and not so many damaged files. The administrator can say otherwise.
5. Another object is whole, or nothing more is due: read the marker. Then the suspects become
   `damaged`.
   - The database does not agree with the vault by now: end. (The vault was emptied while the scrub
     ran.)
   - The marker cannot be read: stop.
   - A suspect is not `ready` any more, or names another object: nothing happens to it.

Stop: record the reason, in which `assay doctor` and the metrics show it. No suspect becomes
`damaged`. A worker tries again after an hour.

The process dies, or is interrupted: what was recorded stays, and the next scrub continues with the
oldest check. A read that was not finished begins again.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Final, Literal

import asyncpg
import msgspec
import structlog

from service import database
from service.model import State
from service.object_store import Bucket, ObjectMissing, StoreError
from service.queries import locks
from service.queries import scrubbing as queries
from service.queries.scrubbing import DueFile
from service.resources import WorkerResources, open_store
from service.telemetry.metrics import SCRUBBED, SCRUBBED_BYTES
from service.worker.proofs import Proof
from service.worker.rereading import Pace, Stopped, hash_object
from service.worker.store_health import probe_store

READERS: Final = 4
MOST_SUSPECTS: Final = 5
DAMAGED_EVERY: Final = timedelta(days=1)
REST: Final = timedelta(hours=1)
"""The time between a stop and the next attempt of a worker."""
FORBIDDEN: Final = 403
MISSING: Final = "the object is missing"

log = structlog.get_logger()


class ScrubStopped(Exception):
    """The reason why a scrub ended before everything due was read."""


class VaultDisagrees(ScrubStopped):
    """A stop for the reason that the marker's check reports, which is therefore not recorded."""


class ScrubBusy(Exception):
    """The state in which another process scrubs."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a scrub reads, and how fast.

    A `ready` file is due `every` after its last check, and a damaged one `damaged_every` after it.
    `rate` is in bytes per second. If `beside` is true, the scrub runs beside that of a worker. If
    `trust_store` is true, any number of files in a row can become `damaged`.
    """

    every: timedelta
    damaged_every: timedelta
    rate: int
    beside: bool = False
    trust_store: bool = False


class Judged(msgspec.Struct, frozen=True):
    """A file that was read, and why its object is suspect, or None if it is whole."""

    file: DueFile
    proof: Proof | None
    why: str | None = None


class Found(msgspec.Struct, frozen=True):
    """A file that became `damaged`, is `damaged` still, or is whole again."""

    what: Literal["damaged", "still", "whole"]
    file: DueFile
    detail: str


async def scrub_when_due(resources: WorkerResources) -> None:
    """Scrub as a worker does. A stop is recorded and logged."""
    every = resources.settings.scrub_every
    if not await queries.is_due(
        resources.pool, every=every, damaged_every=DAMAGED_EVERY, rest=REST
    ):
        return
    options = Options(every=every, damaged_every=DAMAGED_EVERY, rate=resources.settings.scrub_rate)
    with contextlib.suppress(ScrubBusy, ScrubStopped):
        async for found in scrub(resources, options):  # nothing below raises
            log.warning(
                "scrubbed",
                found=found.what,
                file_id=str(found.file.id),
                object=str(found.file.key),
                detail=found.detail,
            )


async def scrub(resources: WorkerResources, options: Options) -> AsyncGenerator[Found, None]:
    """Run the protocol above. Yield the files that are not as they were.

    Raises ScrubBusy, ScrubStopped and the errors in database.UNREACHABLE.
    """
    connection = await database.connect(resources.settings.listen_url, command_timeout=10)
    try:
        if not await locks.try_lock(connection, locks.SCRUB) and not options.beside:
            raise ScrubBusy("another process scrubs")
        await measure(resources)
        async with contextlib.aclosing(run(resources, options, connection)) as everything:
            async for found in everything:
                yield found
        await queries.note_stop(resources.pool, None)
    except VaultDisagrees:
        raise
    except ScrubStopped as stop:
        log.error("scrub stopped", reason=str(stop))  # noqa: TRY400  # a traceback adds nothing
        await queries.note_stop(resources.pool, str(stop))
        raise
    finally:
        await database.close(connection)


async def measure(resources: WorkerResources) -> None:
    """Warn if the vault cannot be read once within the interval."""
    every, rate = resources.settings.scrub_every, resources.settings.scrub_rate
    size = await queries.measure_vault(resources.pool)
    if size is not None and size / rate > every.total_seconds():
        log.warning(
            "the scrub takes longer than its interval",
            vault_bytes=size,
            days=round(size / rate / 86_400, 1),
            advice="raise ASSAY_SCRUB_RATE or ASSAY_SCRUB_EVERY",
        )


async def run(
    resources: WorkerResources, options: Options, connection: asyncpg.Connection
) -> AsyncGenerator[Found, None]:
    """Steps 2 to 5 of the protocol above."""
    scrubber = Scrubber(resources, options)
    files = list_due(resources, options, connection)
    try:
        async with contextlib.aclosing(scrubber.read_all(files)) as everything:
            async for judged in everything:
                for found in await scrubber.conclude(judged):
                    yield found
        for found in await scrubber.mark_suspects():
            yield found
    finally:
        scrubber.close()


async def list_due(
    resources: WorkerResources, options: Options, connection: asyncpg.Connection
) -> AsyncGenerator[DueFile, None]:
    """Step 2 of the protocol above. Damaged files come first. Raises VaultDisagrees."""
    ready, damaged = await queries.ask_bounds(
        resources.pool, every=options.every, damaged_every=options.damaged_every
    )
    bounds: tuple[tuple[bool, datetime], ...] = ((True, damaged), (False, ready))
    for is_damaged, before in bounds:
        last: DueFile | None = None
        while True:
            standing = await resources.guard.check()
            if standing.stopped is not None:
                raise VaultDisagrees(standing.stopped)
            await connection.fetchval("SELECT 1")  # the session, and with it the lock, lives
            page = await queries.list_due(
                resources.pool,
                damaged=is_damaged,
                before=before,
                after=last,
                counter=standing.counter,
            )
            if not page:
                break
            for last in page:
                yield last


class Scrubber:
    """One run of the scrub, with its threads and its second connection to the store."""

    def __init__(self, resources: WorkerResources, options: Options) -> None:
        self.resources = resources
        self.trust_store = options.trust_store
        self.pace = Pace(options.rate)
        self.threads = ThreadPoolExecutor(READERS, thread_name_prefix="scrub")
        self.second_store = open_store(resources.settings)
        self.second_vault = self.second_store.bucket(resources.settings.vault_bucket)
        self.suspects: list[Judged] = []

    def close(self) -> None:
        """End the threads at their next chunk, and close the second connection."""
        self.pace.stopped.set()
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.second_store.close()

    async def read_all(self, files: AsyncGenerator[DueFile, None]) -> AsyncGenerator[Judged, None]:
        """Read the objects, READERS at once. A large one holds up no others.

        Raises ScrubStopped.
        """
        reading: set[asyncio.Task[Judged]] = set()
        try:
            async with contextlib.aclosing(files):
                async for file in files:
                    reading.add(asyncio.create_task(self.judge(file)))
                    while len(reading) >= READERS:
                        yield await take_first(reading)
            while reading:
                yield await take_first(reading)
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    async def judge(self, file: DueFile) -> Judged:
        """Step 3 of the protocol above. Raises ScrubStopped."""
        first = await self.read(self.resources.vault, file)
        if first.why is None:
            return first
        second = await self.read(self.second_vault, file)
        if second.why is None:
            log.warning(
                "a first read differed", object=str(file.key), first=first.why, file_id=str(file.id)
            )
        elif second.proof is None and not second.why.startswith(MISSING):
            error = await probe_store(self.resources)
            if error is not None:
                raise ScrubStopped(f"the store is not available: {error}")
        return second

    async def read(self, vault: Bucket, file: DueFile) -> Judged:
        """Read an object once. Raises ScrubStopped if the store refuses the request."""
        execute = asyncio.get_running_loop().run_in_executor
        try:
            proof = await execute(self.threads, self.read_now, vault, str(file.key))
        except ObjectMissing:
            return Judged(file, None, MISSING)
        except StoreError as error:
            if error.status == FORBIDDEN:
                raise ScrubStopped(f"the store refuses to let Assay read: {error}") from error
            return Judged(file, None, f"the object cannot be read: {error}")
        except Stopped as error:
            raise ScrubStopped("the process stops") from error
        SCRUBBED_BYTES.inc(proof.size)
        if (proof.size, proof.sha256) == (file.size, file.hash):
            return Judged(file, proof)
        return Judged(file, proof, f"the object has {proof.size} bytes with SHA-256 {proof.sha256}")

    def read_now(self, vault: Bucket, key: str) -> Proof:
        return hash_object(vault, key, wait=self.pace.wait, chunk_bytes=self.pace.chunk_bytes)

    async def conclude(self, judged: Judged) -> list[Found]:
        """Record what a read has shown. Raises ScrubStopped if too many in a row are suspect."""
        if judged.why is None:
            return [*await self.mark_whole(judged), *await self.mark_suspects()]
        if not await queries.is_named(self.resources.pool, judged.file.id, judged.file.key):
            return []
        if judged.file.state == State.DAMAGED:
            await queries.note_check(self.resources.pool, judged.file.id, judged.file.key)
            SCRUBBED.labels("damaged").inc()
            return [Found("still", judged.file, judged.why)]
        self.suspects.append(judged)
        if len(self.suspects) > MOST_SUSPECTS and not self.trust_store:
            raise ScrubStopped(
                f"{len(self.suspects)} files in a row are missing, altered or unreadable, the last"
                f" {judged.file.id} ({judged.why}): check the store, then run"
                " `assay scrub --trust-store` if it is right"
            )
        return []

    async def mark_whole(self, judged: Judged) -> list[Found]:
        file, proof = judged.file, judged.proof
        assert proof is not None  # noqa: S101  # a whole object has a proof
        if not await queries.mark_whole(self.resources.pool, file.id, file.key, etag=proof.etag):
            return []
        SCRUBBED.labels("whole").inc()
        if file.state != State.DAMAGED:
            return []
        self.resources.notifications.notify_change(file.id)
        return [Found("whole", file, "the object has the proved bytes again")]

    async def mark_suspects(self) -> list[Found]:
        """Step 5 of the protocol above. Raises ScrubStopped."""
        if not self.suspects:
            return []
        try:
            standing = await self.resources.guard.look_again()
        except StoreError as error:
            raise ScrubStopped(f"the marker cannot be read: {error}") from error
        if standing.stopped is not None:
            raise VaultDisagrees(standing.stopped)
        suspects, self.suspects = self.suspects, []
        return [found for suspect in suspects for found in await self.mark_damaged(suspect)]

    async def mark_damaged(self, suspect: Judged) -> list[Found]:
        file, why = suspect.file, suspect.why or ""
        if not await queries.mark_damaged(self.resources.pool, file.id, file.key, why=why):
            return []
        SCRUBBED.labels("damaged").inc()
        self.resources.notifications.notify_change(file.id)
        return [Found("damaged", file, why)]


async def take_first(reading: set[asyncio.Task[Judged]]) -> Judged:
    """Wait until a read ends, remove it from the set, and return its result."""
    done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
    ended = done.pop()
    reading.discard(ended)
    return ended.result()
