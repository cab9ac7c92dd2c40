"""Statements on `idempotency_keys`, which records the request that a client's retry repeats.

The commit of a streamed upload inserts its key together with its file
(service/queries/reservations.py).
"""

from typing import Final
from uuid import UUID

import msgspec

from service.model import Sha256
from service.queries.rows import Database, read_row, read_row_if_any


class KeyedRequest(msgspec.Struct, frozen=True):
    """An `Idempotency-Key`, and the digest by which a repeated request is compared."""

    key: str
    request_sha256: Sha256


class Remembered(msgspec.Struct, frozen=True):
    """The digest of the first request with this key, and the file that it created."""

    request_sha256: Sha256
    file_id: UUID


# A concurrent request with the same key waits here until the transaction of the first has ended.
REMEMBER: Final = """
    INSERT INTO idempotency_keys (owner, key, request_sha256, file_id) VALUES ($1, $2, $3, $4)
    ON CONFLICT (owner, key) DO NOTHING RETURNING file_id
"""
RECALL: Final = "SELECT request_sha256, file_id FROM idempotency_keys WHERE owner = $1 AND key = $2"


async def remember_request(
    database: Database, owner: str, key: str, *, request: Sha256, file_id: UUID
) -> Remembered | None:
    """Record the key for this file, in the caller's transaction.

    Return None if the key is new, and the earlier request with this key otherwise.
    """
    if await database.fetchval(REMEMBER, owner, key, request.digest, file_id):
        return None
    return read_row(await database.fetchrow(RECALL, owner, key), Remembered)


async def recall_request(database: Database, owner: str, key: str) -> Remembered | None:
    """Return the committed request with this key, or None."""
    return read_row_if_any(await database.fetchrow(RECALL, owner, key), Remembered)
