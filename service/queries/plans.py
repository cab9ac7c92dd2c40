"""Settings of the planner, under which a page is read in the order of one index.

The planner estimates how many rows match, from statistics that may be missing or old, and a generic
plan does not know the parameters. A wrong estimate may make it read a whole table and sort it, and
no LIMIT prevents that. The statements of pages therefore have an ORDER BY that only one index can
provide, and the settings below exclude every plan that reads rows in another order. An index scan
ends as soon as the LIMIT is reached, so the LIMIT bounds what is read.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

import asyncpg

# SET LOCAL ends with the transaction, so that it also works through a pooler. Parallel workers
# would read ahead. Up to PostgreSQL 17, a disabled plan that cannot be avoided (such as the sort of
# a bounded number of rows) has a cost at which its compilation would begin.
READ_IN_ORDER: Final = """
    SET LOCAL enable_seqscan = off;
    SET LOCAL enable_bitmapscan = off;
    SET LOCAL enable_sort = off;
    SET LOCAL enable_incremental_sort = off;
    SET LOCAL max_parallel_workers_per_gather = 0;
    SET LOCAL jit = off
"""


@contextlib.asynccontextmanager
async def reading_in_order(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection in a read-only transaction with these settings.

    All statements in it read the same rows.
    """
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute(READ_IN_ORDER)
        yield connection
