"""Statements of `complete` with a small file. They need no claim, and one of them is a commit."""

from typing import Final, NamedTuple
from uuid import UUID

from service.model import File, Rejection, Sha256
from service.queries.reservations import HeldKey
from service.queries.rows import Database, read_file, read_file_if_any


class Completed(NamedTuple):
    """A file, and whether it may be proved: no worker holds it or has failed with it, and the
    database is not behind the vault.
    """

    file: File
    is_free: bool


FIND: Final = """
    SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
           part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
           rejection_reason, rejection_detail, created_at, expires_at,
           (lease_until IS NULL OR lease_until < now()) AND last_error IS NULL
               AND agrees_with_vault($3) AS is_free
    FROM files WHERE id = $1 AND ($2::text IS NULL OR owner = $2)
"""


async def find_completed(
    database: Database, file_id: UUID, *, owner: str | None, counter: int
) -> Completed | None:
    """Return the file, or None if there is no such file or if it belongs to another owner.

    If `owner` is None, the file may belong to any owner. `counter` is that of the vault's marker
    (service/marker/__init__.py).
    """
    row = await database.fetchrow(FIND, file_id, owner, counter)
    return None if row is None else Completed(read_file(row), row["is_free"])


# The reservation is locked first and must not be doomed, as in the commit of a claim
# (service/queries/verdicts.py). The digest of the bytes is compared with the digest that the row
# has at the commit. A worker that holds the file loses its lease, as after a deletion: its own
# commit then updates no row.
COMMIT: Final = """
    WITH reservation AS (
        SELECT vault_key FROM reservations
        WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL FOR UPDATE
    ), proved AS (
        UPDATE files
        SET state = 'ready', changed_by = 'client',
            changed_why = CASE WHEN coalesce(declared_sha256, $7) IS NULL
                               THEN 'completed; the bytes have the declared size'
                               ELSE 'completed; the bytes have the declared size and digest' END,
            declared_sha256 = coalesce(declared_sha256, $7), arrivals = arrivals + 1,
            hash = $5, minio_object_name = reservation.vault_key, vault_etag = $6,
            upload_date = now(), lease = NULL, lease_until = NULL, due_at = NULL,
            final_at = now(), sweep_at = now()
        FROM reservation
        WHERE id = $3 AND state IN ('pending', 'verifying')
          AND size = $4 AND coalesce(declared_sha256, $5) = $5 AND coalesce($7, $5) = $5
        RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
                  part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
                  rejection_reason, rejection_detail, created_at, expires_at
    ), kept AS (
        -- The file names the object from now on.
        DELETE FROM reservations USING proved WHERE vault_key = $1
    )
    SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
           part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
           rejection_reason, rejection_detail, created_at, expires_at
    FROM proved
"""


async def commit_small_file(
    database: Database,
    held: HeldKey,
    file_id: UUID,
    *,
    size: int,
    sha256: Sha256,
    etag: str,
    stated: Sha256 | None,
) -> File | None:
    """Make the file `ready` with the object under the key, and return it.

    `stated` is the digest that the client knows, which becomes the declared one. Return None if
    the reservation is doomed, if the file is final, or if a digest that the row has differs.
    Neither None nor an error shows that no commit has taken effect, so the statement must never be
    sent again.
    """
    row = await database.fetchrow(
        COMMIT,
        held.vault_key,
        held.lease,
        file_id,
        size,
        sha256.digest,
        etag,
        stated and stated.digest,
    )
    return read_file_if_any(row)


# The bytes were compared with the digest in $2, so the row must have it or none.
REJECT: Final = """
    UPDATE files
    SET state = 'rejected', changed_by = 'client', changed_why = 'completed; ' || $3 || ': ' || $4,
        declared_sha256 = coalesce(declared_sha256, $2), arrivals = arrivals + 1,
        rejection_reason = $3, rejection_detail = $4,
        lease = NULL, lease_until = NULL, due_at = NULL, final_at = now(), sweep_at = now()
    WHERE id = $1 AND state IN ('pending', 'verifying')
      AND ($2::bytea IS NULL OR declared_sha256 IS NULL OR declared_sha256 = $2)
    RETURNING id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
              part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
              rejection_reason, rejection_detail, created_at, expires_at
"""


async def reject_small_file(
    database: Database, file_id: UUID, rejection: Rejection, *, stated: Sha256 | None
) -> File | None:
    """Reject a file whose bytes differ from the declaration, and return it.

    `stated` is the digest that the bytes were compared with, if there is one. Return None if the
    file is final, or has another digest by now. Nothing was written to the vault.
    """
    row = await database.fetchrow(
        REJECT, file_id, stated and stated.digest, str(rejection.reason), rejection.detail
    )
    return read_file_if_any(row)
