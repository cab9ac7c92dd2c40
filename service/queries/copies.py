"""Statements over `copies`: vault keys, written down before anything lies under them."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from service.model import Declaration, File, Sha256
from service.queries.files import COLUMNS
from service.queries.history import MOVED, record
from service.queries.rows import Database, read_row, read_row_if_any


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """A vault key under which something may lie, and who may still write there."""

    vault_key: UUID
    file_id: UUID
    owner: str
    lease: UUID
    lease_until: datetime
    upload_id: str | None
    created_at: datetime
    doomed_at: datetime | None


OPEN: Final = """
    INSERT INTO copies (vault_key, file_id, owner, lease, lease_until)
    VALUES (gen_random_uuid(), $1, $2, gen_random_uuid(), now() + $3::interval)
    RETURNING vault_key, file_id, owner, lease, lease_until, upload_id, created_at, doomed_at
"""


async def open_copy(database: Database, file_id: UUID, owner: str, *, lease: timedelta) -> Copy:
    """Write a fresh vault key down for a file that is streamed through the API and has no row yet."""
    return read_row(await database.fetchrow(OPEN, file_id, owner, lease), Copy)


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """The reservation of a probe of the store: a scratch key in each bucket."""

    vault_key: UUID
    scratch_key: str
    lease: UUID


# The probe's key in incoming is recorded in the same row, so that the sweeper finds whatever a probe leaves behind.
# It is longer than the key of an upload, so no event about it moves a file.
OPEN_PROBE: Final = """
    INSERT INTO copies (vault_key, scratch_key, lease, lease_until)
    VALUES (gen_random_uuid(), 'probe-' || gen_random_uuid(), gen_random_uuid(), now() + $1::interval)
    RETURNING vault_key, scratch_key, lease
"""


async def open_probe(database: Database, *, lease: timedelta) -> Probe:
    """Record the keys of a probe before anything is written under them."""
    return read_row(await database.fetchrow(OPEN_PROBE, lease), Probe)


EXTEND: Final = """
    UPDATE copies SET lease_until = now() + $3::interval WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL RETURNING vault_key
"""


async def extend_copy(database: Database, copy: Copy, lease: timedelta) -> bool:
    """Keep a streamed upload's copy; False: it is doomed."""
    return await database.fetchval(EXTEND, copy.vault_key, copy.lease, lease) is not None


# Before the first part: whoever finds the row must be able to abort the store's multipart upload.
NAME_UPLOAD: Final = """
    UPDATE copies SET upload_id = $3 WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL RETURNING vault_key
"""


async def name_upload(database: Database, vault_key: UUID, lease: UUID, *, upload_id: str) -> bool:
    """Write the id of the store's multipart upload down; False: the copy is doomed."""
    return await database.fetchval(NAME_UPLOAD, vault_key, lease, upload_id) is not None


# The commit of a streamed upload: the file's row is born from its live copy, or not at all. Nothing of it ever was in incoming.
COMMIT: Final = (
    f"""
    WITH copy AS (
        SELECT vault_key, file_id, owner FROM copies WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL FOR UPDATE
    ), born AS (
        INSERT INTO files (id, owner, filename, size, content_type, declared_sha256, metadata, state, history_xid, hash,
                           minio_object_name, vault_etag, upload_date, expires_at, grace_until, final_at)
        SELECT file_id, owner, $3, $4, $5, $6, $7, 'ready', pg_current_xact_id(), $8, vault_key, $9, now(), now(), now(), now() FROM copy
        RETURNING {COLUMNS}, {MOVED}
    """
    + record("born", by="'client'", why="'streamed through the API, hashed on its way'")
    + """
    ), kept AS (
        DELETE FROM copies USING born WHERE vault_key = $1
    )
    SELECT """
    + COLUMNS
    + " FROM born"
)


async def commit_streamed_upload(database: Database, copy: Copy, declaration: Declaration, *, sha256: Sha256, etag: str) -> File | None:
    """Insert the proved file. None proves nothing; neither does an error. Never send it again."""
    row = await database.fetchrow(
        COMMIT,
        copy.vault_key,
        copy.lease,
        declaration.filename,
        declaration.size,
        declaration.content_type,
        declaration.sha256 and declaration.sha256.digest,
        declaration.metadata,
        sha256.digest,
        etag,
    )
    return read_row_if_any(row, File)


DOOM: Final = """
    UPDATE copies SET doomed_at = now(), sweep_at = now() WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL RETURNING vault_key
"""


async def doom_copy(database: Database, vault_key: UUID, lease: UUID) -> bool:
    """True: no commit has won and none can any more, so the worker may delete the object. False: leave it alone."""
    return await database.fetchval(DOOM, vault_key, lease) is not None


# While no copy request was sent, nothing can ever lie under the key.
FORGET: Final = "DELETE FROM copies WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL"


async def forget_copy(database: Database, vault_key: UUID, lease: UUID) -> None:
    """Drop the row of a key that was never written to."""
    await database.execute(FORGET, vault_key, lease)


LIST: Final = """
    SELECT vault_key, file_id, owner, lease, lease_until, upload_id, created_at, doomed_at FROM copies
    WHERE file_id = $1 ORDER BY created_at
"""


async def list_copies(database: Database, file_id: UUID) -> list[Copy]:
    """Every key under which something of this file may lie, but for the proved object's."""
    return [read_row(row, Copy) for row in await database.fetch(LIST, file_id)]
