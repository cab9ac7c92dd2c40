"""Helpers that hold transactions open and wait for statements that are blocked by locks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.support.waiting import until

WAITING = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
    ORDER BY state_change
"""


@asynccontextmanager
async def held_open(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection in an open transaction, and roll back unless the caller has ended it."""
    async with pool.acquire() as connection:
        await connection.execute("BEGIN")
        try:
            yield connection
        finally:
            await connection.execute("ROLLBACK")


async def until_waiting(pool: asyncpg.Pool, count: int) -> list[int]:
    """Wait until `count` statements wait for a lock, and return the process ids of their sessions.

    The session that has waited longest comes first.
    """
    found: list[int] = []

    async def are_waiting() -> bool:
        found[:] = [row["pid"] for row in await pool.fetch(WAITING)]
        return len(found) >= count

    await until(are_waiting)
    return found
