"""The database away, the store away, processes that die: nothing hangs, nothing is lost, and all goes on without a restart."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from service import signals
from service.resources import Resources, open_resources
from service.settings import Secret, Settings, Url
from service.uploads import notice_event
from tests.e2e.commands import started
from tests.e2e.jobs import (
    announce,
    api_apart,
    check_all,
    check_served,
    complete,
    declare,
    look_at,
    put,
    read_metadata,
    until,
    upload,
    working,
)
from tests.faults import FaultyBucket, Gate
from tests.invariants import list_bucket
from tests.switch import Switch, switch_to

pytestmark = pytest.mark.anyio

BODY = b"what was sent" * 1000
IN_TIME = 15
"""Seconds for an answer while a server is away: less than two of our time-outs."""
STORE_AWAY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
HOW_IT_GOES: Mapping[str, Callable[[Switch], None]] = {
    "dies": Switch.cut,
    "falls silent": Switch.silence,
    "answers 503": lambda switch: switch.fail(STORE_AWAY),
}


@dataclass(frozen=True)
class Ways:
    """Settings whose ways to the database and to the store have a switch; clients reach the store past it."""

    settings: Settings
    database: Switch
    store: Switch
    direct: Settings


@pytest.fixture
def ways(settings: Settings, logs: object) -> Iterator[Ways]:
    short = msgspec.structs.replace(settings, lease=timedelta(seconds=3), sweep_every=timedelta(seconds=1))
    with switch_to(settings.database_url) as (database, database_url), switch_to(settings.s3_endpoint) as (store, endpoint):
        plain = f"{database_url}{'&' if '?' in database_url else '?'}sslmode=disable"  # cut in mid-handshake, asyncpg drops an exception
        switched = msgspec.structs.replace(
            short, database_url=Secret(plain), s3_endpoint=Url(endpoint), s3_public_endpoint=settings.s3_endpoint
        )
        yield Ways(switched, database, store, msgspec.structs.replace(short, s3_public_endpoint=settings.s3_endpoint))


@pytest.fixture
async def resources(ways: Ways) -> AsyncIterator[Resources]:
    """The test's own ways, which nobody cuts."""
    async with open_resources(ways.direct) as opened:
        yield opened


async def ask(client: httpx.AsyncClient, requests: list[tuple[str, str]]) -> list[httpx.Response]:
    """All at once; none may hang."""
    async with asyncio.timeout(IN_TIME):
        return await asyncio.gather(*(client.request(method, path, json=FILE if path == "/files" else None) for method, path in requests))


FILE = {"filename": "a.txt", "size": 1}


def check_unavailable(answer: httpx.Response, what: str) -> None:
    assert (answer.status_code, answer.json()["type"]) == (503, f"urn:assay:problem:{what}-unavailable")
    assert int(answer.headers["retry-after"]) > 0


def answers(client: httpx.AsyncClient, path: str) -> Callable[[], Awaitable[bool]]:
    async def is_answered() -> bool:
        return (await client.get(path)).status_code == 200

    return is_answered


# The database


@pytest.mark.parametrize("how", ["dies", "falls silent"])
async def test_without_its_database_the_api_refuses_in_time_and_recovers_by_itself(ways: Ways, resources: Resources, how: str) -> None:
    async with api_apart(ways.settings, with_worker=True) as client:
        declared = await upload(client, BODY)
        await complete(client, declared)
        path = f"/files/{declared['file']['id']}"
        HOW_IT_GOES[how](ways.database)
        routes = [("POST", "/files"), ("GET", "/files?limit=1"), ("GET", path), ("GET", f"{path}/metadata"), ("DELETE", path)]
        many = [*routes, ("POST", f"{path}/complete"), ("POST", f"{path}/upload")] * 8
        key = (await look_at(resources, declared)).row["incoming_key"]
        event, *refused = await asyncio.gather(announce(client, ways.settings, key), ask(client, many))
        for answer in [event, *refused[0]]:
            check_unavailable(answer, "database")
        health = await ask(
            client, [("GET", "/health/live"), ("GET", "/health/ready"), ("GET", "/health/ready?full=1"), ("GET", "/metrics")]
        )
        assert [answer.status_code for answer in health] == [200, 200, 503, 200]
        assert (health[1].json()["status"], health[1].json()["away"]) == ("degraded", ["database"])
        assert "assay_database_up 0.0" in health[3].text

        ways.database.restore()
        await until(answers(client, f"{path}/metadata"))
        await check_served(client, resources, declared, BODY)
        again = await upload(client, BODY)
        await complete(client, again)
        await check_served(client, resources, again, BODY)
    await check_all(resources)


