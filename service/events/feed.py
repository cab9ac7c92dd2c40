"""Events: transitions, sent to subscribers as they are committed. Nothing is lost, and nothing comes twice.

1. Join: a subscriber says whose files, and behind which position it is to be told. From then on the feed, one a process, reads for that
   owner too. No position: it is the oldest running transaction at this moment, so what is committed later comes, and what was
   committed a moment before may come as well.
   - the database is away: 503, before any header is sent.
   - a fetch is under way: join waits for its end. Its rows were chosen before and seen after: the subscriber would miss them.
2. Catch up: the subscriber reads by itself, page after page, until a page is not full. What the feed gives meanwhile waits for it.
   - something behind its position was forgotten with its file, or the position is from another database: `reset`, and from now on.
   - the database is away: it waits, says that it is alive, reads again.
3. Follow: the feed fetches what is new, once for all, and puts each owner's into the queues of its subscribers. A subscriber sends what is
   in its queue, and leaves out what it has sent already. That is all it has to do to pass from 2 to 3: what its own read could not see
   yet is above the `xmin` of that read, and so above that of every fetch that had ended before.
   - nothing was sent for HEARTBEAT_SECONDS: a comment, so that no proxy takes the connection for dead.
   - the queue is full, because the client reads too slowly: it is emptied, and the subscriber is at step 2 again when its client has read.
4. The feed fetches after each signal, and every POLL_SECONDS without one: signals may be lost. After each fetch it rests for PACE_SECONDS,
   or as long as telling so many subscribers is worth.
   - rows wait for an older transaction (queries/history.py): it looks again soon, because no signal tells of that one's end. A
     gauge shows a transaction that stays open.
   - no listener is connected: it looks every UNHEARD_SECONDS. One is connected again: it looks at once (service/database/notifications.py).
   - the database is away, or the fetch fails: it goes on from where it was, after RETRY_SECONDS. No stream ends.
5. A stream ends when its client goes away; when its key was revoked or is over, which is asked for all keys at once every KEY_SECONDS;
   after LONGEST_SECONDS; when the process stops: at once. Whatever it is doing then is cancelled, and its place in the feed goes.
   - the database cannot say whether a key lives: the same stream is asked about the next time. It cannot tell anything either.
   - an unexpected exception in the feed: it is logged, and the feed goes on as after a failed fetch (step 4).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final

import asyncpg
import msgspec
import structlog
from litestar import Response
from litestar.types import Receive, Scope, Send

from service.database import UNREACHABLE
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
"""For a client to take the end of its stream, when it is we who end it."""
WAIT_SECONDS: Final = 6.0
PACE_SECONDS: Final = 0.1
TELL_SECONDS: Final = 0.001
LONGEST_PACE_SECONDS: Final = 2.0
"""To tell a subscriber takes less than a tenth of a millisecond: so much rest for each keeps nine tenths of the process for others."""
HELD_BACK_SECONDS: Final = 0.25
UNHEARD_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 1.0
POLL_SECONDS: Final = 5.0
HEARTBEAT_SECONDS: Final = 15.0
KEY_SECONDS: Final = 30.0
LONGEST_SECONDS: Final = 3600.0
"""A client comes back and goes on where it was; after a deployment, at another process."""
PAGE: Final = 500
HEARTBEAT: Final = b": alive\n\n"

log = structlog.get_logger()


class Feed:
    """What all streams of one process share: the place up to which all has been fetched, and who is to be told. For one event loop."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.subscribers: dict[str, set[Subscriber]] = {}
        self.position = Position(0, 0)
        self.fetching = asyncio.Lock()
        self.wanted = asyncio.Event()
        self.told = 0

    @contextlib.asynccontextmanager
    async def joined(self, subscriber: Subscriber) -> AsyncIterator[None]:
        """Step 1. Raises what asyncpg raises."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self.join(subscriber)
            yield
        finally:
            self.leave(subscriber)

    async def join(self, subscriber: Subscriber) -> None:
        async with self.fetching:
            if not self.subscribers:
                self.position = await history.find_snapshot_position(self.resources.pool)
            self.subscribers.setdefault(subscriber.owner, set()).add(subscriber)
        EVENT_SUBSCRIBERS.inc()
        self.wanted.set()
        subscriber.position = subscriber.asked or await history.find_snapshot_position(
            self.resources.pool
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
        """Steps 4 and 5, until cancelled."""
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
        await asyncio.sleep(
            min(max(PACE_SECONDS, self.told * TELL_SECONDS), LONGEST_PACE_SECONDS)
        )  # afterwards: the first need not wait
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
        """All that is new, once; whether something waits for an older transaction."""
        full = True
        while full:
            async with self.fetching:
                found = await history.read_all(
                    self.resources.pool, self.position, list(self.subscribers), limit=PAGE
                )
                self.position = found.end
                self.hand_out(found.transitions)
            full = len(found.transitions) == PAGE
        return found.held_back

    def hand_out(self, transitions: list[Transition]) -> None:
        by_owner: dict[str, list[Event]] = {}
        for one in transitions:
            by_owner.setdefault(one.owner, []).append(write_event(one))
        for owner, events in by_owner.items():
            batch = Batch(events)
            for subscriber in self.subscribers.get(owner, ()):
                subscriber.offer(batch)
                self.told += 1

    async def check_keys(self) -> None:
        await asyncio.sleep(KEY_SECONDS)
        asked = {subscriber.key_id for subscriber in self.all_subscribers()}
        live = await keys.find_live(self.resources.pool, asked) if asked else set()
        for subscriber in self.all_subscribers():
            if subscriber.key_id in asked - live:
                subscriber.end.set()

    async def end_with_the_process(self) -> None:
        await self.resources.notifications.stopping.wait()
        for subscriber in self.all_subscribers():
            subscriber.end.set()

    async def follow(self, subscriber: Subscriber, send: SendPiece) -> None:
        """Steps 2 and 3, until cancelled."""
        clock = asyncio.get_running_loop().time
        sent_at = clock()
        while True:
            if subscriber.behind:
                await self.catch_up(subscriber, send)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(
                    sent_at + HEARTBEAT_SECONDS
                ):  # news may be of files that this subscriber does not follow
                    await subscriber.news.wait()
            piece = subscriber.take()
            if not piece and clock() - sent_at >= HEARTBEAT_SECONDS:
                piece = HEARTBEAT
            if piece:
                await send(piece)
                sent_at = clock()

    async def catch_up(self, subscriber: Subscriber, send: SendPiece) -> None:
        """Step 2. When it ends, the queue has what its last page could not see, or the subscriber is behind again."""
        found: Page | None = None
        subscriber.behind = False
        while found is None or found.more:
            try:
                found = await self.read_on(subscriber)
            except (
                asyncpg.PostgresError,
                *UNREACHABLE,
            ):  # the feed says so in the log, for all of them
                await asyncio.sleep(RETRY_SECONDS)
                await send(HEARTBEAT)
                continue
            if found.text:
                await send(found.text)

    async def read_on(self, subscriber: Subscriber) -> "Page":
        """The subscriber's next page. It is read before the question whether anything that belongs to it was forgotten."""
        pool = self.resources.pool
        found = await history.read_some(
            pool,
            subscriber.position,
            owner=subscriber.owner,
            file_id=subscriber.file_id,
            limit=PAGE,
        )
        if not await history.is_kept(pool, subscriber.position):
            subscriber.position = await history.find_snapshot_position(pool)
            return Page(write_position(subscriber.position, reset=True), more=True)
        text = subscriber.pass_over(Batch([write_event(one) for one in found])) if found else b""
        return Page(text, more=len(found) == PAGE)


