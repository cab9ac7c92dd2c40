"""Statements over `files` that clients and events cause: declare, find, record arrivals, change, delete."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from service.model import Declaration, File, Sha256, UnprovedFile
from service.queries.rows import Database, read_file_if_any, read_row

# The end of grace is fixed here, for the file's life: a PUT that began before the URL's end may last until then.
# The first look without any arrival comes after a minute.
DECLARE: Final = """
    INSERT INTO files (id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key, part_size,
                       state, changed_by, changed_why, expires_at, grace_until, due_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $11, 'pending', 'client', 'declared',
            now() + $9::interval, now() + $9::interval + $10::interval, now() + interval '1 minute')
    RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key, part_size, upload_id, state, hash,
              minio_object_name, vault_etag, upload_date, rejection_reason, rejection_detail, created_at, expires_at
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
    """Insert the row of a file that is still to be sent."""
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
    SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key, part_size, upload_id, state, hash,
           minio_object_name, vault_etag, upload_date, rejection_reason, rejection_detail, created_at, expires_at
    FROM files WHERE id = $1 AND ($2::text IS NULL OR owner = $2)
"""


async def find_file(database: Database, file_id: UUID, *, owner: str | None) -> File | None:
    """The file, when this owner has it; `owner` None sees every owner's."""
    return read_file_if_any(await database.fetchrow(FIND, file_id, owner))


# X-Amz-Date comes from the row and the clock is the database's: when a URL is signed again, it asks what time it is.
ASK_TIME: Final = "SELECT now()"


async def ask_time(database: Database) -> datetime:
    """The only clock that counts."""
    now: datetime = await database.fetchval(ASK_TIME)
    return now


# The event asks nobody and believes only the key. A live lease stays: its worker learns from `arrivals` that it has to look again.
# An arrival makes the row due at once. After failed reads of its object it does so at most every 30 s: otherwise a client that
# reports the arrival of an unreadable object again and again would cancel the file's back-off.
RECORD_EVENT: Final = """
    UPDATE files
    SET state = 'verifying', changed_by = 'store', changed_why = 'the store announced the upload',
        verifying_since = coalesce(verifying_since, now()), arrivals = arrivals + 1,
        due_at = CASE WHEN failed_reads = 0 THEN now() ELSE least(due_at, now() + interval '30 seconds') END
    WHERE incoming_key = $1 AND state IN ('pending', 'verifying')
    RETURNING id
"""


async def record_event(database: Database, incoming_key: str) -> UUID | None:
    """The store says that something lies at this key."""
    file_id: UUID | None = await database.fetchval(RECORD_EVENT, incoming_key)
    return file_id


# A digest is set once: the WHERE lets through only one that agrees with what is known. The commit compares inside its own statement.
RECORD_ARRIVAL: Final = """
    UPDATE files
    SET state = 'verifying', changed_by = 'client', changed_why = $3,
        verifying_since = coalesce(verifying_since, now()), arrivals = arrivals + 1,
        due_at = CASE WHEN failed_reads = 0 THEN now() ELSE least(due_at, now() + interval '30 seconds') END,
        declared_sha256 = coalesce(declared_sha256, $2)
    WHERE id = $1 AND state IN ('pending', 'verifying')
      AND ($2::bytea IS NULL OR declared_sha256 IS NULL OR declared_sha256 = $2)
    RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key, part_size, upload_id, state, hash,
              minio_object_name, vault_etag, upload_date, rejection_reason, rejection_detail, created_at, expires_at
"""


async def record_arrival(
    database: Database, file_id: UUID, sha256: Sha256 | None, *, why: str
) -> File | None:
    """The client says that its bytes are there, and maybe what they hash to. None: final, gone, or another digest is known."""
    return read_file_if_any(
        await database.fetchrow(RECORD_ARRIVAL, file_id, sha256 and sha256.digest, why)
    )


# What a client calls its file is its own affair as long as there is one; what was declared of the bytes never changes.
CHANGE: Final = """
    UPDATE files SET filename = coalesce($3, filename), metadata = coalesce($4, metadata)
    WHERE id = $1 AND ($2::text IS NULL OR owner = $2) AND state NOT IN ('expired', 'deleted')
    RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key, part_size, upload_id, state, hash,
              minio_object_name, vault_etag, upload_date, rejection_reason, rejection_detail, created_at, expires_at
"""


async def change_file(
    database: Database,
    file_id: UUID,
    *,
    owner: str | None,
    filename: str | None,
    metadata: dict[str, str] | None,
) -> File | None:
    """Another name, other metadata, or both; None keeps what is there. None: gone, or not this owner's."""
    return read_file_if_any(await database.fetchrow(CHANGE, file_id, owner, filename, metadata))


# Touches `files` alone: a reservation is left to the sweeper, which dooms it when its lease has ended. The first
# sweep is due SWEEP_DELAY after `sweep_at`, which is now, or for a multipart upload that is being
# assembled at this moment the end of that lease.
DELETE: Final = """
    UPDATE files
    SET state = 'deleted', changed_by = 'client', changed_why = 'the client deleted it',
        lease = NULL, lease_until = NULL, due_at = NULL, final_at = now(),
        sweep_at = CASE WHEN upload_id IS NOT NULL THEN greatest(now(), lease_until) WHEN incoming_key IS NOT NULL THEN now() END,
        sweeps = 0,
        purge_at = CASE WHEN minio_object_name IS NOT NULL THEN now() END
    WHERE id = $1 AND ($2::text IS NULL OR owner = $2) AND state <> 'deleted' AND ($3 OR state NOT IN ('ready', 'damaged'))
    RETURNING id
"""


async def delete_file(
    database: Database, file_id: UUID, *, owner: str | None, proved_too: bool = True
) -> bool:
    """Cancel or delete, in any state; False: somebody else was first, there is no such file, or it is proved and that was not asked for."""
    return await database.fetchval(DELETE, file_id, owner, proved_too) is not None
