"""The heartbeat: it extends a lease for as long as its holder works under it."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from service.database.pool import UNREACHABLE

BEATS_A_LEASE: Final = 3

log = structlog.get_logger()


class Heartbeat:
    """A task that extends one lease three times per lease period.

    It runs until it is stopped or the lease is lost. `extend` returns False if the lease is lost.
    While the database is unavailable, the lease may expire, but it counts as lost only when the
    database reports it. `ended` is set when the lease is lost or the heartbeat is stopped, so that
    threads that work under the lease can stop.
    """

    def __init__(
        self,
        extend: Callable[[], Awaitable[bool]],
        *,
        lease: timedelta,
        file_id: UUID,
    ) -> None:
        self.ended = threading.Event()
        self._extend = extend
        self._seconds = lease.total_seconds()
        self._file_id = file_id
        self._task = asyncio.create_task(self._run())

    @property
    def is_lost(self) -> bool:
        return self.ended.is_set()

    async def stop(self) -> None:
        self.ended.set()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        held = True
        while held:
            await asyncio.sleep(self._seconds / BEATS_A_LEASE)
            try:
                held = await self._extend()
            except UNREACHABLE as error:
                log.warning(
                    "lease not extended", file_id=str(self._file_id), error=type(error).__name__
                )
            except Exception:
                log.exception("lease not extended", file_id=str(self._file_id))
                held = False
        self.ended.set()


@contextlib.asynccontextmanager
async def extending(
    extend: Callable[[], Awaitable[bool]], *, lease: timedelta, file_id: UUID
) -> AsyncIterator[Heartbeat]:
    """Yield a heartbeat that runs until the block ends."""
    heartbeat = Heartbeat(extend, lease=lease, file_id=file_id)
    try:
        yield heartbeat
    finally:
        await heartbeat.stop()
