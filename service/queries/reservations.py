"""Statements on `reservations`, which records vault keys before anything is written under them."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from service.model import Declaration, File, Sha256
from service.queries.idempotency import KeyedRequest
from service.queries.rows import Database, read_file_if_any, read_row


class HeldKey(msgspec.Struct, frozen=True):
    """A vault key, and the lease under which its holder may write to it."""

    vault_key: UUID
    lease: UUID


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """A vault key under which an object may exist, and the lease of the process that writes it."""

    vault_key: UUID
    file_id: UUID
    owner: str
    lease: UUID
    lease_until: datetime
    upload_id: str | None
    created_at: datetime
    doomed_at: datetime | None


RESERVE_KEY: Final = """
    INSERT INTO reservations (vault_key, file_id, owner, lease, lease_until)
    VALUES (gen_random_uuid(), $1, $2, gen_random_uuid(), now() + $3::interval)
    RETURNING vault_key, lease
"""


async def reserve_key(
    database: Database, file_id: UUID, owner: str, *, lease: timedelta
) -> HeldKey:
    """Reserve a fresh vault key for a streamed upload. The file has no row in `files` yet."""
    return read_row(await database.fetchrow(RESERVE_KEY, file_id, owner, lease), HeldKey)


RESERVE_KEYS: Final = """
    INSERT INTO reservations (vault_key, lease, lease_until)
    SELECT gen_random_uuid(), gen_random_uuid(), now() + $2::interval FROM generate_series(1, $1)
    RETURNING vault_key, lease
"""


async def reserve_keys(database: Database, number: int, *, lease: timedelta) -> list[HeldKey]:
    """Reserve fresh vault keys in advance. The reservations name no file and no owner."""
    return [read_row(row, HeldKey) for row in await database.fetch(RESERVE_KEYS, number, lease)]


FORGET_UNUSED: Final = """
    DELETE FROM reservations WHERE vault_key = ANY ($1::uuid[]) AND doomed_at IS NULL
"""


async def forget_unused_keys(database: Database, vault_keys: list[UUID]) -> None:
    """Delete the reservations of keys under which nothing was ever written."""
    await database.execute(FORGET_UNUSED, vault_keys)


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """The reservation of a probe of the store. It names a scratch key in each bucket."""

    vault_key: UUID
    scratch_key: str
    lease: UUID


# The row also names the probe's key in incoming, so that the sweeper finds everything that a probe
# leaves behind. This key is longer than that of any file, so an event for it changes no file.
RESERVE_PROBE: Final = """
    INSERT INTO reservations (vault_key, scratch_key, lease, lease_until)
    VALUES (gen_random_uuid(), 'probe-' || gen_random_uuid(), gen_random_uuid(),
            now() + $1::interval)
    RETURNING vault_key, scratch_key, lease
"""


async def reserve_probe(database: Database, *, lease: timedelta) -> Probe:
    """Reserve a fresh key in each bucket for a probe of the store."""
    return read_row(await database.fetchrow(RESERVE_PROBE, lease), Probe)


EXTEND: Final = """
    UPDATE reservations SET lease_until = now() + $3::interval
    WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL RETURNING vault_key
"""


async def extend_reservation(database: Database, held: HeldKey, lease: timedelta) -> bool:
    """Extend the lease of a streamed upload's reservation. Return False if it is doomed."""
    return await database.fetchval(EXTEND, held.vault_key, held.lease, lease) is not None


# This runs before the first part is sent, so that the sweeper can abort the multipart upload.
NAME_UPLOAD: Final = """
    UPDATE reservations SET upload_id = $3
    WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL RETURNING vault_key
"""


async def name_upload(database: Database, vault_key: UUID, lease: UUID, *, upload_id: str) -> bool:
    """Record the id of the store's multipart upload. Return False if the reservation is doomed."""
    return await database.fetchval(NAME_UPLOAD, vault_key, lease, upload_id) is not None


