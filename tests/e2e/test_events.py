"""Tests of `GET /events` and `GET /files/{id}/history`, which report transitions."""

import asyncio
import contextlib
import threading
from datetime import timedelta
from typing import Any

import httpx
import pytest

from service.auth.principals import digest_key
from service.events import feed
from service.queries import history, sweeping
from service.resources import Resources
from tests.e2e.conftest import Apart, Api, Owner, Ways, api_apart, serving
from tests.e2e.jobs import check_unavailable, declare, digest, prove, read_metric, stream, working
from tests.e2e.rights import NO_FILE
from tests.integration.locks import held_open
from tests.support.rows import declare_row, make_declaration
from tests.support.streams import IN_TIME, Event, Stream, following
from tests.support.trust import TRUSTED
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

BODY = b"what was sent" * 100
LARGE = BODY * 1000  # `complete` leaves it to a worker


def tell(found: list[Event]) -> list[tuple[str, str]]:
    return [(event.data["filename"], event.state) for event in found]


async def read_history(client: httpx.AsyncClient, file_id: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/files/{file_id}/history")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["history"]
    return found


# The reported transitions


async def test_transitions_are_reported_by_events_and_by_the_history(
    client: httpx.AsyncClient,
) -> None:
    async with following(client) as stream:
        assert stream.answer.headers["content-type"] == "text/event-stream"
        assert stream.answer.headers["cache-control"] == "no-cache"
        assert stream.answer.headers["x-accel-buffering"] == "no"
        proved = await prove(client, LARGE)
        assert (await client.delete(f"/files/{proved['id']}")).status_code == 204
        found = await stream.take(4)
    assert [event.state for event in found] == ["pending", "verifying", "ready", "deleted"]
    assert {event.kind for event in found} == {"transition"}
    assert [event.data["hash"] for event in found] == [None, None, digest(LARGE), digest(LARGE)]
    assert {(event.data["file_id"], event.data["filename"]) for event in found} == {
        (proved["id"], "a.txt")
    }
    told = await read_history(client, proved["id"])
    assert told == [
        {name: event.data[name] for name in ("state", "previous", "at", "by", "why")}
        for event in found
    ]
    assert [one["previous"] for one in told] == [None, "pending", "verifying", "ready"]
    assert [one["by"] for one in told][::2] == ["client", "worker"]


async def test_a_small_file_that_complete_proves_is_reported_as_ready(apart: Apart) -> None:
    async with following(apart.client) as stream:
        proved = await prove(apart.client, BODY)
        found = await stream.take(2)
    assert [(event.state, event.data["previous"]) for event in found] == [
        ("pending", None),
        ("ready", "pending"),
    ]
    told = await read_history(apart.client, proved["id"])
    assert (told[1]["by"], told[1]["why"]) == (
        "client",
        "completed; the bytes have the declared size",
    )


async def test_a_stream_reports_only_the_owners_files(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient
) -> None:
    async with following(client) as stream, following(intruder) as others:
        await declare(intruder, BODY, filename="theirs")
        await declare(client, BODY, filename="mine")
        assert tell(await stream.take()) == [("mine", "pending")]
        assert tell(await others.take()) == [("theirs", "pending")]


async def test_a_stream_can_be_limited_to_one_file(client: httpx.AsyncClient) -> None:
    declared = await declare(client, BODY, filename="followed")
    async with following(client, file=declared["file"]["id"]) as stream:
        await declare(client, BODY, filename="another")
        await client.delete(f"/files/{declared['file']['id']}")
        assert (await take_until(stream, "deleted")).data["filename"] == "followed"


async def test_an_admin_follows_any_owner_and_any_file(
    api: Api, client: httpx.AsyncClient, owner: Owner, admin: Owner
) -> None:
    declared = await declare(client, BODY)
    path = f"/files/{declared['file']['id']}"
    async with httpx.AsyncClient(
        base_url=api.url, headers=admin.headers, timeout=30, verify=TRUSTED
    ) as admins:
        async with (
            following(admins, owner=owner.name) as all_of_it,
            following(admins, file=declared["file"]["id"]) as one,
        ):
            await client.delete(path)
            for stream in (all_of_it, one):
                assert (await take_until(stream, "deleted")).data["file_id"] == declared["file"][
                    "id"
                ]
        assert len(await read_history(admins, declared["file"]["id"])) == 2
        mine = {"file": declared["file"]["id"], "owner": admin.name}
        assert (await admins.get("/events", params=mine)).status_code == 404


async def take_until(stream: Stream, state: str) -> Event:
    """Read events until one has this state, and return it.

    Transitions from shortly before the connection may come first. Fails if an event of the file
    `another` comes.
    """
    while True:
        [event] = await stream.take()
        assert event.data["filename"] != "another"
        if event.state == state:
            return event


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1412-86",  # an id of an earlier version
        "0-0",
        f"{2**63}-7",
        f"{2**64}-1",
        "٣-1",
        "ÿ",
        "A" * 75,
        "=" * 75,
        "1" * 500,
    ],
)
async def test_an_unknown_event_id_gets_a_reset_event(client: httpx.AsyncClient, text: str) -> None:
    await declare(client, BODY, filename="before")
    async with following(client, after=text) as stream:
        await check_reset(client, stream)


