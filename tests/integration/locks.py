"""Transactions that are held open, and statements that wait for their rows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.support.waiting import until

WAITING = """
    SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' ORDER BY state_change
"""


@asynccontextmanager
async def held_open(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.Connection]:
    """A connection in a transaction, which its user ends; else it is rolled back."""
    async with pool.acquire() as connection:
        await connection.execute("BEGIN")
        try:
            yield connection
        finally:
            await connection.execute("ROLLBACK")


async def until_waiting(pool: asyncpg.Pool, count: int) -> list[int]:
    """Until so many statements wait for a row that somebody else has locked: their processes, who waits longest first."""
    found: list[int] = []

    async def are_waiting() -> bool:
        found[:] = [row["pid"] for row in await pool.fetch(WAITING)]
        return len(found) >= count

    await until(are_waiting)
    return found