async def test_who_waits_for_a_file_outlasts_the_database(ways: Ways, resources: Resources) -> None:
    async with api_apart(ways.settings, with_worker=True) as client:
        declared = await declare(client, BODY)
        waiting = asyncio.create_task(read_metadata(client, declared, wait=30))
        completing = asyncio.create_task(complete(client, await upload(client, BODY)))
        await completing
        ways.database.cut()
        check_unavailable((await ask(client, [("GET", "/files?limit=1")]))[0], "database")
        assert not waiting.done()
        await put(declared, BODY)
        ways.database.restore()
        await until(answers(client, "/files?limit=1"))
        assert (await announce(client, ways.settings, (await look_at(resources, declared)).row["incoming_key"])).status_code == 204
        async with asyncio.timeout(IN_TIME):
            assert (await waiting)["state"] == "ready"
    await check_all(resources)


async def test_a_worker_that_loses_its_database_before_the_commit_leaves_the_file_to_the_next_claim(
    ways: Ways, resources: Resources
) -> None:
    async with api_apart(ways.direct, with_worker=False) as client, open_resources(ways.settings) as switched:
        declared = await upload(client, BODY)
        vault, gate = FaultyBucket(switched.vault), Gate()
        vault.after["copy_from"] = gate
        await client.post(f"/files/{declared['file']['id']}/complete")
        async with working(msgspec.structs.replace(switched, vault=vault)):
            await gate.reached.wait()
            ways.database.cut()
            gate.opened.set()
            await until(lambda: lease_has_ended(resources, declared))
            assert (await look_at(resources, declared)).row["state"] == "verifying"
            ways.database.restore()
            assert (await read_metadata(client, declared, wait=20))["state"] == "ready"
        await check_served(client, resources, declared, BODY)
        await check_single_object(resources, declared)


async def lease_has_ended(resources: Resources, declared: Mapping[str, Any]) -> bool:
    ended: bool = await resources.pool.fetchval("SELECT lease_until < now() FROM files WHERE id = $1", declared["file"]["id"])
    return ended


async def check_single_object(resources: Resources, declared: Mapping[str, Any]) -> None:
    """The proved object, soon without those of earlier claims; nobody else has files here."""
    name = str((await look_at(resources, declared)).row["minio_object_name"])

    async def is_alone() -> bool:
        return await list_bucket(resources.vault) == {name}

    async with working(resources):
        await until(is_alone)
    await check_all(resources)


# The connection that listens


LISTENERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND query ~ '^(LISTEN|SELECT pg_notify)'
"""


async def test_a_listener_that_was_killed_listens_again(ways: Ways, resources: Resources) -> None:
    async with api_apart(ways.direct, with_worker=False) as client, working(resources):
        await complete(client, await upload(client, BODY))
        declared = await declare(client, BODY)
        waiting = asyncio.create_task(read_metadata(client, declared, wait=30))
        killed = await resources.pool.fetch(LISTENERS)
        assert len(killed) == 2  # the API's, and the worker's
        await put(declared, BODY)
        await client.post(f"/files/{declared['file']['id']}/complete")
        async with asyncio.timeout(8):
            assert (await waiting)["state"] == "ready"
    await check_all(resources)


async def test_without_any_listener_work_is_done_and_who_waits_is_told_the_truth(ways: Ways, resources: Resources) -> None:
    ways.database.cut()
    deaf = msgspec.structs.replace(ways.direct, database_listen_url=ways.settings.database_url)
    async with api_apart(deaf, with_worker=False) as client, open_resources(deaf) as others, working(others):
        declared = await upload(client, BODY)
        assert (await complete(client, declared, wait=15))["state"] == "ready"
        await check_served(client, resources, declared, BODY)


async def test_a_listener_that_fell_silent_is_found_out_and_replaced(
    ways: Ways, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a firewall forgets an idle connection: nothing ends, nothing comes."""
    monkeypatch.setattr(signals, "HEARTBEAT_SECONDS", 0.5)
    listening_apart = msgspec.structs.replace(ways.direct, database_listen_url=ways.settings.database_url)
    async with api_apart(listening_apart, with_worker=False) as client, working(resources):
        declared = await declare(client, BODY)
        waiting = asyncio.create_task(read_metadata(client, declared, wait=40))
        await until(lambda: is_listening(resources, 2))
        ways.database.silence()
        await put(declared, BODY)
        await notice_event(resources, (await look_at(resources, declared)).row["incoming_key"])
        async with asyncio.timeout(IN_TIME):
            assert (await waiting)["state"] == "ready"


async def test_a_signal_that_was_lost_on_the_way_is_given_after_the_reconnect(ways: Ways, resources: Resources) -> None:
    deaf = msgspec.structs.replace(ways.direct, database_listen_url=ways.settings.database_url)
    async with api_apart(ways.direct, with_worker=False) as client, open_resources(deaf) as others, working(others):
        declared = await declare(client, BODY)
        waiting = asyncio.create_task(read_metadata(client, declared, wait=40))
        await until(lambda: is_listening(resources, 3))
        ways.database.silence()
        await put(declared, BODY)
        await notice_event(resources, (await look_at(resources, declared)).row["incoming_key"])
        assert await asyncio.to_thread(ways.database.held.wait, IN_TIME)
        ways.database.cut()
        ways.database.restore()
        async with asyncio.timeout(IN_TIME):
            assert (await waiting)["state"] == "ready"


async def is_listening(resources: Resources, processes: int) -> bool:
    listeners = await resources.pool.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^(LISTEN|SELECT pg_notify)'"
    )
    return bool(listeners == processes)


# The store


@pytest.mark.parametrize("how", ["dies", "falls silent", "answers 503"])
async def test_without_its_store_the_api_refuses_what_needs_it_and_verification_goes_on_afterwards(
    ways: Ways, resources: Resources, how: str
) -> None:
    async with api_apart(ways.settings, with_worker=True) as client:
        proved = await upload(client, BODY)
        await complete(client, proved)
        waiting, pending = await upload(client, BODY), await declare(client, BODY)
        HOW_IT_GOES[how](ways.store)
        key = (await look_at(resources, waiting)).row["incoming_key"]
        assert (await announce(client, ways.settings, key)).status_code == 204
        there, path, bare = [f"/files/{declared['file']['id']}" for declared in (proved, waiting, pending)]
        others = [("POST", "/files"), ("GET", "/files?limit=1"), ("GET", f"{path}/metadata"), ("HEAD", there), ("GET", "/health/ready")]
        refused, served = await asyncio.gather(
            ask(client, [("GET", there), ("POST", f"{path}/complete"), ("POST", f"{bare}/upload")]), ask(client, others)
        )
        for answer in refused:
            check_unavailable(answer, "store")
        assert [answer.status_code for answer in served] == [201, 200, 200, 200, 200]
        assert (served[-1].json()["status"], served[-1].json()["away"]) == ("degraded", ["store"])

        async def was_tried() -> bool:
            return (await look_at(resources, waiting)).row["last_error"] is not None

        await until(was_tried)
        ways.store.restore()
        assert (await read_metadata(client, waiting, wait=20))["state"] == "ready"
        for declared in (proved, waiting):
            await check_served(client, resources, declared, BODY)
    await check_all(resources)