async def check_reset(client: httpx.AsyncClient, stream: Stream) -> None:
    """Check that the stream begins with `reset`, and that its id is one to continue from."""
    [reset] = await stream.take()
    assert (reset.kind, reset.data) == ("reset", {})
    await declare(client, BODY, filename="later")
    async with following(client, after=reset.id) as again:
        for one in (stream, again):
            assert ("later", "pending") in tell(await one.take())


async def test_an_altered_event_id_gets_a_reset_event(client: httpx.AsyncClient) -> None:
    async with following(client) as stream:
        await declare(client, BODY)
        [event] = await stream.take()
    for place in range(0, 74, 5):
        other = "A" if event.id[place] != "A" else "B"
        altered = event.id[:place] + other + event.id[place + 1 :]
        async with following(client, after=altered) as again:
            assert (await again.take())[0].kind == "reset"


async def test_an_event_id_of_another_owner_gets_a_reset_event(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient
) -> None:
    async with following(intruder) as stream:
        await declare(intruder, BODY, filename="theirs")
        [event] = await stream.take()
    async with following(client, after=event.id) as stream:
        await check_reset(client, stream)


async def test_event_ids_tell_nothing_about_other_owners(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient
) -> None:
    """Compare the ids of events between which another owner did nothing, and did much."""
    found: list[Event] = []
    async with following(client) as stream:
        for number in range(20):
            await declare(client, BODY, filename=str(number))
            if number % 2:
                await declare(intruder, BODY)
            found += await stream.take()
    ids = [event.id for event in found]
    assert {len(one) for one in ids} == {75}
    assert sorted(ids) != ids
    # No two ids begin alike, so neither a number nor the difference of two can be read from them.
    assert len({one[:6] for one in ids}) == len(ids)


async def test_positions_show_no_activity_of_other_owners(client: httpx.AsyncClient) -> None:
    """Connect twice at one position of the database, and compare the ids."""
    seen = [await first_id(client) for _ in range(2)]
    assert seen[0] != seen[1]
    assert {len(one) for one in seen} == {75}


async def first_id(client: httpx.AsyncClient) -> str:
    """Return the id with which a stream begins."""
    async with following(client) as stream, asyncio.timeout(IN_TIME):
        async for line in stream.answer.aiter_lines():
            stream.parser.feed(line)
            if stream.parser.last_id:
                break
    return stream.parser.last_id


async def test_other_owners_removed_files_cause_no_reset(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient, resources: Resources
) -> None:
    async with following(client) as stream:
        await declare(client, BODY, filename="mine")
        [mine] = await stream.take()
    theirs = (await declare(intruder, BODY, filename="theirs"))["file"]["id"]
    await forget(intruder, resources, theirs)
    async with following(client, after=mine.id) as again:
        await declare(client, BODY, filename="next")
        assert tell(await again.take()) == [("next", "pending")]


async def forget(client: httpx.AsyncClient, resources: Resources, file_id: str) -> None:
    """Delete a file and remove its row, as the sweeper does long afterwards."""
    await client.delete(f"/files/{file_id}")
    await resources.pool.execute(
        "UPDATE files SET final_at = now() - interval '99 days', sweep_at = NULL WHERE id = $1",
        file_id,
    )
    await sweeping.forget_files(resources.pool, 1000, timedelta(days=90))


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("file=x", "file"),
        ("files=x", "files"),
        (f"file={NO_FILE}&file={NO_FILE}", "file"),
        ("owner=a%00", "owner"),
    ],
)
async def test_a_wrong_parameter_is_refused_with_its_name(
    api: Api, admin: Owner, query: str, field: str
) -> None:
    async with httpx.AsyncClient(base_url=api.url, headers=admin.headers, verify=TRUSTED) as client:
        answer = await client.get(f"/events?{query}")
    assert answer.status_code == 400
    assert [one["field"] for one in answer.json()["errors"]] == [field]


