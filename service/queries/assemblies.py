"""Statements of a multipart upload: record its id, and hold the row while the store assembles it.

All statements but the first two require the lease.
"""

from datetime import timedelta
from typing import Final
from uuid import UUID

from service.model import File, Sha256
from service.queries.rows import Database, read_file_if_any

# The id is set once. If a second id replaced it, no row would name the first upload, and its parts
# would never be removed.
NAME_UPLOAD: Final = """
    UPDATE files SET upload_id = $2
    WHERE id = $1 AND upload_id IS NULL AND part_size IS NOT NULL
      AND state IN ('pending', 'verifying')
    RETURNING upload_id
"""


async def name_upload(database: Database, file_id: UUID, upload_id: str) -> bool:
    """Record the id of the store's multipart upload.

    Return False if the row already has an id, or if the file is final.
    """
    return await database.fetchval(NAME_UPLOAD, file_id, upload_id) is not None


# This sets the same lease as a worker's claim. While it is live, no worker claims the file, and the
# file does not expire. `due_at` is not changed: when the lease has expired, a worker checks whether
# the object exists.
CLAIM: Final = """
    UPDATE files SET lease = gen_random_uuid(), lease_until = now() + $3::interval
    WHERE id = $1 AND upload_id = $2 AND state IN ('pending', 'verifying')
      AND (lease_until IS NULL OR lease_until < now())
    RETURNING lease
"""


async def claim_assembly(
    database: Database, file_id: UUID, upload_id: str, lease: timedelta
) -> UUID | None:
    """Lease the row and return the lease token.

    Return None if another process holds a live lease, or if the file is final.
    """
    token: UUID | None = await database.fetchval(CLAIM, file_id, upload_id, lease)
    return token


EXTEND: Final = """
    UPDATE files SET lease_until = now() + $3::interval
    WHERE id = $1 AND lease = $2 AND state IN ('pending', 'verifying') RETURNING id
"""


async def extend_assembly(database: Database, file_id: UUID, token: UUID, lease: timedelta) -> bool:
    """Extend the lease. Return False if it is lost."""
    return await database.fetchval(EXTEND, file_id, token, lease) is not None


RELEASE: Final = """
    UPDATE files SET lease = NULL, lease_until = NULL
    WHERE id = $1 AND lease = $2 AND state IN ('pending', 'verifying') RETURNING id
"""


async def release_assembly(database: Database, file_id: UUID, token: UUID) -> bool:
    """Release the lease. Return False if it was already lost."""
    return await database.fetchval(RELEASE, file_id, token) is not None


# Like RECORD_ARRIVAL (service/queries/files.py), which `complete` runs for a file in one PUT. It
# also releases the lease.
RECORD_ASSEMBLED: Final = """
    UPDATE files
    SET state = 'verifying', changed_by = 'client',
        changed_why = 'the client completed the upload, and the store assembled its parts',
        verifying_since = coalesce(verifying_since, now()), arrivals = arrivals + 1, due_at = now(),
        declared_sha256 = coalesce(declared_sha256, $3), lease = NULL, lease_until = NULL
    WHERE id = $1 AND lease = $2 AND state IN ('pending', 'verifying')
      AND ($3::bytea IS NULL OR declared_sha256 IS NULL OR declared_sha256 = $3)
    RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
              part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
              rejection_reason, rejection_detail, created_at, expires_at
"""


async def record_assembled(
    database: Database, file_id: UUID, token: UUID, sha256: Sha256 | None
) -> File | None:
    """Record the arrival of the assembled object, and release the lease.

    Return None if the lease was lost, the file is final, or another digest is known.
    """
    return read_file_if_any(
        await database.fetchrow(RECORD_ASSEMBLED, file_id, token, sha256 and sha256.digest)
    )
