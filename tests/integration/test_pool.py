"""The pool: connections that are kept for the next statement, and callers that wait for one."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from service.database import open_pool
from service.database import pool as module
from service.database.pool import Pool
from service.settings import Count, DatabaseSettings, DatabaseUrl, Secret
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

PID = "SELECT pg_backend_pid()"


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """Yield a pool of two connections."""
    settings = DatabaseSettings(
        database_url=DatabaseUrl(Secret(database_url)), database_pool_size=Count(2)
    )
    opened = await open_pool(settings)
    yield opened
    await opened.close()


async def test_a_statement_uses_the_connection_of_the_one_before(pool: Pool) -> None:
    assert len({await pool.fetchval(PID) for _ in range(5)}) == 1
    assert (await pool.fetchrow("SELECT 1 AS a"))["a"] == 1
    assert [row["a"] for row in await pool.fetch("SELECT 2 AS a")] == [2]
    assert await pool.execute("SELECT 3") == "SELECT 1"
    assert len(pool._spare) == 1
    assert pool.get_size() == 1


async def test_a_spare_connection_is_lent_to_any_caller(pool: Pool) -> None:
    pid = await pool.fetchval(PID)
    async with pool.acquire() as connection:
        assert await connection.fetchval(PID) == pid
    connection = await pool.acquire()
    await pool.release(connection)
    assert not pool._spare


async def test_many_statements_share_the_connections(pool: Pool) -> None:
    pids = await asyncio.gather(*(pool.fetchval(PID) for _ in range(50)))
    assert len(set(pids)) == 2


async def test_a_caller_that_waits_gets_the_connection_of_a_statement(pool: Pool) -> None:
    async def work() -> None:
        while not done.is_set():
            await pool.fetchval("SELECT pg_sleep(0.001)")

    done = asyncio.Event()
    busy = [asyncio.create_task(work()) for _ in range(4)]
    for _ in range(5):
        async with pool.acquire() as connection, connection.transaction():
            assert await connection.fetchval("SELECT 1") == 1
    done.set()
    await asyncio.gather(*busy)


async def test_spare_connections_are_given_back_after_a_while(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE_SECONDS", 0.05)
    await pool.fetchval(PID)
    await until(lambda: not pool._spare and pool.get_idle_size() == 1)
    assert await pool.fetchval("SELECT 1") == 1


async def test_a_spare_connection_whose_session_has_ended_is_replaced(pool: Pool) -> None:
    pid = await pool.fetchval(PID)
    [spare] = pool._spare
    spare.terminate()
    assert await pool.fetchval(PID) != pid


async def test_a_statement_that_fails_gives_its_connection_back(pool: Pool) -> None:
    for _ in range(5):
        with pytest.raises(asyncpg.UndefinedTableError):
            await pool.fetchval("SELECT * FROM missing")
    assert pool.get_size() - pool.get_idle_size() == len(pool._spare)


async def test_a_cancelled_statement_gives_its_connection_back(pool: Pool) -> None:
    for _ in range(4):  # more than the pool has connections
        task = asyncio.create_task(pool.fetchval("SELECT pg_sleep(60)"))
        await until(lambda: pool.get_size() - pool.get_idle_size() > len(pool._spare))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await pool.fetchval("SELECT 1") == 1


async def test_the_wait_for_a_connection_is_bounded(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool.acquire(), pool.acquire():
        monkeypatch.setattr(module, "ACQUIRE_SECONDS", 0.05)
        with pytest.raises(TimeoutError):
            await pool.fetchval(PID)
        with pytest.raises(TimeoutError):
            await pool.acquire()
    monkeypatch.undo()  # on a busy machine, a connection may need longer
    assert await pool.fetchval("SELECT 1") == 1


async def test_a_closed_pool_has_no_connection_left(pool: Pool) -> None:
    await asyncio.gather(*(pool.fetchval(PID) for _ in range(5)))
    await pool.close()
    assert (pool.get_size(), pool._spare) == (0, [])
    with pytest.raises(asyncpg.InterfaceError):
        await pool.fetchval("SELECT 1")
