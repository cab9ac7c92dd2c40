"""A function that simulates the passing of time by shifting the rows' timestamps back.

This suffices because the service reads no other clock for the work on files.
"""

from datetime import timedelta

import asyncpg

DAY = timedelta(days=1)
SHIFT_FILES = """
    UPDATE files SET created_at = created_at - $1::interval,
        expires_at = expires_at - $1::interval, grace_until = grace_until - $1::interval,
        final_at = final_at - $1::interval, lease_until = lease_until - $1::interval,
        failed_reads_since = failed_reads_since - $1::interval, due_at = due_at - $1::interval,
        sweep_at = sweep_at - $1::interval, purge_at = purge_at - $1::interval,
        proved_at = proved_at - $1::interval, checked_at = checked_at - $1::interval
"""
SHIFT_RESERVATIONS = """
    UPDATE reservations SET created_at = created_at - $1::interval,
        lease_until = lease_until - $1::interval, doomed_at = doomed_at - $1::interval,
        sweep_at = sweep_at - $1::interval, swept_at = swept_at - $1::interval
    WHERE num_nonnulls(file_id, scratch_key, doomed_at) > 0
"""
SHIFT_ORPHANS = "UPDATE incoming_orphans SET seen_at = seen_at - $1::interval"


async def pass_time(pool: asyncpg.Pool, by: timedelta) -> None:
    """Let the time `by` pass for every file, every reservation and every orphan in incoming.

    The exceptions are keys that a process has reserved in advance, because it knows the ends of
    their leases by its own clock.
    """
    await pool.execute(SHIFT_RESERVATIONS, by)
    await pool.execute(SHIFT_FILES, by)
    await pool.execute(SHIFT_ORPHANS, by)
