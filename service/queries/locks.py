"""Session-level advisory locks. A lock ends with the session of its connection."""

from typing import Final

import asyncpg

MARKER: Final = 0x4153534159  # "ASSAY"
SCRUB: Final = 0x4153534160

TRY: Final = "SELECT pg_try_advisory_lock($1)"


async def try_lock(connection: asyncpg.Connection, lock: int) -> bool:
    """Take the lock for the session of the connection, if no other session has it."""
    return bool(await connection.fetchval(TRY, lock))