# Resumed streams


async def test_a_stream_resumes_after_any_event_without_gaps_or_duplicates(
    client: httpx.AsyncClient,
) -> None:
    async with following(client) as stream:
        await asyncio.gather(*(prove(client, LARGE, filename=str(number)) for number in range(4)))
        whole = await stream.take(12)
    assert len({event.id for event in whole}) == 12
    for cut in (0, 5, 10):
        async with following(client, after=whole[cut].id) as again:
            await declare(client, BODY, filename=f"after {cut}")
            rest = await again.take(len(whole) - cut)
        assert rest[:-1] == whole[cut + 1 :]
        assert tell(rest[-1:]) == [(f"after {cut}", "pending")]
        whole.append(rest[-1])


async def test_a_stream_that_was_cut_before_any_event_can_be_resumed(
    client: httpx.AsyncClient,
) -> None:
    begun = await first_id(client)
    await declare(client, BODY, filename="meanwhile")
    async with following(client, after=begun) as again:
        assert ("meanwhile", "pending") in tell(await again.take())


async def test_a_transaction_that_began_early_and_commits_late_is_reported(
    client: httpx.AsyncClient, owner: Owner, resources: Resources
) -> None:
    async with following(client) as stream:
        await declare(client, BODY, filename="first")
        [first] = await stream.take()
        async with held_open(resources.pool) as holder:
            await declare_row(holder, make_declaration("slow", owner=owner.name))
            await declare(client, BODY, filename="fast")
            async with following(client, after=first.id) as again:
                await holder.execute("COMMIT")
                for one in (stream, again):
                    assert tell(await one.take(2)) == [("slow", "pending"), ("fast", "pending")]


async def test_an_id_before_removed_history_gets_a_reset_event(
    client: httpx.AsyncClient, owner: Owner, resources: Resources
) -> None:
    async with following(client) as stream:
        old = await declare(client, BODY)
        [first] = await stream.take()
        await client.delete(f"/files/{old['file']['id']}")
        [last] = await stream.take()
    await forget(client, resources, old["file"]["id"])
    async with following(client, after=first.id) as again:
        [reset] = await again.take()
        assert (reset.kind, reset.data) == ("reset", {})
        await declare(client, BODY, filename="later")
        [later] = await again.take()
        assert tell([later]) == [("later", "pending")]
    async with following(client, after=reset.id) as third:
        assert (await third.take())[0] == later
    async with following(client, after=last.id) as fourth:
        assert (await fourth.take())[0] == later


# A separate server with short intervals


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEY_SECONDS", "HEARTBEAT_SECONDS"):
        monkeypatch.setattr(feed, name, 0.2)


async def test_an_idle_stream_sends_comments(hasty: None, apart: Apart) -> None:
    async with following(apart.client) as stream, asyncio.timeout(IN_TIME):
        async for line in stream.answer.aiter_lines():
            stream.parser.feed(line)
            if stream.parser.comments == 3:
                break


async def test_a_revoked_key_ends_its_streams(hasty: None, apart: Apart) -> None:
    key = apart.client.headers["authorization"].removeprefix("Bearer ")
    async with following(apart.client) as stream:
        await declare(apart.client, BODY)
        await stream.take()
        await apart.resources.pool.execute(
            "UPDATE api_keys SET revoked_at = now() WHERE secret_sha256 = $1",
            digest_key(key).digest,
        )
        assert await stream.take_rest() == []
    assert (await apart.client.get("/events")).status_code == 401


async def test_an_expired_key_ends_its_streams(hasty: None, apart: Apart) -> None:
    async with following(apart.client) as stream:
        await apart.resources.pool.execute("UPDATE api_keys SET expires_at = now()")
        assert await stream.take_rest() == []


