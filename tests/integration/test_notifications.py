"""Notifications between two listeners, as in two processes, over a real PostgreSQL."""

import asyncio
import contextlib

import asyncpg
import pytest

from service.database.notifications import Notifications
from service.model import make_id
from tests.support.listeners import running, until_connected

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]


async def test_work_in_one_process_wakes_another(database_url: str) -> None:
    async with running(database_url) as here, running(database_url) as there:
        here.notify_work()
        await asyncio.wait_for(there.work.wait(), 60)


async def test_leftovers_of_one_process_wake_the_sweeper_of_another(database_url: str) -> None:
    async with running(database_url) as here, running(database_url) as there:
        here.notify_leftovers()  # a worker sweeps them itself
        here.notify_work()
        await asyncio.wait_for(there.work.wait(), 60)
        assert not there.leftovers.is_set()
        here.announce_leftovers()
        assert here.leftovers.is_set()
        await asyncio.wait_for(there.leftovers.wait(), 60)


async def test_signals_that_follow_each_other_at_once_arrive(database_url: str) -> None:
    async with running(database_url) as here, running(database_url) as there:
        for file_id in [make_id() for _ in range(60)]:
            with there.subscribe(file_id) as changed:
                here.notify_change(file_id)
                await asyncio.wait_for(changed.wait(), 60)


async def test_a_change_wakes_only_the_waiters_for_that_file(database_url: str) -> None:
    file_id, other = make_id(), make_id()
    async with running(database_url) as here, running(database_url) as there:
        with there.subscribe(file_id) as changed, there.subscribe(other) as unchanged:
            here.notify_change(file_id)
            await asyncio.wait_for(changed.wait(), 60)
            assert not unchanged.is_set()
        assert not there.waiters


@pytest.mark.parametrize("give", ["notify_history", "notify_change"])
async def test_every_transition_wakes_the_history_readers_of_every_process(
    database_url: str, give: str
) -> None:
    async with running(database_url) as here, running(database_url) as there:
        for notifications in (here, there):
            notifications.history.clear()
        getattr(here, give)(*([make_id()] if give == "notify_change" else []))
        assert here.history.is_set()
        await asyncio.wait_for(there.history.wait(), 60)
        assert not there.work.is_set()


async def test_thousands_of_changes_fit_their_payloads(database_url: str) -> None:
    ids = [make_id() for _ in range(1000)]
    async with running(database_url) as here, running(database_url) as there:
        with contextlib.ExitStack() as stack:
            events = [stack.enter_context(there.subscribe(file_id)) for file_id in ids]
            for file_id in ids:
                here.notify_change(file_id)
            await asyncio.wait_for(asyncio.gather(*(event.wait() for event in events)), 60)


async def test_a_lost_connection_wakes_every_waiter_and_is_replaced(
    database_url: str,
) -> None:
    file_id = make_id()
    async with running(database_url) as here, running(database_url) as there:
        with there.subscribe(file_id) as changed:
            await terminate_listeners(database_url)
            await asyncio.wait_for(changed.wait(), 60)
            await until_connected(here)
            await until_connected(there)
            changed.clear()
            here.notify_change(file_id)
            await asyncio.wait_for(changed.wait(), 60)


async def terminate_listeners(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
            """
        )
    finally:
        await connection.close()


async def test_malformed_notifications_are_ignored(database_url: str) -> None:
    async with running(database_url) as notifications:
        connection = await asyncpg.connect(database_url)
        for payload in ("", "nonsense", "x y,z", "origin work"):
            await connection.execute("SELECT pg_notify('assay', $1)", payload)
        await connection.close()
        await asyncio.wait_for(notifications.work.wait(), 60)


async def test_a_listener_connects_once_its_database_has_been_created(
    database_url: str,
) -> None:
    name = f"later_{make_id().hex}"
    server = await asyncpg.connect(database_url)
    notifications = Notifications(database_url.rpartition("/")[0] + f"/{name}")
    listening = asyncio.create_task(notifications.run())
    try:
        # The first attempt to connect is refused within this time.
        await asyncio.wait({listening}, timeout=0.5)
        await server.execute(f"CREATE DATABASE {name}")
        await until_connected(notifications)
        assert not listening.done()
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await server.close()


async def test_more_changes_than_are_kept_wake_every_waiter(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.database.notifications.MOST_CHANGED", 10)
    file_id = make_id()
    here = Notifications(database_url)
    for _ in range(20):
        here.notify_change(make_id())
    here.notify_change(file_id)
    assert len(here.changed) == 10
    async with running(database_url) as there:
        with there.subscribe(file_id) as changed:
            listening = asyncio.create_task(here.run())
            await asyncio.wait_for(changed.wait(), 60)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
