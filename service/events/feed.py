"""Event streams: each sends the transitions of one owner's files as they are committed.

No transition is sent twice, and none is omitted, unless a `reset` says that some are missing.

1. Join: a subscriber names an owner, and the position after which it is to receive transitions.
   From then on, the feed (one per process) also reads the transitions of this owner. Without a
   position, the stream begins with the oldest transaction that is running at that time. Transitions
   that are committed later are then sent, and some that were committed shortly before may be sent
   as well.
   - The database is unavailable: answer 503, before any header is sent.
   - The position is an id that this database has not issued for this owner: send `reset` in step 2.
   - A fetch is running: wait for its end. (It does not read for the new owner, and the subscriber
     would miss the transitions that it passes over.)
2. Catch up: the subscriber reads its transitions from the database, page by page, until a page is
   not full. Transitions that the feed hands out meanwhile wait in its queue.
   - Transitions after its position were deleted with their files, or the position is from another
     database: send `reset`, and continue from the current position.
   - The database is unavailable: wait, send a comment, and read again.
3. Follow: the feed fetches new transitions once for all subscribers, and appends those of each
   owner to the queues of its subscribers. A subscriber sends what is in its queue, and omits what
   it has already sent. Nothing else is needed to go from step 2 to step 3: a transition that its
   last page could not see is above the `xmin` of that read, and thus above that of every fetch that
   had ended before.
   - Nothing was sent for HEARTBEAT_SECONDS: send a comment, so that no proxy closes the connection
     as idle.
   - The queue is full, because the client reads too slowly: empty it. As soon as the client has
     read what was sent before, the subscriber returns to step 2.
4. Fetch: the feed fetches after each signal, and after POLL_SECONDS without one, because signals
   may be lost. After each fetch it pauses for PACE_SECONDS, or for longer if it has many
   subscribers.
   - Rows wait for an older transaction (service/queries/history.py): fetch again after
     HELD_BACK_SECONDS, because no signal reports the end of that transaction. A gauge shows a
     transaction that stays open.
   - The process is not listening: fetch every UNHEARD_SECONDS. When it listens again, fetch at once
     (service/database/notifications.py).
   - The database is unavailable, or the fetch fails: continue from the same position after
     RETRY_SECONDS. No stream ends.
5. End: a stream ends when its client disconnects, when its API key is expired or revoked (all keys
   are checked together, every KEY_SECONDS), after LONGEST_SECONDS, and at once when the process
   stops. Its work is then cancelled, and it leaves the feed.
   - The database is unavailable when the keys are checked: the streams continue, and their keys are
     checked again after RETRY_SECONDS. (No transition can be read meanwhile.)
   - Unexpected exception in the feed: log it, and continue as after a failed fetch (step 4).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final

import asyncpg
import msgspec
import structlog
from litestar import Response
from litestar.types import HTTPScope, Receive, Send

from service.database import UNREACHABLE
from service.events.event_ids import EventIds
from service.events.subscribers import Batch, Subscriber
from service.events.wire_format import Event, write_event, write_position
from service.http.disconnects import stop, wait_for_disconnect
from service.queries import history, keys
from service.queries.history import Position, Transition
from service.resources import Resources
from service.telemetry.metrics import EVENT_SUBSCRIBERS, EVENTS_HELD_BACK

SendPiece = Callable[[bytes], Awaitable[None]]

HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]
RETRY: Final = b"retry: 2000\n"
LAST_SECONDS: Final = 1.0
"""The time in which the client can receive the end of a stream that the server ends."""
WAIT_SECONDS: Final = 6.0
PACE_SECONDS: Final = 0.1
TELL_SECONDS: Final = 0.001
LONGEST_PACE_SECONDS: Final = 2.0
"""The longest pause after a fetch.

