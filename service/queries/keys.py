"""Statements on `api_keys`. Only the SHA-256 of a key is ever stored."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from service.model import Sha256
from service.queries.rows import Database, read_row


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key without its secret."""

    id: UUID
    owner: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class Grant(msgspec.Struct, frozen=True):
    """The owner and the scopes of a live key, and the time until it expires, if it does."""

    key_id: UUID
    owner: str
    scopes: list[str]
    remaining: timedelta | None


FIND: Final = """
    SELECT id, owner, scopes, expires_at - now() AS remaining FROM api_keys
    WHERE secret_sha256 = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""


async def find_grant(database: Database, secret: Sha256) -> Grant | None:
    """Return the grant of the key with this digest.

    Return None if the key is unknown, expired or revoked.
    """
    row = await database.fetchrow(FIND, secret.digest)
    return row and Grant(row["id"], row["owner"], row["scopes"], row["remaining"])


FIND_FILE_OWNER: Final = """
    SELECT files.owner FROM files JOIN api_keys ON api_keys.id = $1
    WHERE files.id = $2 AND $3 > now() AND revoked_at IS NULL
      AND (api_keys.expires_at IS NULL OR api_keys.expires_at > now())
"""


async def find_file_owner(
    database: Database, key_id: UUID, *, file_id: UUID, until: datetime
) -> str | None:
    """Return the file's owner.

    Return None if there is no such file, `until` is past, or the key is expired or revoked.
    """
    owner: str | None = await database.fetchval(FIND_FILE_OWNER, key_id, file_id, until)
    return owner


IS_LIVE: Final = """
    SELECT $2 > now() AND EXISTS (
        SELECT FROM api_keys
        WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
    )
"""


async def is_live(database: Database, key_id: UUID, *, until: datetime) -> bool:
    """Return whether `until` is in the future and the key is neither expired nor revoked."""
    live: bool = await database.fetchval(IS_LIVE, key_id, until)
    return live


FIND_LIVE: Final = """
    SELECT id FROM api_keys
    WHERE id = ANY ($1::uuid[]) AND revoked_at IS NULL
      AND (expires_at IS NULL OR expires_at > now())
"""


async def find_live(database: Database, key_ids: Collection[UUID]) -> set[UUID]:
    """Return those of these keys that are neither expired nor revoked."""
    return {row["id"] for row in await database.fetch(FIND_LIVE, list(key_ids))}


CREATE: Final = """
    INSERT INTO api_keys (id, owner, name, secret_sha256, scopes, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6)
    RETURNING id, owner, name, scopes, created_at, expires_at, revoked_at
"""


async def create_key(
    database: Database,
    *,
    key_id: UUID,
    owner: str,
    name: str,
    secret: Sha256,
    scopes: list[str],
    expires_at: datetime | None,
) -> ApiKey:
    return read_row(
        await database.fetchrow(CREATE, key_id, owner, name, secret.digest, scopes, expires_at),
        ApiKey,
    )


LIST: Final = """
    SELECT id, owner, name, scopes, created_at, expires_at, revoked_at FROM api_keys
    ORDER BY owner, created_at
"""


async def list_keys(database: Database) -> list[ApiKey]:
    return [read_row(row, ApiKey) for row in await database.fetch(LIST)]


REVOKE: Final = (
    "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1 RETURNING id"
)


async def revoke_key(database: Database, key_id: UUID) -> bool:
    """Revoke the key if it is not yet revoked. Return False if there is no such key."""
    return await database.fetchval(REVOKE, key_id) is not None
