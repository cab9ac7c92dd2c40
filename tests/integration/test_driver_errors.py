"""Errors of the PostgreSQL driver.

An error may cost its connection, but never a place in the pool, the worker or the listener.
"""

import asyncio
import contextlib
import gc
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import msgspec
import pytest
import uvloop

from service import database
from service.app import work
from service.cli.worker import wait_for_schema
from service.database.notifications import Notifications
from service.resources import Resources
from service.routes.health import Readiness
from service.settings import Count, DatabaseSettings, DatabaseUrl, Secret
from service.worker.loop import Worker
from tests.integration.steps import find, send
from tests.support.proxies import FaultyProxy, faulty_way
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

UNRESOLVABLE = DatabaseUrl(Secret("postgresql://assay:assay@no-such-host.invalid:5432/assay"))


def write_message(kind: bytes, body: bytes) -> bytes:
    """Encode a message of PostgreSQL's frontend/backend protocol, version 3."""
    return kind + struct.pack("!i", 4 + len(body)) + body


SHUTDOWN = write_message(
    b"E", b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
)
MARK = write_message(b"S", b"application_name\0told\0")
"""A ParameterStatus message, which the driver applies in any state.

Once its effect is visible, the driver has read everything that was sent before it.
"""


@pytest.fixture
def way(database_url: str) -> Iterator[tuple[FaultyProxy, str]]:
    with faulty_way(database_url) as found:
        yield found


@pytest.fixture
async def small_pool(way: tuple[FaultyProxy, str]) -> AsyncIterator[asyncpg.Pool]:
    """Yield a pool of one connection, which goes through the proxy."""
    settings = DatabaseSettings(
        database_url=DatabaseUrl(Secret(way[1])), database_pool_size=Count(1)
    )
    pool = await database.open_pool(settings)
    yield pool
    pool.terminate()


async def shut_down(proxy: FaultyProxy, connection: Any) -> None:
    """Send the server's shutdown error to the client, without closing the connection.

    Return when the driver has read it.
    """
    proxy.inject(SHUTDOWN + MARK)

    async def is_told() -> bool:
        return bool(connection.get_settings().application_name == "told")

    await until(is_told)


STATEMENTS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "fetch": lambda connection: connection.fetch("SELECT 1"),
    "fetchrow": lambda connection: connection.fetchrow("SELECT 1"),
    "fetchval": lambda connection: connection.fetchval("SELECT 1"),
    "execute": lambda connection: connection.execute("SELECT 1"),
    "execute with arguments": lambda connection: connection.execute("SELECT $1::int", 1),
}


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
async def test_a_session_that_the_server_has_ended_is_replaced(
    small_pool: asyncpg.Pool,
    way: tuple[FaultyProxy, str],
    statement: Callable[[Any], Awaitable[Any]],
) -> None:
    async with small_pool.acquire() as connection:
        await statement(connection)
        await shut_down(way[0], connection)
        with pytest.raises(database.UNREACHABLE):
            await statement(connection)
    assert await small_pool.fetchval("SELECT 1") == 1


async def test_a_session_that_ended_while_it_was_idle_in_the_pool_is_replaced(
    small_pool: asyncpg.Pool, way: tuple[FaultyProxy, str]
) -> None:
    async with small_pool.acquire() as connection:
        # On release, the pool detaches this connection from its wrapper.
        idle: Any = connection._con
    await shut_down(way[0], idle)
    with pytest.raises(database.UNREACHABLE):
        await small_pool.fetchval("SELECT 1")
    assert await small_pool.fetchval("SELECT 1") == 1


async def test_a_transaction_whose_session_has_ended_frees_its_place(
    small_pool: asyncpg.Pool, way: tuple[FaultyProxy, str]
) -> None:
    async def run_transaction() -> None:
        async with small_pool.acquire() as connection, connection.transaction():
            await shut_down(way[0], connection)
            await connection.fetchval("SELECT 1")

    with pytest.raises(database.UNREACHABLE):
        await run_transaction()
    assert await small_pool.fetchval("SELECT 1") == 1


async def test_a_statement_error_does_not_cost_the_connection(
    small_pool: asyncpg.Pool,
) -> None:
    backend = await small_pool.fetchval("SELECT pg_backend_pid()")
    for statement in ("SELECT 1 / 0", "SELECT no_such_column"):
        with pytest.raises(asyncpg.PostgresError):
            await small_pool.fetchval(statement)
    with pytest.raises(asyncpg.DataError):
        await small_pool.fetchval("SELECT $1::int", "no number")
    assert await small_pool.fetchval("SELECT pg_backend_pid()") == backend


