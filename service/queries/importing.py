"""Statements of an import: find the files that exist already, and insert a proved one."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from service.model import Sha256
from service.queries.reservations import HeldKey
from service.queries.rows import Database, read_row


class KnownFile(msgspec.Struct, frozen=True):
    """A file that exists already. `hash` is None if it was never proved.

    `why` is the reason of its first transition. For an imported file, it names the object.
    """

    id: UUID
    owner: str
    size: int
    hash: Sha256 | None
    why: str | None


FIND_KNOWN: Final = """
    SELECT id, owner, size, hash, (SELECT why FROM file_history WHERE file_id = files.id
                                   ORDER BY sequence LIMIT 1) AS why
    FROM files WHERE id = ANY ($1::uuid[])
"""


async def find_known(database: Database, file_ids: Sequence[UUID]) -> dict[UUID, KnownFile]:
    """Return those of the files that exist, in any state, by id."""
    rows = await database.fetch(FIND_KNOWN, file_ids)
    return {row["id"]: read_row(row, KnownFile) for row in rows}


class ImportedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file to insert. `created_at` and `upload_date` are None for the time of the commit."""

    id: UUID
    owner: str
    filename: str
    size: int
    content_type: str | None
    declared_sha256: Sha256 | None
    metadata: dict[str, str]
    created_at: datetime | None = None
    upload_date: datetime | None = None
    why: str


# Another import may have inserted the same file meanwhile. Then the primary key refuses this one,
# or it is found here. ON CONFLICT is not used, because the trigger would record the transition of
# a row that is not inserted.
COMMIT: Final = """
    WITH reservation AS (
        -- The row is locked and must not be doomed, or the sweeper may have deleted the object.
        SELECT vault_key FROM reservations
        WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL FOR UPDATE
    ), inserted AS (
        INSERT INTO files (id, owner, filename, size, content_type, declared_sha256, metadata,
                           state, changed_by, changed_why, hash, minio_object_name, vault_etag,
                           created_at, upload_date, expires_at, grace_until, final_at)
        SELECT $3, $4, $5, $6, $7, $8, $9, 'ready', 'worker', $10, $11, vault_key, $12,
               coalesce($13::timestamptz, now()), coalesce($14::timestamptz, now()),
               now(), now(), now()
        FROM reservation WHERE NOT EXISTS (SELECT FROM files WHERE id = $3)
        RETURNING id
    ), kept AS (
        -- The file names the object from now on.
        DELETE FROM reservations USING inserted WHERE vault_key = $1
    )
    SELECT id FROM inserted
"""


async def commit_imported_file(
    database: Database, held: HeldKey, file: ImportedFile, *, sha256: Sha256, etag: str
) -> bool:
    """Insert the proved file from its reservation, and return whether that was done.

    False means that the reservation is doomed or the file exists. Neither False nor an error shows
    that no commit has taken effect, so the statement must never be sent again.
    """
    inserted = await database.fetchval(
        COMMIT,
        held.vault_key,
        held.lease,
        file.id,
        file.owner,
        file.filename,
        file.size,
        file.content_type,
        file.declared_sha256 and file.declared_sha256.digest,
        file.metadata,
        file.why,
        sha256.digest,
        etag,
        file.created_at,
        file.upload_date,
    )
    return inserted is not None