The pause grows by TELL_SECONDS with each delivery of a batch to a subscriber. A delivery takes less
than a tenth of that, so that at least nine tenths of the process's time remain for other work.
"""
HELD_BACK_SECONDS: Final = 0.25
UNHEARD_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 1.0
POLL_SECONDS: Final = 5.0
HEARTBEAT_SECONDS: Final = 15.0
KEY_SECONDS: Final = 30.0
LONGEST_SECONDS: Final = 3600.0
"""The longest duration of a stream. The client then reconnects, perhaps to another process."""
PAGE: Final = 500
HEARTBEAT: Final = b": alive\n\n"

log = structlog.get_logger()


class Feed:
    """The state that all streams of one process share.

    It consists of the subscribers and of the position up to which all their transitions have been
    fetched. It belongs to one event loop.
    """

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.subscribers: dict[str, set[Subscriber]] = {}
        self.position = Position(0, 0)
        self.fetching = asyncio.Lock()
        self.wanted = asyncio.Event()
        self.told = 0
        self.known_ids: EventIds | None = None

    async def find_ids(self) -> EventIds:
        """Return the conversion of ids. Its key is read once, when the database is available."""
        if self.known_ids is None:
            self.known_ids = EventIds(await history.find_key(self.resources.pool))
        return self.known_ids

    @contextlib.asynccontextmanager
    async def joined(self, subscriber: Subscriber) -> AsyncIterator[None]:
        """Step 1 of the protocol above: join the feed, and leave it when the block ends.

        Raises the errors of asyncpg, and TimeoutError.
        """
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self.join(subscriber)
            yield
        finally:
            self.leave(subscriber)

    async def join(self, subscriber: Subscriber) -> None:
        ids = await self.find_ids()
        async with self.fetching:
            if not self.subscribers:
                self.position = await history.find_snapshot_position(self.resources.pool)
            self.subscribers.setdefault(subscriber.owner, set()).add(subscriber)
        EVENT_SUBSCRIBERS.inc()
        self.wanted.set()
        subscriber.position = (
            await history.find_snapshot_position(self.resources.pool)
            if subscriber.last_id is None
            else ids.find_position(subscriber.last_id, owner=subscriber.owner) or history.UNKNOWN
        )
        if self.resources.notifications.closing:
            subscriber.end.set()

    def leave(self, subscriber: Subscriber) -> None:
        found = self.subscribers.get(subscriber.owner, set())
        if subscriber not in found:
            return
        found.remove(subscriber)
        EVENT_SUBSCRIBERS.dec()
        if not found:
            del self.subscribers[subscriber.owner]
        if not self.subscribers:
            self.wanted.clear()

    def all_subscribers(self) -> Iterator[Subscriber]:
        return (
            subscriber for found in list(self.subscribers.values()) for subscriber in list(found)
        )

    async def run(self) -> None:
        """Run steps 4 and 5 of the protocol above until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(self.fetch_news))
            group.create_task(forever(self.check_keys))
            group.create_task(self.end_with_the_process())

    async def fetch_news(self) -> None:
        await self.wanted.wait()
        notifications = self.resources.notifications
        notifications.history.clear()
        self.told = 0
        held_back = await self.fetch()
        EVENTS_HELD_BACK.set(held_back)
        # The pause comes after the fetch, so that a single signal is handled without delay.
        await asyncio.sleep(min(max(PACE_SECONDS, self.told * TELL_SECONDS), LONGEST_PACE_SECONDS))
        longest = (
            HELD_BACK_SECONDS
            if held_back
            else POLL_SECONDS
            if notifications.connected
            else UNHEARD_SECONDS
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest):
                await notifications.history.wait()

    async def fetch(self) -> bool:
        """Fetch all new transitions, and return whether some wait for an older transaction."""
        ids, more = await self.find_ids(), True
        while more:
            async with self.fetching:
                found = await history.read_all(
                    self.resources.pool, self.position, list(self.subscribers), limit=PAGE
                )
                self.position = found.end
                self.hand_out(found.transitions, ids)
            more = found.more
        return found.held_back

    def hand_out(self, transitions: list[Transition], ids: EventIds) -> None:
        by_owner: dict[str, list[Event]] = {}
        for one in transitions:
            by_owner.setdefault(one.owner, []).append(identify(one, ids))
        for owner, events in by_owner.items():
            batch = Batch(events)
            for subscriber in self.subscribers.get(owner, ()):
                subscriber.offer(batch)
                self.told += 1

    async def check_keys(self) -> None:
        asked = {subscriber.key_id for subscriber in self.all_subscribers()}
        live = await keys.find_live(self.resources.pool, asked) if asked else set()
        for subscriber in self.all_subscribers():
            if subscriber.key_id in asked - live:
                subscriber.end.set()
        await asyncio.sleep(KEY_SECONDS)

    async def end_with_the_process(self) -> None:
        await self.resources.notifications.stopping.wait()
        for subscriber in self.all_subscribers():
            subscriber.end.set()

    async def follow(self, subscriber: Subscriber, send: SendPiece) -> None:
        """Run steps 2 and 3 of the protocol above until cancelled."""
        clock = asyncio.get_running_loop().time
        sent_at = clock()
        while True:
            if subscriber.behind:
                await self.catch_up(subscriber, send)
            # A fixed deadline: the subscriber is also woken for files that it does not follow.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(sent_at + HEARTBEAT_SECONDS):
                    await subscriber.news.wait()
            piece = subscriber.take()
            if not piece and clock() - sent_at >= HEARTBEAT_SECONDS:
                piece = HEARTBEAT
            if piece:
                await send(piece)
                sent_at = clock()

    async def catch_up(self, subscriber: Subscriber, send: SendPiece) -> None:
        """Step 2 of the protocol above: send page after page.

        Afterwards, the queue has the transitions that the last page could not see, or the
        subscriber is behind again.
        """
        found: Page | None = None
        subscriber.behind = False
        while found is None or found.more:
            try:
                found = await self.read_on(subscriber)
            except (asyncpg.PostgresError, *UNREACHABLE):
                # The feed logs the error, once for all subscribers.
                await asyncio.sleep(RETRY_SECONDS)
                await send(HEARTBEAT)
                continue
            if found.text:
                await send(found.text)

    async def read_on(self, subscriber: Subscriber) -> "Page":
        """Read the subscriber's next page, and check that no transition of it was deleted.

        The check comes after the read, because rows may be deleted between the two.
        """
        pool, ids, owner = self.resources.pool, await self.find_ids(), subscriber.owner
        found = await history.read_some(
            pool,
            subscriber.position,
            owner=owner,
            file_id=subscriber.file_id,
            limit=PAGE,
        )
        if not await history.is_kept(pool, subscriber.position, owner=owner):
            subscriber.position = await history.find_snapshot_position(pool)
            named = ids.name_position(subscriber.position, owner=owner)
            return Page(write_position(named, reset=True), more=True)
        text = subscriber.pass_over(Batch([identify(one, ids) for one in found])) if found else b""
        return Page(text, more=len(found) == PAGE)


