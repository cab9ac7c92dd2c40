"""Tests of an unavailable database or store.

No request may hang, no file may be lost, nothing may be left behind, and all processes must recover
without a restart.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest

from service.resources import Resources, open_resources
from service.uploads import buffers, streamed
from tests.e2e.conftest import Ways, api_apart
from tests.e2e.jobs import (
    announce,
    check_all,
    check_served,
    check_single_object,
    check_unavailable,
    complete,
    declare,
    find_key,
    in_pieces,
    look_at,
    put,
    read_metadata,
    until_it_holds,
    upload,
    working,
)
from tests.support.clock import pass_time
from tests.support.faults import FaultyBucket, Gate
from tests.support.invariants import check_nothing_left
from tests.support.proxies import FaultyProxy
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

BODY = b"what was sent" * 1000
IN_TIME = 15
"""The limit in seconds for a response while a server is unavailable.

It is less than two of Assay's timeouts.
"""
HOW_IT_GOES: Mapping[str, Callable[[FaultyProxy], None]] = {
    "dies": FaultyProxy.cut,
    "falls silent": FaultyProxy.silence,
    "answers 503": FaultyProxy.fail,
}
FILE = {"filename": "a.txt", "size": 1}
MORE_THAN_A_PART = 2 * buffers.PART_BYTES


Asked = tuple[str, str] | tuple[str, str, Mapping[str, Any]]


async def ask(client: httpx.AsyncClient, requests: list[Asked]) -> list[httpx.Response]:
    """Send all requests at once, and return the responses. Fails if a response takes too long."""
    async with asyncio.timeout(IN_TIME):
        return await asyncio.gather(
            *(
                client.request(method, path, **(about[0] if about else {}))
                for method, path, *about in requests
            )
        )


def stream_uploads() -> list[Asked]:
    """Return a request for each kind of streamed upload.

    Their bodies are sent in one part, in several parts, as a form, and without a length.
    """
    path = "/files/upload?filename=a"
    return [
        ("POST", path, {"content": BODY}),
        ("POST", path, {"content": bytes(MORE_THAN_A_PART)}),
        ("POST", "/files/upload", {"files": {"file": ("a", BODY)}}),
        ("PUT", "/upload/a", {"content": in_pieces(bytes(MORE_THAN_A_PART))}),
    ]


def answers(client: httpx.AsyncClient, path: str) -> Callable[[], Awaitable[bool]]:
    async def is_answered() -> bool:
        return (await client.get(path)).status_code == 200

    return is_answered


# The database


@pytest.mark.parametrize("how", ["dies", "falls silent"])
async def test_without_its_database_the_api_refuses_in_time_and_recovers(
    ways: Ways, direct: Resources, how: str
) -> None:
    async with api_apart(ways.settings, with_worker=True) as client:
        declared = await upload(client, BODY)
        await complete(client, declared)
        path = f"/files/{declared['file']['id']}"
        unsent = await declare(client, BODY)
        key = await find_key(direct, unsent)
        HOW_IT_GOES[how](ways.database)
        routes: list[Asked] = [
            ("GET", "/files?limit=1"),
            ("GET", path),
            ("GET", f"{path}/metadata"),
            ("DELETE", path),
        ]
        routes += [("GET", f"{path}/history"), ("GET", "/events")]
        routes += [
            ("POST", "/files", {"json": FILE}),
            ("POST", f"{path}/complete"),
            ("POST", f"{path}/upload"),
        ]
        many = [*routes * 8, ("PUT", "/upload/a", {"content": BODY}), *stream_uploads()]
        event, *refused = await asyncio.gather(
            announce(client, ways.settings, key), ask(client, many)
        )
        for answer in [event, *refused[0]]:
            check_unavailable(answer, "database")
        health = await ask(
            client,
            [
                ("GET", "/health/live"),
                ("GET", "/health/ready"),
                ("GET", "/health/ready?full=1"),
                ("GET", "/metrics"),
            ],
        )
        assert [answer.status_code for answer in health] == [200, 200, 503, 200]
        assert (health[1].json()["status"], health[1].json()["away"]) == ("degraded", ["database"])
        assert "assay_database_up 0.0" in health[3].text

        ways.database.restore()
        await until(answers(client, f"{path}/metadata"))
        await check_served(client, direct, declared, BODY)
        again = await upload(client, BODY)
        await complete(client, again)
        await check_served(client, direct, again, BODY)
        await client.delete(f"/files/{unsent['file']['id']}")
        await check_tidied_up(direct)
    await check_all(direct)


async def test_a_wait_for_a_file_survives_an_outage_of_the_database(
    ways: Ways, direct: Resources
) -> None:
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
        assert (
            await announce(
                client, ways.settings, (await look_at(direct, declared)).row["incoming_key"]
            )
        ).status_code == 204
        async with asyncio.timeout(IN_TIME):
            assert (await waiting)["state"] == "ready"
    await check_all(direct)


async def test_a_worker_without_its_database_leaves_the_file_to_the_next_claim(
    ways: Ways, direct: Resources
) -> None:
    async with (
        api_apart(ways.direct, with_worker=False) as client,
        open_resources(ways.settings) as switched,
    ):
        declared = await upload(client, BODY)
        vault, gate = FaultyBucket(switched.vault), Gate()
        vault.after["put"] = gate
        await announce(client, ways.direct, await find_key(direct, declared))
        async with working(msgspec.structs.replace(switched, vault=vault)):
            await gate.reached.wait()
            ways.database.cut()
            gate.opened.set()
            await until(lambda: lease_has_ended(direct, declared))
            assert (await look_at(direct, declared)).row["state"] == "verifying"
            ways.database.restore()
            assert (await read_metadata(client, declared, wait=50))["state"] == "ready"
        await check_served(client, direct, declared, BODY)
        await check_single_object(direct, declared)


END_LEASES = """
    UPDATE reservations SET lease_until = now() - interval '1 second'
    WHERE file_id IS NULL AND scratch_key IS NULL AND doomed_at IS NULL