# The commit of a streamed upload. It inserts the file's row if the reservation is not doomed and no
# other request has used the `Idempotency-Key`, if there is one. The file has no incoming key. Its
# id and owner are given, because a reservation that was made in advance names neither.
COMMIT: Final = """
    WITH reservation AS (
        -- The row is locked and must not be doomed, or the sweeper may have deleted the object.
        SELECT vault_key FROM reservations
        WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL FOR UPDATE
    ), remembered AS (
        -- A concurrent commit with the same key is waited for here.
        INSERT INTO idempotency_keys (owner, key, request_sha256, file_id)
        SELECT $13, $10, $11, $12 FROM reservation WHERE $10::text IS NOT NULL
        ON CONFLICT (owner, key) DO NOTHING RETURNING file_id
    ), inserted AS (
        INSERT INTO files (id, owner, filename, size, content_type, declared_sha256, metadata,
                           state, changed_by, changed_why, hash, minio_object_name, vault_etag,
                           upload_date, expires_at, grace_until, final_at)
        SELECT $12, $13, $3, $4, $5, $6, $7, 'ready',
               'client', 'streamed through the API and hashed on the way', $8, vault_key, $9,
               now(), now(), now(), now()
        FROM reservation
        WHERE $10::text IS NULL OR EXISTS (SELECT FROM remembered)
        RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
                  part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
                  rejection_reason, rejection_detail, created_at, expires_at
    ), kept AS (
        -- The file names the object from now on.
        DELETE FROM reservations USING inserted WHERE vault_key = $1
    )
    SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
           part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
           rejection_reason, rejection_detail, created_at, expires_at
    FROM inserted
"""


async def commit_streamed_upload(
    database: Database,
    held: HeldKey,
    declaration: Declaration,
    *,
    file_id: UUID,
    sha256: Sha256,
    etag: str,
    keyed: KeyedRequest | None = None,
) -> File | None:
    """Insert the proved file from its reservation, and return it.

    The key in `keyed` is inserted with the file. Return None if the reservation is doomed, or if
    another request has used the key. Neither None nor an error shows that no commit has taken
    effect, so the statement must never be sent again.
    """
    row = await database.fetchrow(
        COMMIT,
        held.vault_key,
        held.lease,
        declaration.filename,
        declaration.size,
        declaration.content_type,
        declaration.sha256 and declaration.sha256.digest,
        declaration.metadata,
        sha256.digest,
        etag,
        keyed and keyed.key,
        keyed and keyed.request_sha256.digest,
        file_id,
        declaration.owner,
    )
    return read_file_if_any(row)


DOOM: Final = """
    UPDATE reservations SET doomed_at = now(), sweep_at = now()
    WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL RETURNING vault_key
"""


async def doom_reservation(database: Database, vault_key: UUID, lease: UUID) -> bool:
    """Doom the reservation and return whether a row was updated.

    If True, no commit has succeeded or can succeed, and the caller may delete the object. If False,
    the caller must not delete it, because a commit may have succeeded.
    """
    return await database.fetchval(DOOM, vault_key, lease) is not None


# This runs only if no object can appear under the key in future: no write was sent, each one was
# refused, or the answered writes of a probe were followed by an answered deletion.
FORGET: Final = "DELETE FROM reservations WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL"


async def forget_reservation(database: Database, vault_key: UUID, lease: UUID) -> None:
    """Delete the reservation of a key under which no object exists and none can appear."""
    await database.execute(FORGET, vault_key, lease)


LIST: Final = """
    SELECT vault_key, file_id, owner, lease, lease_until, upload_id, created_at, doomed_at
    FROM reservations
    WHERE file_id = $1 ORDER BY created_at
"""


async def list_reservations(database: Database, file_id: UUID) -> list[Reservation]:
    """Return the reservations of the file. The key of its proved object is not among them."""
    return [read_row(row, Reservation) for row in await database.fetch(LIST, file_id)]


# An insertion that waited for the commit of another reservation of the key does not see the file
# that this commit has inserted, because its snapshot is older. This statement, in the same READ
# COMMITTED transaction, has a new snapshot, with every commit that ended before the insertion.
GIVE_UP_NAMED: Final = """
    DELETE FROM reservations WHERE vault_key = ANY ($1::uuid[])
      AND EXISTS (SELECT FROM files WHERE minio_object_name = vault_key
                                      AND (state <> 'deleted' OR purge_at IS NOT NULL))
    RETURNING vault_key
"""


async def give_up_named_keys(
    connection: asyncpg.Connection, vault_keys: Collection[UUID]
) -> set[UUID]:
    """Delete the reservations of those of the keys that a file names, and return these keys.

    The transaction of the connection has just inserted the reservations.
    """
    rows = await connection.fetch(GIVE_UP_NAMED, list(vault_keys))
    return {row["vault_key"] for row in rows}