def identify(found: Transition, ids: EventIds) -> Event:
    return write_event(found, ids.name_event(found.position, owner=found.owner))


class Page(msgspec.Struct, frozen=True):
    """The text of a page, and whether there are more pages to read."""

    text: bytes
    more: bool


async def forever(step: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            await step()
        except (asyncpg.PostgresError, *UNREACHABLE) as error:
            log.warning(
                "event feed interrupted",
                error=type(error).__name__,
                retry_seconds=RETRY_SECONDS,
            )
            await asyncio.sleep(RETRY_SECONDS)
        except Exception:
            log.exception("event feed failed")
            await asyncio.sleep(RETRY_SECONDS)


@contextlib.asynccontextmanager
async def open_feed(resources: Resources) -> AsyncIterator[Feed]:
    feed = Feed(resources)
    task = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Stream:
    """An ASGI application that sends the events of one subscriber.

    Step 5 of the protocol above says when it ends.
    """

    def __init__(self, feed: Feed, subscriber: Subscriber) -> None:
        self.feed = feed
        self.subscriber = subscriber

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        async with self.feed.joined(self.subscriber):
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            if scope["method"] == "HEAD":
                await self.send_end(send)
            else:
                await self.run(receive, send)

    async def run(self, receive: Receive, send: Send) -> None:
        sending, leaving = (
            asyncio.create_task(self.send_all(send)),
            asyncio.create_task(wait_for_disconnect(receive)),
        )
        for task in (sending, leaving):
            task.add_done_callback(lambda _: self.subscriber.end.set())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_SECONDS):
                    await self.subscriber.end.wait()
            if sending.done():
                sending.result()
        finally:
            gone = leaving.done()
            await stop(sending, leaving)
        if not gone:
            await self.send_end(send)

    async def send_all(self, send: Send) -> None:
        async def send_piece(piece: bytes) -> None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})

        begun = b"\n"
        if self.subscriber.last_id is None:
            ids, owner = await self.feed.find_ids(), self.subscriber.owner
            begun = write_position(ids.name_position(self.subscriber.position, owner=owner))
        await send_piece(RETRY + begun)
        await self.feed.follow(self.subscriber, send_piece)

    async def send_end(self, send: Send) -> None:
        """Send the end of the stream, or give up after LAST_SECONDS if the client does not read.

        The HTTP server then closes the connection.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await send({"type": "http.response.body", "body": b"", "more_body": False})


class EventStream(Response[None]):
    """A Litestar response that consists of an event stream."""

    def __init__(self, feed: Feed, subscriber: Subscriber) -> None:
        super().__init__(None)
        self.stream = Stream(feed, subscriber)

    def to_asgi_response(self, *_: object, **__: object) -> Any:
        """Return the stream, which Litestar then calls as an ASGI application."""
        return self.stream
