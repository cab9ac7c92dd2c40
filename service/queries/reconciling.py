"""Statements of `assay reconcile`, which makes the database agree with the vault again."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from service.model import Sha256, State
from service.queries.reservations import HeldKey, give_up_named_keys
from service.queries.rows import Database, read_row, read_row_if_any


class OldReservation(msgspec.Struct, frozen=True):
    """A reservation that is not doomed. `is_held` is true if its lease has not expired."""

    vault_key: UUID
    lease_until: datetime
    is_held: bool


# Doomed reservations are left out: no row names their keys in this state of the database, or in any
# later one that it was restored from.
LIST_RESERVATIONS: Final = """
    SELECT vault_key, lease_until, lease_until > now() AS is_held FROM reservations
    WHERE doomed_at IS NULL AND scratch_key IS NULL AND created_at < $1
      AND ($2::uuid IS NULL OR vault_key > $2)
    ORDER BY vault_key LIMIT $3
"""


async def list_reservations(
    database: Database, *, before: datetime, after: UUID | None, limit: int
) -> list[OldReservation]:
    """Return reservations that were made before that time, in the order of keys."""
    rows = await database.fetch(LIST_RESERVATIONS, before, after, limit)
    return [read_row(row, OldReservation) for row in rows]


FIND_RESERVATIONS: Final = """
    SELECT vault_key, lease_until, lease_until > now() AS is_held FROM reservations
    WHERE vault_key = ANY ($1::uuid[]) AND doomed_at IS NULL
"""


async def find_reservations(database: Database, keys: Sequence[UUID]) -> list[OldReservation]:
    """Return those of the reservations that exist and are not doomed."""
    return [read_row(row, OldReservation) for row in await database.fetch(FIND_RESERVATIONS, keys)]


TAKE: Final = """
    UPDATE reservations SET lease = gen_random_uuid(), lease_until = now() + $2::interval
    WHERE vault_key = $1 AND doomed_at IS NULL AND lease_until < now()
    RETURNING vault_key, lease
"""


async def take_reservation(
    database: Database, vault_key: UUID, *, lease: timedelta
) -> HeldKey | None:
    """Take over a reservation whose lease has expired. Return None if there is none."""
    return read_row_if_any(await database.fetchrow(TAKE, vault_key, lease), HeldKey)


# The scrub of orphans may doom the key at the same time. One of the two inserts the row.
RESERVE: Final = """
    INSERT INTO reservations (vault_key, file_id, owner, lease, lease_until)
    SELECT $1, $2, $3, gen_random_uuid(), now() + $4::interval
    WHERE NOT EXISTS (SELECT FROM files WHERE minio_object_name = $1)
    ON CONFLICT (vault_key) DO NOTHING
    RETURNING vault_key, lease
"""


async def reserve_found_key(
    connection: asyncpg.Connection,
    vault_key: UUID,
    *,
    file_id: UUID,
    owner: str,
    lease: timedelta,
) -> HeldKey | None:
    """Reserve the key of an object that no row names. Return None if a row names it by now.

    The connection is in a READ COMMITTED transaction, which ends if None is returned.
    """
    row = await connection.fetchrow(RESERVE, vault_key, file_id, owner, lease)
    if row is None or await give_up_named_keys(connection, [vault_key]):
        return None
    return read_row(row, HeldKey)


class NamedObject(msgspec.Struct, frozen=True):
    """A proved file, and the vault object that its row names."""

    id: UUID
    key: UUID
    state: State
    etag: str
    size: int
    hash: Sha256


LIST_NAMED: Final = """
    SELECT id, minio_object_name AS key, state, vault_etag AS etag, size, hash FROM files
    WHERE minio_object_name IS NOT NULL AND state <> 'deleted'
      AND ($1::uuid IS NULL OR minio_object_name > $1)
      AND ($2::uuid IS NULL OR minio_object_name <= $2)
    ORDER BY minio_object_name LIMIT $3
"""


async def list_named_objects(
    database: Database, *, after: UUID | None, last: UUID | None, limit: int
) -> list[NamedObject]:
    """Return the objects of proved files in the order of keys, from `after` to `last`."""
    rows = await database.fetch(LIST_NAMED, after, last, limit)
    return [read_row(row, NamedObject) for row in rows]


FIND_NAMED: Final = """
    SELECT id, minio_object_name AS key, state, vault_etag AS etag, size, hash FROM files
    WHERE id = $1 AND state = 'ready'
"""


async def find_named_object(database: Database, file_id: UUID) -> NamedObject | None:
    """Return the object of a `ready` file, or None if there is no such file."""
    return read_row_if_any(await database.fetchrow(FIND_NAMED, file_id), NamedObject)


# The row of a deleted file keeps the key after the sweeper has deleted the object. If the object is
# there again, the vault was restored. Nothing would delete it, so that it is reported.
FIND_NAMED_KEYS: Final = """
    SELECT vault_key AS key FROM reservations WHERE vault_key = ANY ($1::uuid[])
    UNION ALL
    SELECT minio_object_name FROM files
    WHERE minio_object_name = ANY ($1::uuid[]) AND (state <> 'deleted' OR purge_at IS NOT NULL)
"""


async def find_named_keys(database: Database, keys: Sequence[UUID]) -> set[UUID]:
    """Return those of the keys that a reservation names, or a file that has its object."""
    return {row["key"] for row in await database.fetch(FIND_NAMED_KEYS, keys)}


class KnownState(msgspec.Struct, frozen=True):
    """What the row of a file says about it now."""

    state: State
    minio_object_name: UUID | None


FIND_STATE: Final = "SELECT state, minio_object_name FROM files WHERE id = $1"


async def find_state(database: Database, file_id: UUID) -> KnownState | None:
    return read_row_if_any(await database.fetchrow(FIND_STATE, file_id), KnownState)


# As the commit of a claim (service/queries/verdicts.py), for an object whose bytes were proved in a
# state of the database that is lost. A worker that holds the file loses its lease.
COMMIT: Final = """
    WITH reservation AS (
        SELECT vault_key FROM reservations
        WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL FOR UPDATE
    ), proved AS (
        UPDATE files
        SET state = 'ready', changed_by = 'worker',
            changed_why = 'reconcile found the bytes in the vault',
            hash = $5, minio_object_name = reservation.vault_key, vault_etag = $6,
            upload_date = now(), lease = NULL, lease_until = NULL, due_at = NULL,
            final_at = now(), sweep_at = now()
        FROM reservation
        WHERE id = $3 AND state IN ('pending', 'verifying')
          AND size = $4 AND coalesce(declared_sha256, $5) = $5
        RETURNING id
    ), kept AS (
        DELETE FROM reservations USING proved WHERE vault_key = $1
    )
    SELECT id FROM proved
"""


async def commit_found_file(
    database: Database, held: HeldKey, file_id: UUID, *, size: int, sha256: Sha256, etag: str
) -> bool:
    """Make an unproved file `ready` with the object, and return whether that was done.

    False means that the reservation is doomed, the file is final, or its declaration differs.
    """
    row = await database.fetchval(
        COMMIT, held.vault_key, held.lease, file_id, size, sha256.digest, etag
    )
    return row is not None


RELEASE: Final = """
    DELETE FROM reservations WHERE vault_key = $1 AND doomed_at IS NULL AND lease_until < now()
"""


async def release_key(database: Database, vault_key: UUID) -> None:
    """Delete an ended reservation, so that the sweeper does not delete the object."""
    await database.execute(RELEASE, vault_key)
