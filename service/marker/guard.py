"""The guard of a process: whether the database agrees with the vault, so that work is allowed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import asyncpg
import msgspec
import structlog

from service import clock, database
from service.marker.document import Document, MarkerUnreadable, read_document, write_document
from service.object_store import Bucket, StoreError
from service.queries import locks
from service.queries import marker as queries
from service.queries.marker import MarkerRow
from service.telemetry.metrics import STOPPED

CHECK_SECONDS: Final = 55.0
RETRY_SECONDS: Final = 5.0
KEPT_SECONDS: Final = 150.0
"""How long the last result counts while the marker cannot be read."""
STOP_SECONDS: Final = 5.0
ADVICE: Final = "run `assay reconcile`"

log = structlog.get_logger()


class Standing(msgspec.Struct, frozen=True):
    """The result of a check.

    `counter` is that of the vault, for `agrees_with_vault`. `stopped` says why no work is allowed,
    or is None.
    """

    counter: int
    stopped: str | None = None


class Guard:
    """The guard of one process. Coroutines can share it."""

    def __init__(self, pool: asyncpg.Pool, vault: Bucket, listen_url: str) -> None:
        self.pool = pool
        self.vault = vault
        self.listen_url = listen_url
        self.standing: Standing | None = None
        self.checked_at = 0.0
        self.due_at = 0.0
        self.checking = asyncio.Lock()

    async def run(self, ended: asyncio.Event) -> None:
        """Check at once, and whenever a check is due, until `ended` is set."""
        while not ended.is_set():
            try:
                await self.check()
            except (asyncpg.PostgresError, *database.UNREACHABLE) as error:
                log.warning("marker not read", error=str(error) or type(error).__name__)
            except Exception:
                log.exception("marker not read")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(self.due_at - clock.read_seconds(), 1.0)):
                    await ended.wait()

    async def check(self) -> Standing:
        """Return the standing, which is at most CHECK_SECONDS old.

        Raises the errors in database.UNREACHABLE if there is none and the database is unavailable.
        """
        if self.standing is None or clock.read_seconds() >= self.due_at:
            async with self.checking:
                if self.standing is None or clock.read_seconds() >= self.due_at:
                    await self.renew()
        assert self.standing is not None  # noqa: S101  # `renew` sets it or raises
        return self.standing

    async def look_again(self) -> Standing:
        """Read both markers now. Raises StoreError and the errors in database.UNREACHABLE."""
        async with self.checking:
            found = await self.compare()
            self.report(found)
            self.standing = found
        return found

    async def renew(self) -> None:
        """Run the protocol above, and keep its result."""
        begun_at = clock.read_seconds()
        try:
            found = await self.compare()
        except (StoreError, asyncpg.PostgresError, *database.UNREACHABLE) as error:
            self.due_at = clock.read_seconds() + RETRY_SECONDS
            log.warning("marker not read", error=str(error) or type(error).__name__)
            if self.standing is not None and begun_at - self.checked_at < KEPT_SECONDS:
                return
            if not isinstance(error, StoreError):
                self.standing = None
                raise
            found = Standing(0, f"the marker in the vault cannot be read: {error}")
        else:
            self.checked_at = begun_at
            self.due_at = begun_at + (RETRY_SECONDS if found.stopped else CHECK_SECONDS)
        self.report(found)
        self.standing = found

    def report(self, found: Standing) -> None:
        before = None if self.standing is None else self.standing.stopped
        STOPPED.set(found.stopped is not None)
        if found.stopped is not None and found.stopped != before:
            log.error("nothing is verified or deleted", reason=found.stopped)
        elif before is not None and found.stopped is None:
            log.info("files are verified and leftovers deleted again")

    async def compare(self) -> Standing:
        row = await queries.read_marker(self.pool)
        try:
            seen = await read_document(self.vault)
        except MarkerUnreadable as error:
            return Standing(0, str(error))
        stopped = judge(row, seen)
        if stopped is not None:  # perhaps only because both were raised between the two reads
            row = await queries.read_marker(self.pool)
            stopped = judge(row, seen)
        if stopped is None and row.is_due:
            try:
                return await self.raise_under_lock(row, seen)
            except (StoreError, asyncpg.PostgresError, *database.UNREACHABLE) as error:
                # The next check raises. What was compared holds nevertheless.
                log.warning("marker not raised", error=str(error) or type(error).__name__)
        return Standing(seen.counter if seen else 0, stopped)

    async def raise_under_lock(self, row: MarkerRow, seen: Document | None) -> Standing:
        connection = await database.connect(self.listen_url, command_timeout=5)
        try:
            if not await locks.try_lock(connection, locks.MARKER):
                return Standing(seen.counter if seen else 0)
            row, seen = await queries.read_marker(connection), await read_document(self.vault)
            stopped = judge(row, seen)
            if stopped is not None:
                return Standing(0, stopped)
            if seen is None:
                await write_document(self.vault, Document(row.deployment, 0, row.identity))
            counter = await queries.raise_marker(connection, row.counter)
            if counter is None:  # the database was replaced just now
                return Standing(row.counter)
            await write_document(self.vault, Document(row.deployment, counter, row.identity))
            return Standing(counter)
        finally:
            await database.close(connection)


def judge(row: MarkerRow, seen: Document | None) -> str | None:
    """Return why no work is allowed, or None if it is."""
    if row.identity != row.found:
        return (
            f"the database was restored, or has failed over to a standby (it is {row.found}, and"
            f" its marker was written for {row.identity}): {ADVICE}"
        )
    if seen is None:
        if row.counter == 0:
            return None
        return f"the vault has no marker, because it was emptied, restored or replaced: {ADVICE}"
    if seen.deployment != row.deployment:
        return (
            f"the vault belongs to the deployment {seen.deployment}, and the database to"
            f" {row.deployment}: correct ASSAY_VAULT_BUCKET or ASSAY_DATABASE_URL, or {ADVICE}"
        )
    if seen.counter > row.counter:
        return f"the database was restored to an earlier state than the vault has: {ADVICE}"
    return None


@contextlib.asynccontextmanager
async def guarded(guard: Guard) -> AsyncIterator[None]:
    """Keep the guard checking until the end of the block.

    A check that has begun then has STOP_SECONDS to end, because a cancelled one may leave a
    connection to the database that is being made.
    """
    ended = asyncio.Event()
    task = asyncio.create_task(guard.run(ended))
    try:
        yield
    finally:
        ended.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(task, STOP_SECONDS)
