"""Statements over `idempotency_keys`: which declaration a client's retry repeats."""

from typing import Final
from uuid import UUID

import msgspec

from service.model import Sha256
from service.queries.rows import Database, read_row


class Remembered(msgspec.Struct, frozen=True):
    """The request that used this key first, and the file it declared."""

    request_sha256: Sha256
    file_id: UUID


# A repeat at the same moment waits here until the first one's transaction has ended.
REMEMBER: Final = """
    INSERT INTO idempotency_keys (owner, key, request_sha256, file_id) VALUES ($1, $2, $3, $4)
    ON CONFLICT (owner, key) DO NOTHING RETURNING file_id
"""
RECALL: Final = "SELECT request_sha256, file_id FROM idempotency_keys WHERE owner = $1 AND key = $2"


async def remember_request(
    database: Database, owner: str, key: str, *, request: Sha256, file_id: UUID
) -> Remembered | None:
    """Take the key for this file, in the caller's transaction; what is returned was there before."""
    if await database.fetchval(REMEMBER, owner, key, request.digest, file_id):
        return None
    return read_row(await database.fetchrow(RECALL, owner, key), Remembered)