async def test_fifty_streams_share_one_listener_and_one_pool(apart: Apart) -> None:
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(
            base_url=apart.client.base_url,
            headers=apart.client.headers,
            limits=limits,
            timeout=30,
            verify=TRUSTED,
        ) as client,
        contextlib.AsyncExitStack() as stack,
    ):
        streams = await asyncio.gather(
            *(stack.enter_async_context(following(client)) for _ in range(50))
        )
        assert await read_metric(apart.client, "assay_event_subscribers") >= 50
        names = {str(number) for number in range(20)}
        await asyncio.gather(*(declare(apart.client, BODY, filename=name) for name in names))
        told = await asyncio.gather(*(stream.take(20) for stream in streams))
        assert all({event.data["filename"] for event in found} == names for found in told)
        connections = await apart.resources.pool.fetch(CONNECTIONS)
    listeners = sum(row["listens"] for row in connections)
    assert listeners == 2  # one of the API and one of the test
    pools = apart.resources.settings.database_pool_size * 2
    assert len(connections) <= pools + listeners


CONNECTIONS = """
    SELECT query ~ '^(LISTEN|SELECT pg_notify)' AS listens
    FROM pg_stat_activity WHERE datname = current_database()
"""


async def test_a_client_that_disconnects_is_no_longer_counted(apart: Apart) -> None:
    before = await read_metric(apart.client, "assay_event_subscribers")
    async with following(apart.client):
        assert await read_metric(apart.client, "assay_event_subscribers") == before + 1

    async def is_free() -> bool:
        return await read_metric(apart.client, "assay_event_subscribers") == before

    await until(is_free)


async def test_transitions_by_another_process_are_reported_at_once(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("POLL_SECONDS", "UNHEARD_SECONDS"):
        monkeypatch.setattr(feed, name, 300)  # only a notification can cause the next read
    async with following(apart.client) as stream, working(apart.resources):
        await prove(apart.client, LARGE)
        assert [event.state for event in await stream.take(3)] == ["pending", "verifying", "ready"]


async def test_all_streams_end_at_once_when_the_process_stops(api: Api, owner: Owner) -> None:
    loop = asyncio.get_running_loop()
    async with (
        httpx.AsyncClient(headers=owner.headers, timeout=30, verify=TRUSTED) as client,
        contextlib.AsyncExitStack() as stack,
    ):
        server = serving(api.settings, with_worker=False)
        client.base_url = httpx.URL(server.__enter__())
        streams = [await stack.enter_async_context(following(client)) for _ in range(3)]
        begun = loop.time()
        stopping = asyncio.create_task(asyncio.to_thread(server.__exit__, None, None, None))
        for stream in streams:
            assert await stream.take_rest() == []
        assert loop.time() - begun < 3
        await stopping


# An unavailable database


async def test_streams_survive_an_unavailable_database_without_a_loss(
    ways: Ways, direct: Resources
) -> None:
    async with api_apart(ways.settings, with_worker=False) as client, following(client) as stream:
        await declare(client, BODY, filename="before")
        [before] = await stream.take()
        ways.database.cut()
        check_unavailable(await client.get("/events"), "database")
        await declare_directly(direct, "meanwhile")
        ways.database.restore()
        assert tell(await stream.take()) == [("meanwhile", "pending")]
        async with following(client, after=before.id) as again:
            assert tell(await again.take()) == [("meanwhile", "pending")]


async def declare_directly(resources: Resources, name: str) -> None:
    """Declare a file without the proxy, like a process that can still reach the database."""
    await declare_row(resources.pool, make_declaration(name, owner="apart"))


async def test_a_resuming_stream_waits_for_an_unavailable_database(
    ways: Ways, direct: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut the database connections after the stream subscribes and before it reads the history."""
    async with api_apart(ways.settings, with_worker=False) as client:
        async with following(client) as stream:
            await declare(client, BODY, filename="before")
            [before] = await stream.take()
        await declare_directly(direct, "missed")
        read_some, cut = history.read_some, threading.Event()

        async def lose_database(*about: Any, **more: Any) -> Any:
            if not cut.is_set():
                cut.set()
                ways.database.cut()
            return await read_some(*about, **more)

        monkeypatch.setattr(history, "read_some", lose_database)
        async with following(client, after=before.id) as again:
            async with asyncio.timeout(IN_TIME):
                await asyncio.to_thread(cut.wait, IN_TIME)  # the server has its own event loop
            ways.database.restore()
            assert tell(await again.take()) == [("missed", "pending")]


async def test_a_streamed_upload_is_reported_as_ready(client: httpx.AsyncClient) -> None:
    async with following(client) as followed:
        await stream(client, BODY)
        [event] = await followed.take()
    assert (event.state, event.data["previous"], event.data["hash"]) == (
        "ready",
        None,
        digest(BODY),
    )
