"""Vault keys that a process reserves before any request needs them.

A request thus needs no statement of its own before it writes to the vault.

1. Insert reservations without a file, SMALLEST_BATCH to LARGEST_BATCH in one statement, with a
   lease of LEASE that is never extended. The process notes the end of the lease by its own clock,
   counted from before the statement was sent.
   - The statement fails, or its response is lost: none of the keys is used. Requests that wait for
     a key get the error. The sweeper deletes the reservations after their lease has expired.
2. Hand out each key once, and only while NEEDED of its lease is left, which is enough for one PUT
   and one commit. A key that was handed out is never handed out again, also if its request
   fails. A key that waits in the stock counts only while the process listens over the connection
   that it had when the key was reserved. (A database that has failed over or was restored may lack
   the reservation. The upload would then fail, and no row would name its object.)
   - The request is cancelled before it has used the key: the sweeper deletes the reservation.
   - The process does not listen: each request waits for a key that is reserved for it.
3. Delete the reservations of keys that were not handed out, as soon as less of their lease is left,
   when the connection is another one, and when the process stops. Nothing was ever written under
   them.
   - The statement fails, or the process dies: the sweeper deletes them later.

A batch is twice as large as the one before if that was used up within BUSY_SECONDS, and half as
large if keys of it became too old. The next batch is inserted in the background when a quarter of a
batch is left, so that requests rarely wait. An idle process reserves nothing.

A process that forks must begin with this after the fork, so that no two processes have one key.

See docs/architecture.md, "Streamed and multipart uploads".
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final, NamedTuple

import asyncpg
import structlog

from service import clock
from service.database.notifications import Notifications
from service.database.pool import UNREACHABLE
from service.queries import reservations
from service.queries.reservations import HeldKey

LEASE: Final = timedelta(minutes=5)
NEEDED: Final = timedelta(seconds=130)
SMALLEST_BATCH: Final = 2
LARGEST_BATCH: Final = 64
BUSY_SECONDS: Final = 1.0

log = structlog.get_logger()


class ReservedKey(NamedTuple):
    """A key, and the end of its lease by `clock`.

    `connection` is the number of the notification connection when the key was reserved.
    """

    held: HeldKey
    end: float
    connection: int

    @property
    def seconds_left(self) -> float:
        """Return for how long the key may still be handed out."""
        return self.end - NEEDED.total_seconds() - clock.read_seconds()


class ReservedKeys:
    """The stock of a process. `run` fills it until it is cancelled."""

    def __init__(self, pool: asyncpg.Pool, notifications: Notifications) -> None:
        self.pool = pool
        self.notifications = notifications
        self.stock: deque[ReservedKey] = deque()
        self.waiting: deque[asyncio.Future[ReservedKey]] = deque()
        self.wanted = asyncio.Event()
        self.batch = SMALLEST_BATCH
        self.filled_at = 0.0
        self.filling = asyncio.Lock()

    @property
    def is_low(self) -> bool:
        return len(self.stock) <= self.batch // 4

    def counts(self, key: ReservedKey) -> bool:
        """Return whether the key may be handed out from the stock."""
        return (
            key.seconds_left > 0
            and self.notifications.connected
            and key.connection == self.notifications.connections
        )

    async def take(self) -> ReservedKey:
        """Return a key that no other caller gets. Raises the errors of the pool."""
        if self.stock and self.counts(self.stock[0]):
            key = self.stock.popleft()
            if self.is_low:
                self.wanted.set()
            return key
        waiter: asyncio.Future[ReservedKey] = asyncio.get_running_loop().create_future()
        self.waiting.append(waiter)
        self.wanted.set()
        return await waiter

    async def run(self) -> None:
        """Reserve keys when they are wanted, and forget those that count no more."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.stock[0].seconds_left if self.stock else None):
                    await self.wanted.wait()
            await self.forget(self.take_old())
            was_wanted = self.wanted.is_set()
            self.wanted.clear()
            if was_wanted and (self.waiting or self.is_low):
                async with self.filling:
                    await self.fill()

    async def fill(self) -> None:
        """Reserve a batch, and hand its keys to the callers that wait."""
        asked_at, connection = clock.read_seconds(), self.notifications.connections
        if asked_at - self.filled_at < BUSY_SECONDS:
            self.batch = min(2 * self.batch, LARGEST_BATCH)
        number = max(self.batch, min(len(self.waiting), LARGEST_BATCH))
        try:
            found = await reservations.reserve_keys(self.pool, number, lease=LEASE)
        except Exception as error:
            if not self.waiting:
                log.warning("keys not reserved", error=type(error).__name__)
            self.refuse(error)
            return
        self.filled_at = asked_at
        end = asked_at + LEASE.total_seconds()
        self.stock.extend(ReservedKey(held, end, connection) for held in found)
        self.hand_out()

    def hand_out(self) -> None:
        while self.waiting and self.stock:
            waiter = self.waiting.popleft()
            if not waiter.done():  # it is done if its request was cancelled
                waiter.set_result(self.stock.popleft())
        if self.waiting or self.is_low:
            self.wanted.set()

    def refuse(self, error: BaseException) -> None:
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_exception(error)

    def take_old(self) -> list[ReservedKey]:
        old = []
        while self.stock and not self.counts(self.stock[0]):
            old.append(self.stock.popleft())
        if old:
            self.batch = max(self.batch // 2, SMALLEST_BATCH)
        return old

    async def forget(self, keys: list[ReservedKey]) -> None:
        """Delete the reservations of keys that were not handed out."""
        if not keys:
            return
        try:
            await reservations.forget_unused_keys(self.pool, [key.held.vault_key for key in keys])
        except UNREACHABLE as error:
            log.warning("reserved keys left to the sweeper", error=type(error).__name__)
        except Exception:
            log.exception("reserved keys left to the sweeper")


@contextlib.asynccontextmanager
async def open_reserved_keys(
    pool: asyncpg.Pool, notifications: Notifications
) -> AsyncIterator[ReservedKeys]:
    """Yield the stock of the process. At the end of the block, its keys are forgotten."""
    keys = ReservedKeys(pool, notifications)
    filling = asyncio.create_task(keys.run())
    try:
        yield keys
    finally:
        async with keys.filling:  # otherwise a batch could be inserted and not noted
            filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)
        keys.refuse(asyncio.CancelledError())
        await keys.forget([*keys.stock])