async def test_a_deletion_while_the_store_is_away_is_carried_out_afterwards(ways: Ways, resources: Resources) -> None:
    async with api_apart(ways.settings, with_worker=True) as client:
        declared = await upload(client, BODY)
        await complete(client, declared)
        ways.store.cut()
        assert (await client.delete(f"/files/{declared['file']['id']}")).status_code == 204
        assert (await client.get(f"/files/{declared['file']['id']}")).status_code == 410

        async def was_tried() -> bool:
            return bool(await resources.pool.fetchval("SELECT purge_at > now() AND sweep_at > now() FROM files"))

        await until(was_tried)
        assert (await look_at(resources, declared)).vault == BODY
        ways.store.restore()
        await resources.pool.execute("UPDATE files SET purge_at = now(), sweep_at = now()")

        async def gone() -> bool:
            traces = await look_at(resources, declared)
            return traces.incoming is traces.vault is None

        await until(gone)
    await check_all(resources)


# Processes


def as_environment(settings: Settings) -> dict[str, str]:
    """The variables that make a process have these settings."""
    environ = {}
    for name, value in msgspec.structs.asdict(settings).items():
        if value is None or value == ():
            continue
        if isinstance(value, timedelta):
            text = f"{value.total_seconds():.3f}s"
        else:
            text = ",".join(value) if isinstance(value, tuple) else str(value)
        environ[f"ASSAY_{name.upper()}"] = text
    return environ


@pytest.mark.parametrize("moment", [b"HEAD /", b"x-amz-copy-source", b"GET /"], ids=["looks", "copies", "hashes"])
async def test_another_worker_finishes_what_a_killed_one_began(ways: Ways, resources: Resources, tmp_path: Path, moment: bytes) -> None:
    ways.store.silence_after(moment)
    async with api_apart(ways.direct, with_worker=False) as client:
        declared = await upload(client, BODY)
        await client.post(f"/files/{declared['file']['id']}/complete")
        with started(["worker"], tmp_path / "worker.log", environ=as_environment(ways.settings)) as worker:
            assert await asyncio.to_thread(ways.store.silenced.wait, 20), (tmp_path / "worker.log").read_text()
            worker.kill()
        begun = await look_at(resources, declared)
        assert (begun.row["state"], begun.copies) == ("verifying", 1)
        assert begun.row["lease"]
        async with working(resources):
            assert (await read_metadata(client, declared, wait=20))["state"] == "ready"
        await check_served(client, resources, declared, BODY)
        await check_single_object(resources, declared)


async def test_many_files_are_proved_while_workers_die(ways: Ways, resources: Resources, tmp_path: Path) -> None:
    bodies = [b"%d " % number + BODY for number in range(30)]
    async with api_apart(ways.direct, with_worker=False) as client, contextlib.AsyncExitStack() as stack:
        declared = await asyncio.gather(*(upload(client, body) for body in bodies))
        log = tmp_path / "worker.log"
        workers = [stack.enter_context(started(["worker"], log, environ=as_environment(ways.direct))) for _ in range(2)]
        await asyncio.gather(*(client.post(f"/files/{one['file']['id']}/complete") for one in declared))

        async def some_are_ready() -> bool:
            return bool(await resources.pool.fetchval("SELECT count(*) FROM files WHERE state = 'ready'"))

        await until(some_are_ready)
        workers[0].kill()
        for one, body in zip(declared, bodies, strict=True):
            assert (await read_metadata(client, one, wait=20))["state"] == "ready"
            await check_served(client, resources, one, body)
    await check_all(resources)
