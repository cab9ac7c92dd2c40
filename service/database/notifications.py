"""Wake-ups: "there is work", "this file changed", "the history has grown".

Within a process they need no database, between processes they go by NOTIFY.

NOTIFY never rides in a transition's transaction (it takes a lock on the whole database at commit), so a signal is given
after the commit and sent by one connection a process, a few milliseconds' worth at a time. A signal may get lost: workers
poll, and whoever waits for a file reads again after every reconnect.
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
HISTORY_SECONDS: Final = 0.05
"""So much later other processes hear of a transition that nobody waits for by its file's id; a declaration alone is none of their work."""
HEARTBEAT_SECONDS: Final = 10.0
IDS_A_PAYLOAD: Final = 200  # a payload holds less than 8,000 bytes
MOST_CHANGED: Final = 10_000
"""Kept for later at the most; of more, only that there were many."""

log = structlog.get_logger()


class Notifications:
    """One a process. `run` keeps the connection; the rest may be called from any coroutine of the loop."""

    def __init__(self, listen_url: str) -> None:
        self.url = listen_url
        self.origin = uuid4().hex[:8]  # to pass over what we sent ourselves
        self.waiters: dict[UUID, set[asyncio.Event]] = defaultdict(set)
        self.work = asyncio.Event()
        self.leftovers = asyncio.Event()
        self.history = asyncio.Event()
        self.changed: set[UUID] = set()
        self.to_send = asyncio.Event()
        self.work_to_send = False
        self.history_to_send = False
        self.sending_history: asyncio.TimerHandle | None = None
        self.unsent: list[str] = []
        self.connected = False
        self.stopping = asyncio.Event()

    def notify_work(self) -> None:
        """A file is due now."""
        self.work.set()
        self.work_to_send = True
        self.to_send.set()

    def notify_history(self) -> None:
        """A transition was written down that nobody waits for but who reads the history."""
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
        """A file changed its state in a way that somebody may wait for."""
        self.wake(file_id)
        self.history.set()
        if len(self.changed) < MOST_CHANGED:
            self.changed.add(file_id)
        self.to_send.set()

    def notify_leftovers(self) -> None:
        """Something of this process's own making can be swept; other sweepers find it in the database."""
        self.leftovers.set()

    @contextlib.contextmanager
    def subscribe(self, file_id: UUID) -> Iterator[asyncio.Event]:
        """An event that is set when the file may have changed. Subscribe, then read, then wait."""
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
        """The process ends: whoever waits for a file gets it as it is now, and every stream of events ends."""
        self.stopping.set()
        self.wake_all()

    @property
    def closing(self) -> bool:
        return self.stopping.is_set()

    def wake_all(self) -> None:
        """Anything may have happened while nobody listened."""
        self.work.set()
        self.history.set()
        for file_id in list(self.waiters):
            self.wake(file_id)

    async def run(self) -> None:
        """Listen and send until cancelled; connect again after every loss."""
        delay = 0.1
        while True:
            try:
                async with self.connection() as (connection, lost):
                    delay = 0.1
                    await self.send(connection, lost)
            except (
                asyncpg.PostgresError,
                *UNREACHABLE,
            ) as error:  # also a full NOTIFY queue: no other code would start this task again
                log.warning("notifications lost", error=type(error).__name__, retry_seconds=delay)
            except Exception:
                log.exception("notifications failed", retry_seconds=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncpg.Connection, asyncio.Event]]:
        connection = await self.connect()
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: self.lose(lost))
            await connection.add_listener(CHANNEL, self.receive)
            self.connected = True
            self.wake_all()
            yield connection, lost
        finally:
            self.connected = False
            connection.terminate()
            self.wake_all()

    async def connect(self) -> asyncpg.Connection:
        """A cancelled connect goes on to its end by itself: cut in the middle, asyncpg leaves an error that nobody can catch."""
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
        lost.set()
        self.to_send.set()  # `send` waits for that one alone

    async def send(self, connection: asyncpg.Connection, lost: asyncio.Event) -> None:
        """What is signalled; now and then nothing at all, because a connection that fell silent would never be missed otherwise."""
        while not lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    0 if self.unsent else HEARTBEAT_SECONDS
                ):  # wait_for may swallow a cancellation (Python 3.11)
                    await self.to_send.wait()
            self.to_send.clear()
            self.unsent += self.take_payloads()
            await connection.execute(NOTIFY, self.unsent)
            self.unsent.clear()
            await asyncio.sleep(
                COALESCE_SECONDS
            )  # afterwards: a signal that comes alone need not wait

    @property
    def has_more_to_send(self) -> bool:
        return self.to_send.is_set() or bool(self.unsent)

    async def flush(self) -> None:
        """Give what was signalled last a moment to leave; it is a hint, so nothing is lost if it does not."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 0.2
        if self.sending_history is not None:
            self.sending_history.cancel()
            self.send_history()
        while self.connected and self.has_more_to_send and loop.time() < deadline:  # noqa: ASYNC110  # the sender sets no event when done
            await asyncio.sleep(COALESCE_SECONDS)

    def take_payloads(self) -> list[str]:
        """What is to be sent: `ORIGIN work`, `ORIGIN history`, and `ORIGIN id,id,…` or `ORIGIN all`."""
        payloads = [f"{self.origin} work"] if self.work_to_send else []
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
        self.work_to_send = self.history_to_send = False
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
        if what == "all":
            self.wake_all()
            return
        self.history.set()
        for text in what.split(","):
            with contextlib.suppress(ValueError):  # anybody with a connection may send anything
                self.wake(UUID(text))
