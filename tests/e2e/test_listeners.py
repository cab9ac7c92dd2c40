"""Tests of the connection that listens for notifications.

If it is killed, missing or silent, requests and workers must not wait long, and a new connection
must replace it.
"""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from service.database import notifications
from service.files import lookup
from service.resources import Resources, open_resources
from service.uploads.arrivals import record_event
from service.worker import loop
from tests.e2e.conftest import Ways, api_apart
from tests.e2e.jobs import (
    check_all,
    check_served,
    complete,
    declare,
    look_at,
    put,
    read_metadata,
    upload,
    working,
)
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

BODY = b"what was sent" * 1000
IN_TIME = 15


LISTENERS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND query ~ '^(LISTEN|SELECT pg_notify)'
"""


async def find_listeners(direct: Resources) -> set[int]:
    return {row["pid"] for row in await direct.pool.fetch(LISTENERS)}


async def test_a_killed_listener_is_replaced(
    ways: Ways, direct: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With these intervals, only a notification can end the wait in time.
    monkeypatch.setattr(loop, "POLL", timedelta(minutes=5))
    monkeypatch.setattr(lookup, "UNHEARD_SECONDS", 300)
    async with api_apart(ways.direct, with_worker=False) as client, working(direct):
        await complete(client, await upload(client, BODY))
        declared = await declare(client, BODY)
        waiting = asyncio.create_task(read_metadata(client, declared, wait=30))
        await until(lambda: is_listening(direct, 2))
        killed = await find_listeners(direct)
        await direct.pool.fetch(
            "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", list(killed)
        )

        async def others_listen() -> bool:
            # one listener of the API and one of the worker
            return len(await find_listeners(direct) - killed) >= 2

        await until(others_listen)
        await put(declared, BODY)
        await client.post(f"/files/{declared['file']['id']}/complete")
        async with asyncio.timeout(IN_TIME):
            assert (await waiting)["state"] == "ready"
    await check_all(direct)


async def test_without_a_listener_files_are_proved_and_waits_are_answered(
    ways: Ways, direct: Resources
) -> None:
    ways.database.cut()
    deaf = msgspec.structs.replace(ways.direct, database_listen_url=ways.settings.database_url)
    async with (
        api_apart(deaf, with_worker=False) as client,
        open_resources(deaf) as others,
        working(others),
    ):
        declared = await upload(client, BODY)
        assert (await complete(client, declared, wait=15))["state"] == "ready"
        await check_served(client, direct, declared, BODY)


async def test_a_silent_listener_is_detected_and_replaced(
    ways: Ways, direct: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence the connection without closing it, like a firewall that drops an idle connection."""
    monkeypatch.setattr(notifications, "HEARTBEAT_SECONDS", 0.5)
    listening_apart = msgspec.structs.replace(
        ways.direct, database_listen_url=ways.settings.database_url
    )
    async with api_apart(listening_apart, with_worker=False) as client, working(direct):
        declared = await declare(client, BODY)
        waiting = asyncio.create_task(read_metadata(client, declared, wait=40))
        await until(lambda: is_listening(direct, 2))
        ways.database.silence()
        await put(declared, BODY)
        await record_event(direct, (await look_at(direct, declared)).row["incoming_key"])
        async with asyncio.timeout(IN_TIME):
            assert (await waiting)["state"] == "ready"


async def test_a_wait_ends_after_a_lost_notification_and_a_reconnect(
    ways: Ways, direct: Resources
) -> None:
    deaf = msgspec.structs.replace(ways.direct, database_listen_url=ways.settings.database_url)
    async with (
        api_apart(ways.direct, with_worker=False) as client,
        open_resources(deaf) as others,
        working(others),
    ):
        declared = await declare(client, BODY)
        waiting = asyncio.create_task(read_metadata(client, declared, wait=40))
        await until(lambda: is_listening(direct, 3))
        ways.database.silence()
        await put(declared, BODY)
        await record_event(direct, (await look_at(direct, declared)).row["incoming_key"])
        assert await asyncio.to_thread(ways.database.held.wait, IN_TIME)
        ways.database.cut()
        ways.database.restore()
        async with asyncio.timeout(IN_TIME):
            assert (await waiting)["state"] == "ready"


async def is_listening(direct: Resources, processes: int) -> bool:
    return len(await find_listeners(direct)) == processes
