"""Statements that make a claimed file final: expired, rejected or ready.

All of them require the lease.
"""

from datetime import timedelta
from typing import Final

from service.model import Claim, File, Rejection, Sha256
from service.queries.rows import Database, read_file_if_any

# The caller runs this only if `grace_over` was true at the claim. The check that found no object
# thus came after the last moment at which a PUT could end.
EXPIRE: Final = """
    WITH reservation AS (
        DELETE FROM reservations
        WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL RETURNING vault_key
    )
    UPDATE files
    SET state = 'expired', changed_by = 'worker', changed_why = 'no upload arrived in time',
        lease = NULL, lease_until = NULL, due_at = NULL, final_at = now(), sweep_at = now()
    FROM reservation
    WHERE id = $3 AND lease = $2 AND state IN ('pending', 'verifying') AND grace_until <= now()
    RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
              part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
              rejection_reason, rejection_detail, created_at, expires_at
"""


async def expire_file(database: Database, claim: Claim) -> File | None:
    """Expire a file for which the store has no object. Return None if the claim is lost."""
    return read_file_if_any(await database.fetchrow(EXPIRE, claim.vault_key, claim.lease, claim.id))


# Like RETURN (service/queries/claims.py), this deletes the reservation. It runs only if no object
# can appear under the vault key, because no copy was requested or the store definitely refused it.
REJECT: Final = """
    WITH reservation AS (
        DELETE FROM reservations
        WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL RETURNING vault_key
    )
    UPDATE files
    SET state = 'rejected', changed_by = 'worker', changed_why = $4 || ': ' || $5,
        rejection_reason = $4, rejection_detail = $5,
        lease = NULL, lease_until = NULL, due_at = NULL, final_at = now(), sweep_at = now()
    FROM reservation WHERE id = $3 AND lease = $2 AND state IN ('pending', 'verifying')
    RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
              part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
              rejection_reason, rejection_detail, created_at, expires_at
"""


async def reject_file(database: Database, claim: Claim, rejection: Rejection) -> File | None:
    """Reject a file of which nothing was copied. Return None if the claim is lost.

    The incoming object differs from the declaration, or is permanently unreadable.
    """
    return read_file_if_any(
        await database.fetchrow(
            REJECT, claim.vault_key, claim.lease, claim.id, str(rejection.reason), rejection.detail
        )
    )


# The only commit point. The reservation is locked first and must not be doomed. The UPDATE reads
# from the locked row, because a SELECT in a WITH list that nothing refers to is never executed. The
# declaration is compared in this statement, because a `complete` that brings a digest may run at
# the same time.
#
# One read of the copy may have been wrong. A mismatch is therefore a verdict only if the previous
# copy had the same digest. The first mismatch is recorded, the lease is released, the reservation
# is doomed, and the file is due again at once. If a mismatch differs from the previous one, the
# file is due again after one minute, because a client may send two contents in turn.
COMMIT: Final = """
    WITH reservation AS (
        -- The row is locked and must not be doomed, or the sweeper may have deleted the object.
        SELECT vault_key FROM reservations
        WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL FOR UPDATE
    ), compared AS (
        -- The row is locked, so that the digest compared is the one that it has at the commit.
        SELECT id AS file_id, reservation.vault_key,
               size = $4 AND coalesce(declared_sha256 = $5, true) AS matches,
               mismatched_sha256 IS NOT DISTINCT FROM $5 AS again,
               CASE WHEN size <> $4 THEN 'size-mismatch' ELSE 'digest-mismatch' END AS reason,
               CASE WHEN size <> $4 THEN 'declared ' || size || ' bytes, received ' || $4
                    ELSE 'declared ' || encode(declared_sha256, 'hex')
                         || ', received ' || encode($5, 'hex') END AS detail
        FROM files, reservation WHERE id = $3 AND lease = $2 AND state IN ('pending', 'verifying')
        FOR UPDATE OF files
    ), verdict AS (
        UPDATE files
        SET state = CASE WHEN matches THEN 'ready' WHEN again THEN 'rejected' ELSE state END,
            changed_by = 'worker',
            changed_why = CASE WHEN matches AND declared_sha256 IS NULL
                                   THEN 'the copy has the declared size'
                               WHEN matches THEN 'the copy has the declared size and digest'
                               ELSE reason || ': ' || detail END,
            hash = CASE WHEN matches THEN $5 END,
            minio_object_name = CASE WHEN matches THEN compared.vault_key END,
            vault_etag = CASE WHEN matches THEN $6 END,
            upload_date = CASE WHEN matches THEN now() END,
            mismatched_sha256 = CASE WHEN NOT matches THEN $5 END,
            rejection_reason = CASE WHEN NOT matches AND again THEN reason END,
            rejection_detail = CASE WHEN NOT matches AND again THEN detail END,
            due_at = CASE WHEN NOT matches AND NOT again
                          THEN now() + CASE WHEN mismatched_sha256 IS NULL THEN interval '0'
                                            ELSE interval '1 minute' END END,
            last_error = CASE WHEN NOT matches AND NOT again
                              THEN 'the copy has ' || $4 || ' bytes with SHA-256 '
                                   || encode($5, 'hex') END,
            final_at = CASE WHEN matches OR again THEN now() END,
            sweep_at = CASE WHEN matches OR again THEN now() END,
            lease = NULL, lease_until = NULL
        FROM compared WHERE id = file_id
        RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
                  part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
                  rejection_reason, rejection_detail, created_at, expires_at
    ), kept AS (
        -- The file names the object from now on.
        DELETE FROM reservations USING verdict WHERE vault_key = $1 AND verdict.state = 'ready'
    ), doomed AS (
        UPDATE reservations SET doomed_at = now(), sweep_at = now() FROM verdict
        WHERE vault_key = $1 AND verdict.state <> 'ready'
    )
    SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
           part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
           rejection_reason, rejection_detail, created_at, expires_at
    FROM verdict
"""


