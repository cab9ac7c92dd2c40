"""Statements on `files` for requests and events: declare, find, record arrivals, change, delete."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from service.model import Declaration, File, Sha256, UnprovedFile
from service.queries.rows import Database, read_file_if_any, read_row

# The end of the grace period is set here and never changes. A PUT that began before its URL expired
# may last until then. Without an arrival, the first check of the file comes after one minute.
DECLARE: Final = """
    INSERT INTO files (id, owner, filename, size, content_type, declared_sha256, metadata,
                       incoming_key, part_size, state, changed_by, changed_why, expires_at,
                       grace_until, due_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $11, 'pending', 'client', 'declared',
            now() + $9::interval, now() + $9::interval + $10::interval, now() + interval '1 minute')
    RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
              part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
              rejection_reason, rejection_detail, created_at, expires_at
"""


async def declare_file(
    database: Database,
    declaration: Declaration,
    *,
    file_id: UUID,
    incoming_key: str,
    part_size: int | None,
    upload_ttl: timedelta,
    grace: timedelta,
) -> UnprovedFile:
    """Insert a file in state `pending`, whose bytes the client will send to the incoming key.

    `part_size` is None if the file is sent in one PUT.
    """
    row = await database.fetchrow(
        DECLARE,
        file_id,
        declaration.owner,
        declaration.filename,
        declaration.size,
        declaration.content_type,
        declaration.sha256 and declaration.sha256.digest,
        declaration.metadata,
        incoming_key,
        upload_ttl,
        grace,
        part_size,
    )
    return read_row(row, UnprovedFile)


FIND: Final = """
    SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
           part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
           rejection_reason, rejection_detail, created_at, expires_at
    FROM files WHERE id = $1 AND ($2::text IS NULL OR owner = $2)
"""


async def find_file(database: Database, file_id: UUID, *, owner: str | None) -> File | None:
    """Return the file, or None if there is no such file or if it belongs to another owner.

    If `owner` is None, the file may belong to any owner.
    """
    return read_file_if_any(await database.fetchrow(FIND, file_id, owner))


# Only the database's clock counts. The expiry of a link or a key, and the date of a URL that is
# signed again, are computed from this time.
ASK_TIME: Final = "SELECT now()"


async def ask_time(database: Database) -> datetime:
    """Return the current time by the database's clock."""
    now: datetime = await database.fetchval(ASK_TIME)
    return now


# Only the key of an event is used, and no request is sent to the store. A live lease is not
# changed: `arrivals` shows the worker that holds it that the file must be checked again. An arrival
# makes the row due at once, or within 30 s if reads of the object have failed. (Otherwise a client
# that repeatedly reports the arrival of an unreadable object would cancel the file's back-off.)
RECORD_EVENT: Final = """
    UPDATE files
    SET state = 'verifying', changed_by = 'store', changed_why = 'the store reported the upload',
        verifying_since = coalesce(verifying_since, now()), arrivals = arrivals + 1,
        due_at = CASE WHEN failed_reads = 0 THEN now()
                      ELSE least(due_at, now() + interval '30 seconds') END
    WHERE incoming_key = $1 AND state IN ('pending', 'verifying')
    RETURNING id
"""


async def record_event(database: Database, incoming_key: str) -> UUID | None:
    """Record the store's event for this key, and return the id of the file.

    Return None if no file has the key, or if the file is final.
    """
    file_id: UUID | None = await database.fetchval(RECORD_EVENT, incoming_key)
    return file_id


# A digest is set once. The WHERE clause accepts a digest only if none is known or if it equals the
# known one. The commit of a verification compares digests in its own statement.
RECORD_ARRIVAL: Final = """
    UPDATE files
    SET state = 'verifying', changed_by = 'client', changed_why = $3,
        verifying_since = coalesce(verifying_since, now()), arrivals = arrivals + 1,
        due_at = CASE WHEN failed_reads = 0 THEN now()
                      ELSE least(due_at, now() + interval '30 seconds') END,
        declared_sha256 = coalesce(declared_sha256, $2)
    WHERE id = $1 AND state IN ('pending', 'verifying')
      AND ($2::bytea IS NULL OR declared_sha256 IS NULL OR declared_sha256 = $2)
    RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
              part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
              rejection_reason, rejection_detail, created_at, expires_at
"""


async def record_arrival(
    database: Database, file_id: UUID, sha256: Sha256 | None, *, why: str
) -> File | None:
    """Record the client's report that the bytes have arrived, and the digest if the client sent
    one.

    `why` is the reason in the file's history. Return None if the file does not exist, is final, or
    has another digest.
    """
    return read_file_if_any(
        await database.fetchrow(RECORD_ARRIVAL, file_id, sha256 and sha256.digest, why)
    )


# The filename and the metadata may change until the file is expired or deleted. The size, the type
# and the digest that were declared never change.
CHANGE: Final = """
    UPDATE files SET filename = coalesce($3, filename), metadata = coalesce($4, metadata)
    WHERE id = $1 AND ($2::text IS NULL OR owner = $2) AND state NOT IN ('expired', 'deleted')
    RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
              part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
              rejection_reason, rejection_detail, created_at, expires_at
"""


async def change_file(
    database: Database,
    file_id: UUID,
    *,
    owner: str | None,
    filename: str | None,
    metadata: dict[str, str] | None,
) -> File | None:
    """Set the filename, the metadata, or both. An argument that is None changes nothing.

    Return None if the file is expired or deleted, does not exist, or belongs to another owner.
    """
    return read_file_if_any(await database.fetchrow(CHANGE, file_id, owner, filename, metadata))


# This changes `files` alone. A reservation is left to the sweeper, which dooms it when its lease
# has expired. The first sweep is due SWEEP_DELAY after `sweep_at`, which is set to the current
# time, or to the expiry of the lease if the parts of a multipart upload are being assembled.
DELETE: Final = """
    UPDATE files
    SET state = 'deleted', changed_by = 'client', changed_why = 'the client deleted it',
        lease = NULL, lease_until = NULL, due_at = NULL, final_at = now(),
        sweep_at = CASE WHEN upload_id IS NOT NULL THEN greatest(now(), lease_until)
                        WHEN incoming_key IS NOT NULL THEN now() END,
        sweeps = 0,
        purge_at = CASE WHEN minio_object_name IS NOT NULL THEN now() END
    WHERE id = $1 AND ($2::text IS NULL OR owner = $2) AND state <> 'deleted'
      AND ($3 OR state NOT IN ('ready', 'damaged'))
    RETURNING id
"""


async def delete_file(
    database: Database, file_id: UUID, *, owner: str | None, proved_too: bool = True
) -> bool:
    """Cancel or delete the file, in any state.

    Return False if the file is already deleted, does not exist, or belongs to another owner. If
    `proved_too` is false, a proved file is not deleted, and False is returned as well.
    """
    return await database.fetchval(DELETE, file_id, owner, proved_too) is not None
