"""The statement that makes a damaged file `ready` again with another object.

Its owner has sent the bytes again (service/uploads/mending.py), or `assay reconcile` has found such
an object after a restore.
"""

from datetime import timedelta
from typing import Final
from uuid import UUID

from service.model import File, Sha256
from service.queries.reservations import HeldKey
from service.queries.rows import Database, read_file_if_any

COMMIT: Final = """
    WITH reservation AS (
        -- The row is locked and must not be doomed, or the sweeper may have deleted the object.
        SELECT vault_key FROM reservations
        WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL FOR UPDATE
    ), mended AS (
        -- The scrub, another request or the owner may have changed the row since it was read.
        UPDATE files
        SET state = 'ready', changed_by = $9, changed_why = $10,
            minio_object_name = reservation.vault_key, vault_etag = $7,
            proved_at = now(), checked_at = now()
        FROM reservation
        WHERE id = $3 AND state = 'damaged' AND minio_object_name = $4 AND size = $5 AND hash = $6
        RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
                  part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
                  rejection_reason, rejection_detail, created_at, expires_at
    ), kept AS (
        -- The file names the object from now on.
        DELETE FROM reservations USING mended WHERE vault_key = $1
    ), doomed AS (
        -- Nothing names the old object from now on. The row is new, so that this waits for no lock,
        -- unless `assay reconcile` has just reserved the key. That reservation is then doomed.
        INSERT INTO reservations
            (vault_key, file_id, owner, lease, lease_until, doomed_at, sweep_at)
        SELECT $4, id, owner, gen_random_uuid(), now(), now(), now() + $8::interval FROM mended
        ON CONFLICT (vault_key) DO UPDATE
        SET doomed_at = excluded.doomed_at, sweep_at = excluded.sweep_at
    )
    SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
           part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
           rejection_reason, rejection_detail, created_at, expires_at
    FROM mended
"""


async def commit_mended_file(
    database: Database,
    held: HeldKey,
    file_id: UUID,
    *,
    old_key: UUID,
    size: int,
    sha256: Sha256,
    etag: str,
    sweep_delay: timedelta,
    by: str,
    why: str,
) -> File | None:
    """Make the damaged file `ready` with the object under the held key, and doom its old object.

    The old object is deleted after `sweep_delay`. `by` and `why` are the party and the reason in
    the file's history. Return None if the reservation is doomed, if the file is not damaged any
    more or no longer names `old_key`, or if the bytes are not those that were proved. Neither None
    nor an error shows that no commit has taken effect, so the statement must never be sent again.
    """
    row = await database.fetchrow(
        COMMIT,
        held.vault_key,
        held.lease,
        file_id,
        old_key,
        size,
        sha256.digest,
        etag,
        sweep_delay,
        by,
        why,
    )
    return read_file_if_any(row)