async def commit_verification(
    database: Database, claim: Claim, *, size: int, sha256: Sha256, etag: str
) -> File | None:
    """Compare the declared size and digest with the proved ones, and commit the verdict.

    Return the file. After a first mismatch, the file is still unproved: its reservation is doomed,
    the lease is released, and the file is due again. Neither None nor an error shows that no
    commit has taken effect, so the statement must never be sent again.
    """
    row = await database.fetchrow(
        COMMIT, claim.vault_key, claim.lease, claim.id, size, sha256.digest, etag
    )
    return read_file_if_any(row)


# One statement counts the failed read and releases the lease, or rejects the file. A worker whose
# lease is lost therefore counts nothing. Both bounds must be reached, so that a burst of failures
# within minutes rejects no file.
COUNT_FAILED_READ: Final = """
    WITH failed AS (
        SELECT id AS file_id,
               failed_reads + 1 >= $5 AND failed_reads_since <= now() - $6::interval AS hopeless
        FROM files WHERE id = $1 AND lease = $2 AND state IN ('pending', 'verifying')
        FOR UPDATE
    )
    UPDATE files
    SET state = CASE WHEN hopeless THEN 'rejected' ELSE state END,
        changed_by = 'worker',
        changed_why = 'unverifiable: ' || failed_reads + 1 || ' reads of the object failed: ' || $4,
        failed_reads = failed_reads + 1,
        failed_reads_since = coalesce(failed_reads_since, now()), last_error = $4,
        rejection_reason = CASE WHEN hopeless THEN 'unverifiable' END,
        rejection_detail = CASE WHEN hopeless
                                THEN failed_reads + 1 || ' reads of the object failed: ' || $4 END,
        due_at = CASE WHEN NOT coalesce(hopeless, false) THEN now() + $3::interval END,
        final_at = CASE WHEN hopeless THEN now() END,
        sweep_at = CASE WHEN hopeless THEN now() END,
        lease = NULL, lease_until = NULL
    FROM failed WHERE id = file_id
    RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
              part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
              rejection_reason, rejection_detail, created_at, expires_at
"""


async def count_failed_read(
    database: Database,
    claim: Claim,
    *,
    retry_in: timedelta,
    error: str,
    most_reads: int,
    most_time: timedelta,
) -> File | None:
    """Count a failed read of the incoming object, and release the lease.

    Return the file, or None if the claim is lost. The file is rejected as unverifiable if at least
    `most_reads` reads have failed, the first of them at least `most_time` ago.
    """
    row = await database.fetchrow(
        COUNT_FAILED_READ, claim.id, claim.lease, retry_in, error, most_reads, most_time
    )
    return read_file_if_any(row)