class Page(msgspec.Struct, frozen=True):
    """What is to be sent now; whether there is more to read."""

    text: bytes
    more: bool


async def forever(step: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            await step()
        except (asyncpg.PostgresError, *UNREACHABLE) as error:
            log.warning(
                "events wait for the database",
                error=type(error).__name__,
                retry_seconds=RETRY_SECONDS,
            )
            await asyncio.sleep(RETRY_SECONDS)
        except Exception:
            log.exception("events failed")
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
    """An ASGI application that sends what its subscriber is told, until one of the two has gone (step 5)."""

    def __init__(self, feed: Feed, subscriber: Subscriber) -> None:
        self.feed = feed
        self.subscriber = subscriber

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        async with self.feed.joined(self.subscriber):
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
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

        await send_piece(
            RETRY + write_position(self.subscriber.position)
            if self.subscriber.asked is None
            else RETRY + b"\n"
        )
        await self.feed.follow(self.subscriber, send_piece)

    async def send_end(self, send: Send) -> None:
        """A client that does not read is not waited for: the server drops its connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await send({"type": "http.response.body", "body": b"", "more_body": False})


class EventStream(Response[None]):
    """A response that is a stream of our own."""

    def __init__(self, feed: Feed, subscriber: Subscriber) -> None:
        super().__init__(None)
        self.stream = Stream(feed, subscriber)

    def to_asgi_response(self, *_: object, **__: object) -> Any:
        """Litestar's hook: what it returns is called with scope, receive and send."""
        return self.stream
