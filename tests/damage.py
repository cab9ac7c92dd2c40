"""Files as a scrub would leave them."""

from uuid import UUID

import asyncpg

DAMAGE = """
    WITH damaged AS (
        UPDATE files SET state = 'damaged', previous = state, history_xid = greatest(history_xid, pg_current_xact_id()) WHERE id = $1
        RETURNING id, owner, state, previous, history_xid
    )
    INSERT INTO file_history (xid, file_id, owner, state, previous, by, why)
    SELECT history_xid, id, owner, state, previous, 'worker', 'the object is gone' FROM damaged
"""


async def make_damaged(pool: asyncpg.Pool, file_id: UUID | str) -> None:
    """The object at the store stays as it is."""
    await pool.execute(DAMAGE, file_id)
