"""A function that simulates the passing of time by shifting the rows' timestamps back.

This suffices because the service reads no clock but the database's.
"""

from datetime import timedelta

import asyncpg

DAY = timedelta(days=1)
SHIFT_FILES = """
    UPDATE files SET created_at = created_at - $1::interval,
        expires_at = expires_at - $1::interval, grace_until = grace_until - $1::interval,
        final_at = final_at - $1::interval, lease_until = lease_until - $1::interval,
        failed_reads_since = failed_reads_since - $1::interval, due_at = due_at - $1::interval,
        sweep_at = sweep_at - $1::interval, purge_at = purge_at - $1::interval
"""
SHIFT_RESERVATIONS = """
    UPDATE reservations SET created_at = created_at - $1::interval,
        lease_until = lease_until - $1::interval, doomed_at = doomed_at - $1::interval,
        sweep_at = sweep_at - $1::interval, swept_at = swept_at - $1::interval
"""


async def pass_time(pool: asyncpg.Pool, by: timedelta) -> None:
    """Let the time `by` pass for every file and every reservation."""
    await pool.execute(SHIFT_RESERVATIONS, by)
    await pool.execute(SHIFT_FILES, by)
