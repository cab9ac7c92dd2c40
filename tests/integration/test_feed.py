"""The feed: one fetch serves all subscribers, which may be slow but miss no transition."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec
import pytest

from service.events import feed as feed_module
from service.events import subscribers
from service.events.feed import Feed, open_feed
from service.events.subscribers import Subscriber
from service.model import make_id
from service.queries import history, keys
from service.queries.history import Position
from service.resources import Resources
from service.telemetry.metrics import EVENTS_HELD_BACK
from tests.integration.locks import held_open
from tests.integration.steps import declare
from tests.support.faults import FaultyPool, Gate
from tests.support.servers import store_kinds
from tests.support.streams import IN_TIME, Parser
from tests.support.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("store", store_kinds()[:1], indirect=True),
]  # it depends on no store


class Client:
    """A client that receives events while its gate is open."""

    def __init__(self) -> None:
        self.parser = Parser()
        self.names: list[str] = []
        self.ids: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, piece: bytes) -> None:
        await self.gate.wait()
        for line in piece.decode().split("\n")[:-1]:
            if event := self.parser.feed(line):
                self.names.append(event.data["filename"])
                self.ids.append(event.id)

    async def until_told(self, count: int) -> None:
        async def is_told() -> bool:
            return len(self.names) >= count

        await until(is_told)


@contextlib.asynccontextmanager
async def connected(
    feed: Feed,
    client: Client,
    *,
    owner: str = "ann",
    file_id: UUID | None = None,
    after: Position | None = None,
) -> AsyncIterator[Subscriber]:
    ids = await feed.find_ids()
    last_id = None if after is None else ids.name_position(after, owner=owner)
    subscriber = Subscriber(owner, make_id(), file_id=file_id, last_id=last_id)
    async with feed.joined(subscriber):
        task = asyncio.create_task(feed.follow(subscriber, client.send))
        try:
            yield subscriber
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_gauge_shows_that_an_open_transaction_holds_events_back(
    resources: Resources,
) -> None:
    client = Client()

    async def is_told_to_wait() -> bool:
        [metric] = EVENTS_HELD_BACK.collect()
        return bool(metric.samples[0].value == 1)

    async with open_feed(resources) as feed, connected(feed, client):
        async with held_open(resources.pool) as connection:
            await connection.fetchval("SELECT pg_current_xact_id()")
            await declare(resources, filename="waits")
            await until(is_told_to_wait)
            assert client.names == []
        await client.until_told(1)
        assert not await is_told_to_wait()


async def test_a_slow_reader_uses_little_memory_and_gets_every_event_once(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribers, "MOST_WAITING", 10)
    monkeypatch.setattr(feed_module, "PAGE", 7)
    monkeypatch.setattr(feed_module, "PACE_SECONDS", 0.001)
    slow, quick = Client(), Client()
    async with (
        open_feed(resources) as feed,
        connected(feed, slow) as subscriber,
        connected(feed, quick),
    ):
        most = 0
        for number in range(100):
            if number == 20:
                await slow.until_told(20)
                slow.gate.clear()
            await declare(resources, filename=str(number))
            most = max(most, subscriber.length)
            if number == 80:
                await until(lambda: is_behind(subscriber))
                slow.gate.set()
        for client in (slow, quick):
            await client.until_told(100)
            assert client.names == [str(number) for number in range(100)]
            assert len(set(client.ids)) == 100
        assert 0 < most <= 10 + 7


async def test_a_reader_of_one_file_gets_comments_while_its_owner_is_busy(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Send comments as heartbeats, because events of other files send nothing to this client.

    Without them, a proxy in between may close the idle connection.
    """
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.3)
    monkeypatch.setattr(feed_module, "PACE_SECONDS", 0.001)
    client = Client()
    async with open_feed(resources) as feed, connected(feed, client, file_id=make_id()):
        until_then = time.monotonic() + 3
        while time.monotonic() < until_then and not client.parser.comments:
            await declare(resources, filename="another")
    assert client.parser.comments > 0
    assert client.names == []


