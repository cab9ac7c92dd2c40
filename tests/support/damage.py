"""Damage to files: the state `damaged`, and objects whose bytes change on the store's disk."""

from pathlib import Path
from uuid import UUID

import asyncpg

DAMAGE = """
    UPDATE files SET state = 'damaged', changed_by = 'worker', changed_why = 'the object is missing'
    WHERE id = $1
"""


async def make_damaged(pool: asyncpg.Pool, file_id: UUID | str) -> None:
    """Set the file's state to `damaged`. The object in the store stays as it is."""
    await pool.execute(DAMAGE, file_id)


def damage_on_disk(folder: Path, key: str, body: bytes) -> bool:
    """Overwrite some bytes of an object in a genuine MinIO whose data are below `folder`.

    Return whether the bytes were found.
    """
    found = False
    for path in folder.rglob(f"{key}/**/*"):
        if path.is_file() and (at := path.read_bytes().find(body[:50])) >= 0:
            with path.open("r+b") as stream:
                stream.seek(at + 10)
                stream.write(bytes(30))
            found = True
    return found