"""


async def check_tidied_up(direct: Resources) -> None:
    """Check that nothing is left after the next sweep.

    A sweep that failed is repeated only after some minutes. The timestamps of all rows are
    therefore shifted back. `pass_time` leaves out the keys that a process has reserved in advance,
    of which an upload may have used one whose commit was not answered.
    """
    await pass_time(direct.pool, timedelta(minutes=6))
    await direct.pool.execute(END_LEASES)
    await until_it_holds(lambda: check_nothing_left(direct))


async def lease_has_ended(direct: Resources, declared: Mapping[str, Any]) -> bool:
    ended: bool = await direct.pool.fetchval(
        "SELECT lease_until < now() FROM files WHERE id = $1", declared["file"]["id"]
    )
    return ended


# The store


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dies", "falls silent", "answers 503"])
async def test_without_the_store_requests_are_refused_and_files_proved_later(
    ways: Ways, direct: Resources, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    # This limits how long each part may take. The default allows for slow stores.
    monkeypatch.setattr(streamed, "SEND_SECONDS", 3.0)
    monkeypatch.setattr(streamed, "CLEAN_SECONDS", 1.0)
    async with api_apart(ways.settings, with_worker=True) as client:
        proved = await upload(client, BODY)
        await complete(client, proved)
        waiting, pending = await upload(client, BODY), await declare(client, BODY)
        HOW_IT_GOES[how](ways.store)
        key = (await look_at(direct, waiting)).row["incoming_key"]
        assert (await announce(client, ways.settings, key)).status_code == 204
        there, path, bare = [
            f"/files/{declared['file']['id']}" for declared in (proved, waiting, pending)
        ]
        away: list[Asked] = [("GET", there), ("POST", f"{bare}/upload"), *stream_uploads()]
        others: list[Asked] = [
            ("POST", "/files", {"json": FILE}),
            ("GET", "/files?limit=1"),
            ("GET", f"{path}/metadata"),
            ("HEAD", there),
        ]
        others += [
            ("GET", "/health/ready"),
            ("PUT", "/upload/a", {"content": BODY}),
            ("POST", f"{path}/complete"),
        ]
        refused, served = await asyncio.gather(ask(client, away), ask(client, others))
        for answer in refused:
            check_unavailable(answer, "store")
        assert [answer.status_code for answer in served] == [201, 200, 200, 200, 200, 307, 202]
        assert (served[4].json()["status"], served[4].json()["away"]) == ("degraded", ["store"])

        async def was_tried() -> bool:
            return (await look_at(direct, waiting)).row["last_error"] is not None

        await until(was_tried)
        ways.store.restore()

        async def is_ready() -> bool:
            return bool((await read_metadata(client, waiting, wait=10))["state"] == "ready")

        await until(is_ready, seconds=60)
        for declared in (proved, waiting):
            await check_served(client, direct, declared, BODY)
        await check_tidied_up(direct)
    await check_all(direct)


async def test_a_deletion_during_an_outage_of_the_store_is_completed_later(
    ways: Ways, direct: Resources
) -> None:
    async with api_apart(ways.settings, with_worker=True) as client:
        declared = await upload(client, BODY)
        await complete(client, declared)
        ways.store.cut()
        assert (await client.delete(f"/files/{declared['file']['id']}")).status_code == 204
        assert (await client.get(f"/files/{declared['file']['id']}")).status_code == 410

        async def both_failed() -> bool:
            """Return whether both deletions were tried, and the failure of the first is recorded.

            Until then `sweeps` is 1, and the record would postpone a deletion that is due again.
            """
            return bool(
                await direct.pool.fetchval(
                    "SELECT purge_at > now() AND sweep_at > now() AND sweeps = 0 FROM files"
                )
            )

        await until(both_failed)
        assert (await look_at(direct, declared)).vault == BODY
        ways.store.restore()
        await direct.pool.execute("UPDATE files SET purge_at = now(), sweep_at = now()")

        async def gone() -> bool:
            traces = await look_at(direct, declared)
            return traces.incoming is traces.vault is None

        await until(gone)
    await check_all(direct)
