"""Wake-ups: signals that a file is due, that a file has changed, or that the history has grown.

Within a process, a signal needs no database. Between processes, it is sent by NOTIFY.

The database itself sends one signal: a trigger notifies of changed API keys
(service/database/grants.py).

NOTIFY is never part of a transition's transaction, because it takes a lock on the whole database at
commit. A signal is given after the commit, and one connection per process sends the signals of a
few milliseconds together, or of 30 ms while there are always more. A signal may be lost. Workers
therefore poll, and a request that waits for a file reads its row again after each reconnection. See
docs/decisions/0007-notify-outside-the-transaction.md.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import structlog

from service.database import UNREACHABLE, connect

CHANNEL: Final = "assay"
NOTIFY: Final = "SELECT pg_notify('assay', payload) FROM unnest($1::text[]) AS payload"
COALESCE_SECONDS: Final = 0.005
MOST_COALESCE_SECONDS: Final = 0.03
"""The pause while there are always more signals. Each one doubles the pause before it."""
HISTORY_SECONDS: Final = 0.05
"""The delay before other processes are notified of a transition for which no request waits."""
HEARTBEAT_SECONDS: Final = 10.0
IDS_A_PAYLOAD: Final = 200  # PostgreSQL limits a payload to less than 8,000 bytes
MOST_CHANGED: Final = 10_000
"""The number of changed files from which on `all` is sent instead of their ids."""

log = structlog.get_logger()


class Notifications:
    """The signals of one process, and its connection for LISTEN and NOTIFY.

    `run` keeps the connection open. The other methods may be called from any coroutine of the event
    loop.
    """

    def __init__(self, listen_url: str) -> None:
        self.url = listen_url
        self.origin = uuid4().hex[:8]  # with it, the process ignores its own notifications
        self.waiters: dict[UUID, set[asyncio.Event]] = defaultdict(set)
        self.work = asyncio.Event()
        self.leftovers = asyncio.Event()
        self.history = asyncio.Event()
        self.changed: set[UUID] = set()
        self.to_send = asyncio.Event()
        self.work_to_send = False
        self.leftovers_to_send = False
        self.history_to_send = False
        self.sending_history: asyncio.TimerHandle | None = None
        self.unsent: list[str] = []
        self.connected = False
        self.connections = 0
        """The number of connections so far. Signals may be lost between two of them."""
        self.key_changes = 0
        """The number of times that a key may have changed, or that notifications may be lost."""
        self.stopping = asyncio.Event()

    def notify_work(self) -> None:
        """Signal that a file is due now."""
        self.work.set()
        self.work_to_send = True
        self.to_send.set()

    def notify_history(self) -> None:
        """Signal a transition that concerns only readers of the history."""
        self.history.set()
        if self.sending_history is None:
            self.sending_history = asyncio.get_running_loop().call_later(
                HISTORY_SECONDS, self.send_history
            )

    def send_history(self) -> None:
        self.sending_history = None
        self.history_to_send = True
        self.to_send.set()

    def notify_change(self, file_id: UUID) -> None:
        """Signal a change of the file's state for which a request may wait."""
        self.wake(file_id)
        self.history.set()
        if len(self.changed) < MOST_CHANGED:
            self.changed.add(file_id)
        self.to_send.set()

    def notify_leftovers(self) -> None:
        """Wake the sweeper of this process, which is a worker's."""
        self.leftovers.set()

    def announce_leftovers(self) -> None:
        """Wake the sweepers of all processes, because this one may have none."""
        self.leftovers.set()
        self.leftovers_to_send = True
        self.to_send.set()

    @contextlib.contextmanager
    def subscribe(self, file_id: UUID) -> Iterator[asyncio.Event]:
        """Yield an event that is set when the file may have changed.

        The caller subscribes, then reads the row, and then waits, so that it misses no change.
        """
        event = asyncio.Event()
        self.waiters[file_id].add(event)
        try:
            yield event
        finally:
            self.waiters[file_id].discard(event)
            if not self.waiters[file_id]:
                del self.waiters[file_id]

    def wake(self, file_id: UUID) -> None:
        for event in self.waiters.get(file_id, ()):
            event.set()

    def stop_waiting(self) -> None:
        """End all waiting, because the process stops.

        Requests that wait for a file return it as it is now, and event streams end.
        """
        self.stopping.set()
        self.wake_all()

    @property
    def closing(self) -> bool:
        return self.stopping.is_set()

    def wake_all(self) -> None:
        """Wake every waiting coroutine, as when signals may have been lost."""
        self.work.set()
        self.history.set()
        for file_id in list(self.waiters):
            self.wake(file_id)

    async def run(self) -> None:
        """Listen and send until cancelled. Reconnect whenever the connection is lost."""
        delay = 0.1
        while True:
            try:
                async with self.connection() as (connection, lost):
                    delay = 0.1
                    await self.send(connection, lost)
            except (asyncpg.PostgresError, *UNREACHABLE) as error:
                # A full NOTIFY queue is such an error as well. No other code restarts this task.
                log.warning(
                    "notification connection lost", error=type(error).__name__, retry_seconds=delay
                )
            except Exception:
                log.exception("notification connection failed", retry_seconds=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncpg.Connection, asyncio.Event]]:
        connection = await self.connect()
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: self.lose(lost))
            await connection.add_listener(CHANNEL, self.receive)
            self.connections += 1
            self.key_changes += 1
            self.connected = True
            self.wake_all()
            yield connection, lost
        finally:
            self.connected = False
            connection.terminate()
            self.wake_all()

    async def connect(self) -> asyncpg.Connection:
        """Open the connection.

        If the caller is cancelled, wait for the attempt to end, and close its connection. (An
        attempt that is interrupted leaves an error in asyncpg that no code can catch.)
        """
        connecting = asyncio.ensure_future(
            connect(self.url, command_timeout=5, statement_cache_size=0)
        )
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            with contextlib.suppress(*UNREACHABLE, asyncpg.PostgresError):
                (await connecting).terminate()
            raise

    def lose(self, lost: asyncio.Event) -> None:
        self.connected = False
        lost.set()
        self.to_send.set()  # `send` waits for this event alone

    async def send(self, connection: asyncpg.Connection, lost: asyncio.Event) -> None:
        """Send the signals until the connection is lost.

        If there is no signal for HEARTBEAT_SECONDS, send a statement without any. Otherwise the
        loss of a connection without traffic would never be noticed.
        """
        pause = COALESCE_SECONDS
        while not lost.is_set():
            # In Python 3.11, asyncio.wait_for may swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0 if self.unsent else HEARTBEAT_SECONDS):
                    await self.to_send.wait()
            self.to_send.clear()
            self.unsent += self.take_payloads()
            await connection.execute(NOTIFY, self.unsent)
            self.unsent.clear()
            # The pause comes after the statement, so that a single signal is sent without delay.
            await asyncio.sleep(pause)
            is_busy = self.to_send.is_set()
            pause = min(2 * pause, MOST_COALESCE_SECONDS) if is_busy else COALESCE_SECONDS

    @property
    def has_more_to_send(self) -> bool:
        return self.to_send.is_set() or bool(self.unsent)

    async def flush(self) -> None:
        """Wait for at most 0.2 s until the last signals are sent.

        Signals are hints, so it does no harm if they are lost.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 0.2
        if self.sending_history is not None:
            self.sending_history.cancel()
            self.send_history()
        while (  # noqa: ASYNC110  # the sender sets no event when it is done
            self.connected and self.has_more_to_send and loop.time() < deadline
        ):
            await asyncio.sleep(COALESCE_SECONDS)

    def take_payloads(self) -> list[str]:
        """Return the payloads of the pending signals, which are then no longer pending.

        A payload is `ORIGIN work`, `ORIGIN leftovers`, `ORIGIN history`, `ORIGIN id,id,…` or
        `ORIGIN all`.
        """
        payloads = [f"{self.origin} work"] if self.work_to_send else []
        payloads += [f"{self.origin} leftovers"] if self.leftovers_to_send else []
        payloads += [f"{self.origin} history"] if self.history_to_send else []
        ids = (
            ["all"]
            if len(self.changed) == MOST_CHANGED
            else [file_id.hex for file_id in self.changed]
        )
        payloads += [
            f"{self.origin} " + ",".join(ids[i : i + IDS_A_PAYLOAD])
            for i in range(0, len(ids), IDS_A_PAYLOAD)
        ]
        self.work_to_send = self.leftovers_to_send = self.history_to_send = False
        self.changed.clear()
        return payloads

    def receive(
        self, _connection: asyncpg.Connection, _pid: int, _channel: str, payload: object
    ) -> None:
        origin, _, what = str(payload).partition(" ")
        if origin == self.origin:
            return
        if what == "work":
            self.work.set()
            return
        if what == "leftovers":
            self.leftovers.set()
            return
        if what == "keys":  # sent by a trigger
            self.key_changes += 1
            return
        if what == "all":
            self.wake_all()
            return
        self.history.set()
        for text in what.split(","):
            with contextlib.suppress(ValueError):  # any client of the database may send any payload
                self.wake(UUID(text))
