"""Files in the state `damaged`, which no code of the service sets yet, and objects whose bytes change on the store's disk."""

from pathlib import Path
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


def damage_on_disk(folder: Path, key: str, body: bytes) -> bool:
    """Overwrite some bytes of an object wherever a genuine MinIO below `folder` keeps them; return whether they were found."""
    found = False
    for path in folder.rglob(f"{key}/**/*"):
        if path.is_file() and (at := path.read_bytes().find(body[:50])) >= 0:
            with path.open("r+b") as stream:
                stream.seek(at + 10)
                stream.write(bytes(30))
            found = True
    return found
