"""The statement on the files and keys of running downloads."""

from collections.abc import Collection
from typing import Final
from uuid import UUID

from service.queries.rows import Database

FIND_PERMITTED: Final = """
    SELECT running.file_id, running.key_id
    FROM unnest($1::uuid[], $2::uuid[]) AS running (file_id, key_id)
    JOIN files ON files.id = running.file_id AND files.state = 'ready'
    JOIN api_keys ON api_keys.id = running.key_id AND api_keys.revoked_at IS NULL
      AND (api_keys.expires_at IS NULL OR api_keys.expires_at > now())
"""


async def find_permitted(
    database: Database, running: Collection[tuple[UUID, UUID]]
) -> set[tuple[UUID, UUID]]:
    """Return those pairs of a file and a key whose file is `ready` and whose key is live."""
    files, keys = [file_id for file_id, _ in running], [key_id for _, key_id in running]
    rows = await database.fetch(FIND_PERMITTED, files, keys)
    return {(row["file_id"], row["key_id"]) for row in rows}