TERMINATE_OTHERS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def test_no_terminated_session_costs_the_pool_a_place(
    pool: asyncpg.Pool, database_url: str
) -> None:
    async def ask_until(over: asyncio.Event) -> None:
        while not over.is_set():
            with contextlib.suppress(*database.UNREACHABLE):
                assert await pool.fetchval("SELECT 1") == 1

    over, administrator = asyncio.Event(), await asyncpg.connect(database_url)
    try:
        asking = [asyncio.create_task(ask_until(over)) for _ in range(20)]
        terminated = 0
        while terminated < 100:
            terminated += await administrator.fetchval(TERMINATE_OTHERS)
        over.set()
        await asyncio.gather(*asking)
    finally:
        await administrator.close()
    taken = [await pool.acquire() for _ in range(pool.get_max_size())]
    assert [await connection.fetchval("SELECT 1") for connection in taken] == [
        1
    ] * pool.get_max_size()
    for connection in taken:
        await pool.release(connection)


class WatchedNotifications(Notifications):
    """Notifications that expose their connection to the test."""

    listening: asyncpg.Connection

    async def connect(self) -> asyncpg.Connection:
        self.listening = await super().connect()
        return self.listening


async def test_a_listener_whose_session_has_ended_listens_again(
    way: tuple[FaultyProxy, str], database_url: str
) -> None:
    here, there = WatchedNotifications(way[1]), Notifications(database_url)
    listening = [asyncio.create_task(notifications.run()) for notifications in (here, there)]
    try:
        await until(lambda: are_connected(here, there))
        await shut_down(way[0], here.listening)

        async def is_replaced() -> bool:
            here.notify_work()
            return way[0].connections == 2 and here.connected

        async def is_heard() -> bool:
            here.notify_work()
            return there.work.is_set()

        await until(is_replaced)
        there.work.clear()
        await until(is_heard)
        assert not any(task.done() for task in listening)
    finally:
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)


async def are_connected(*listeners: Notifications) -> bool:
    return all(notifications.connected for notifications in listeners)


class BrokenPool:
    """A pool whose statements fail with an exception that no list of driver errors contains."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.failures = 0
        self.mended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)

    async def fetch(self, *args: Any) -> Any:
        return await self.run(self.pool.fetch, *args)

    async def fetchval(self, *args: Any) -> Any:
        return await self.run(self.pool.fetchval, *args)

    async def run(self, real: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        if not self.mended:
            self.failures += 1
            raise AttributeError("'NoneType' object has no attribute 'write'")
        return await real(*args)


async def test_a_worker_continues_after_any_error_of_the_driver(resources: Resources) -> None:
    declared = await send(resources)
    broken: Any = BrokenPool(resources.pool)
    working = asyncio.create_task(Worker(msgspec.structs.replace(resources, pool=broken)).run())
    try:
        await until(lambda: has_failed_twice(broken))
        broken.mended = True
        await resources.pool.execute("UPDATE files SET due_at = now()")

        async def is_ready() -> bool:
            return str((await find(resources, declared.file)).state) == "ready"

        await until(is_ready)
        assert not working.done()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_the_start_of_a_worker_continues_after_any_driver_error(
    resources: Resources,
) -> None:
    broken: Any = BrokenPool(resources.pool)
    waiting = asyncio.create_task(wait_for_schema(msgspec.structs.replace(resources, pool=broken)))
    await until(lambda: has_failed_twice(broken))
    broken.mended = True
    async with asyncio.timeout(20):
        await waiting


async def test_the_start_of_an_api_continues_after_any_driver_error(
    resources: Resources,
) -> None:
    broken, readiness = BrokenPool(resources.pool), Readiness()
    faulty: Any = msgspec.structs.replace(resources, pool=broken)
    starting = asyncio.create_task(work(faulty, readiness, checked=False, with_worker=False))
    await until(lambda: has_failed_twice(broken))
    broken.mended = True
    async with asyncio.timeout(20):
        await starting
    assert readiness.phase == "running"


async def has_failed_twice(broken: BrokenPool) -> bool:
    return broken.failures >= 2


def test_an_abandoned_connection_attempt_leaves_no_error_behind() -> None:
    """Abandon an attempt while uvloop resolves a name, which cannot be cancelled.

    The resolution fails after the attempt was abandoned.
    """
    said: list[dict[str, Any]] = []

    async def give_up() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: said.append(context))
        pool = await database.open_pool(DatabaseSettings(database_url=UNRESOLVABLE))
        asking = asyncio.create_task(pool.fetchval("SELECT 1"))
        for _ in range(3):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        with pytest.raises(socket.gaierror):
            await loop.getaddrinfo("no-such-host.invalid", 5432)
        # Without a network, the resolver may time out.
        with pytest.raises((socket.gaierror, TimeoutError)):
            await pool.fetchval("SELECT 1")
        gc.collect()
        pool.terminate()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(give_up())
    assert said == []
