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
3. Read each object by its key alone, several at once (service/worker/rereading.py).
   - *It is whole:* record the time and the object's ETag of today. (A restored object has another
     one than before.) A damaged file becomes `ready`.
   - *It is missing, has other bytes or cannot be read:* it is suspect.
   - *The file was deleted meanwhile, or names another object:* nothing happens to it.
   - *The store has a problem:* stop.
4. More than MOST_SUSPECTS files in a row are suspect: stop. That is a store with a problem, or
   another store, and not so many damaged files. The administrator can say otherwise.
5. Another object is whole, or nothing more is due: read the marker. Then the suspects become
   `damaged`.
   - The database does not agree with the vault by now: end. (The vault was emptied while the scrub
     ran.)
   - The marker cannot be read: stop.
   - A suspect was read more than STALE_SECONDS ago: read it again, as in step 3. An administrator
     may have put its object back.
   - A suspect is not `ready` any more, or names another object: nothing happens to it.

Stop: record the reason, in which `assay doctor` and the metrics show it. No suspect becomes
`damaged`. If they were too many, they are due first. A worker tries again after an hour.

A worker's run ends after LONGEST_RUN, and the next one begins.

The process dies, or is interrupted: what was recorded stays, and the next scrub continues with the
oldest check. A read that was not finished begins again.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from typing import Final, Literal

import asyncpg
import msgspec
import structlog

from service import clock, database
from service.model import State
from service.object_store import StoreError
from service.queries import locks
from service.queries import scrubbing as queries
from service.queries.scrubbing import DueFile
from service.resources import WorkerResources
from service.telemetry.metrics import SCRUBBED
from service.worker.rereading import Rereader, StoreProblem, Verdict

READERS: Final = 4
MOST_SUSPECTS: Final = 5
DAMAGED_EVERY: Final = timedelta(days=1)
REST: Final = timedelta(hours=1)
"""The time between a stop and the next attempt of a worker."""
LONGEST_RUN: Final = timedelta(hours=1)
"""The time after which a worker's run ends.

The next run begins again with what is due first: damaged files, and those that a reader has asked
for.
"""
STALE_SECONDS: Final = 5.0

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
    `rate` is in bytes per second. After `longest`, no further file is read. If `beside` is true,
    the scrub runs beside that of a worker. If `trust_store` is true, any number of files in a row
    can become `damaged`.
    """

    every: timedelta
    damaged_every: timedelta
    rate: int
    longest: timedelta | None = None
    beside: bool = False
    trust_store: bool = False


class Judged(msgspec.Struct, frozen=True):
    """A file that was read, the verdict, and its time by `clock`."""

    file: DueFile
    verdict: Verdict
    judged_at: float


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
    options = Options(
        every=every,
        damaged_every=DAMAGED_EVERY,
        rate=resources.settings.scrub_rate,
        longest=LONGEST_RUN,
    )
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
        await measure(resources, connection)
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


async def measure(resources: WorkerResources, connection: asyncpg.Connection) -> None:
    """Warn if the vault cannot be read once within the interval."""
    every, rate = resources.settings.scrub_every, resources.settings.scrub_rate
    try:
        size = await queries.measure_vault(connection)
    except TimeoutError:
        log.warning("vault not measured", error="the statement took too long")
        return
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
        scrubber.rereader.close()


async def list_due(
    resources: WorkerResources, options: Options, connection: asyncpg.Connection
) -> AsyncGenerator[DueFile, None]:
    """Step 2 of the protocol above. Damaged files come first. Raises VaultDisagrees."""
    ready, damaged = await queries.ask_bounds(
        resources.pool, every=options.every, damaged_every=options.damaged_every
    )
    end = math.inf
    if options.longest is not None:
        end = clock.read_seconds() + options.longest.total_seconds()
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
                if clock.read_seconds() > end:
                    return
                yield last


class Scrubber:
    """One run of the scrub."""

    def __init__(self, resources: WorkerResources, options: Options) -> None:
        self.resources = resources
        self.trust_store = options.trust_store
        self.rereader = Rereader(resources, threads=READERS, rate=options.rate)
        self.suspects: list[Judged] = []

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
        try:
            verdict = await self.rereader.judge(file.key, size=file.size, sha256=file.hash)
        except StoreProblem as error:
            raise ScrubStopped(str(error)) from error
        return Judged(file, verdict, clock.read_seconds())

    async def conclude(self, judged: Judged) -> list[Found]:
        """Record what a read has shown. Raises ScrubStopped if too many in a row are suspect."""
        file, why = judged.file, judged.verdict.why
        if why is None:
            return [*await self.mark_whole(judged), *await self.mark_suspects()]
        if not await queries.is_named(self.resources.pool, file.id, file.key):
            return []
        if file.state == State.DAMAGED:
            await queries.note_check(self.resources.pool, file.id, file.key)
            SCRUBBED.labels("damaged").inc()
            return [Found("still", file, why)]
        self.suspects.append(judged)
        if len(self.suspects) > MOST_SUSPECTS and not self.trust_store:
            await self.stop(f"{file.id} ({why})")
        return []

    async def stop(self, last: str) -> None:
        """Make the suspects due, so that the next scrub begins with them. Raises ScrubStopped."""
        for suspect in self.suspects:
            await queries.request_check(self.resources.pool, suspect.file.id, suspect.file.key)
        raise ScrubStopped(
            f"{len(self.suspects)} files in a row are missing, altered or unreadable, the last"
            f" {last}: check the store, then run `assay scrub --trust-store` if it is right"
        )

    async def mark_whole(self, judged: Judged) -> list[Found]:
        file, proof = judged.file, judged.verdict.proof
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
        if clock.read_seconds() - suspect.judged_at > STALE_SECONDS:
            suspect = await self.judge(suspect.file)
        file, why = suspect.file, suspect.verdict.why
        if why is None:
            return await self.mark_whole(suspect)
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