async def is_behind(subscriber: Subscriber) -> bool:
    return subscriber.behind


async def test_a_check_of_keys_that_fails_is_repeated_soon(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the interval be too long for a second regular check. The client's key does not exist."""
    monkeypatch.setattr(feed_module, "KEY_SECONDS", 0.1)

    async def fail() -> None:
        monkeypatch.setattr(feed_module, "KEY_SECONDS", 300)
        raise ConnectionResetError

    failing = FaultyPool(resources.pool, keys.FIND_LIVE, before=fail)
    async with (
        open_feed(msgspec.structs.replace(resources, pool=failing)) as feed,
        connected(feed, Client()) as subscriber,
        asyncio.timeout(IN_TIME),
    ):
        await subscriber.end.wait()
    assert failing.calls == 1


async def test_a_subscriber_that_joins_during_a_fetch_misses_nothing(
    resources: Resources,
) -> None:
    """Join after the fetch has chosen its owners and before it reads.

    That fetch passes over the transitions of an owner that joins in between.
    """
    gate, now = Gate(), await history.find_snapshot_position(resources.pool)
    held = msgspec.structs.replace(
        resources, pool=FaultyPool(resources.pool, history.READ_ALL, before=gate)
    )
    first, second = Client(), Client()
    feed = Feed(held)
    async with connected(feed, first, owner="ann"):
        fetching = asyncio.create_task(feed.fetch())
        await gate.reached.wait()
        joining = asyncio.create_task(follow_until_told(feed, second, after=now))
        # Without the lock, the subscriber would already be in step 3 of the protocol (follow).
        await asyncio.wait({joining}, timeout=0.5)
        await declare(resources, filename="new", owner="bob")
        gate.opened.set()
        await fetching
        await feed.fetch()
        await joining


async def follow_until_told(feed: Feed, client: Client, *, after: Position) -> None:
    async with connected(feed, client, owner="bob", after=after):
        await client.until_told(1)


async def test_an_event_that_reader_and_feed_both_read_is_sent_once(
    resources: Resources,
) -> None:
    gate, client = Gate(), Client()
    held = msgspec.structs.replace(
        resources, pool=FaultyPool(resources.pool, history.READ_OWNER, before=gate)
    )
    feed = Feed(held)
    async with connected(feed, client) as subscriber:
        await gate.reached.wait()
        await declare(resources, filename="first")
        await feed.fetch()
        assert subscriber.length == 1
        gate.opened.set()
        await client.until_told(1)
        await declare(resources, filename="second")
        await feed.fetch()
        await client.until_told(2)
    assert client.names == ["first", "second"]


async def test_a_failed_fetch_is_repeated_from_the_same_position(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "RETRY_SECONDS", 0.05)
    fails = [ConnectionResetError("lost"), ValueError("an unexpected error")]

    client = Client()
    read_all: Any = history.read_all

    async def read_or_fail(*about: Any, **more: Any) -> Any:
        if fails:
            raise fails.pop(0)
        return await read_all(*about, **more)

    async with open_feed(resources) as feed, connected(feed, client):
        await declare(resources, filename="before")
        await client.until_told(1)
        monkeypatch.setattr(history, "read_all", read_or_fail)
        await declare(resources, filename="after")
        await client.until_told(2)
    assert client.names == ["before", "after"]
    assert not fails


async def test_a_process_without_subscribers_sends_no_queries(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def note(*about: Any, **_: Any) -> Any:
        asked.append(about)

    monkeypatch.setattr(history, "read_all", note)
    monkeypatch.setattr(feed_module, "KEY_SECONDS", 0.01)
    monkeypatch.setattr(keys, "find_live", note)
    async with open_feed(resources):
        await declare(resources, filename="a")
        await asyncio.wait(
            {asyncio.create_task(resources.notifications.history.wait())}, timeout=IN_TIME
        )
        # No condition can be awaited here. A query would have been sent within this time.
        await asyncio.sleep(0.1)
    assert asked == []
