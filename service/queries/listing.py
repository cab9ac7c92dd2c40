"""Pages of files: newest first, by (owner, id) descending."""

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from service.model import File, Sha256, State
from service.queries.rows import Database, read_file

MOST_ROWS_READ: Final = 10_000
"""What one page may read at the most, whatever it finds."""


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What the client asked for; `filename` may end in `*`."""

    states: tuple[State, ...]
    filename: str | None = None
    content_type: str | None = None
    hash: Sha256 | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None

    @property
    def filename_range(self) -> tuple[str, str] | tuple[None, None]:
        """The first name that fits and the first behind it that does not, in code point order."""
        if self.filename in (None, "*"):
            return None, None
        if not self.filename.endswith("*"):
            return self.filename, self.filename + "\x01"  # no name holds a control character
        return self.filename[:-1], follow_prefix(self.filename[:-1])


def follow_prefix(prefix: str) -> str:
    """The first string, in code point order, behind all that begin with `prefix`."""
    last = ord(prefix[-1]) + 1
    if last > 0x10FFFF:
        return follow_prefix(prefix[:-1]) if len(prefix) > 1 else prefix + prefix
    return prefix[:-1] + chr(0xE000 if last == 0xD800 else last)  # the surrogates are no characters


# The inner query reads one index backwards from the cursor; OFFSET 0 keeps the outer filters from changing which one that is.
# A prefix is a range of `text_pattern_ops`, bounds given: LIKE with a parameter has no index in a generic plan.
BY_ID: Final = """
    SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key, part_size, upload_id, state, hash,
           minio_object_name, vault_etag, upload_date, rejection_reason, rejection_detail, created_at, expires_at
    FROM (
        SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key, part_size, upload_id, state, hash,
               minio_object_name, vault_etag, upload_date, rejection_reason, rejection_detail, created_at, expires_at
        FROM files WHERE owner = $1 AND id < $2
        ORDER BY id DESC LIMIT 10000 OFFSET 0
    ) AS read
    WHERE state = ANY ($4::text[]) AND ($5::text IS NULL OR content_type = $5)
      AND ($6::timestamptz IS NULL OR created_at > $6) AND ($7::timestamptz IS NULL OR created_at < $7)
      AND ($8::bytea IS NULL OR hash = $8) AND ($9::text IS NULL OR filename ~>=~ $9) AND ($10::text IS NULL OR filename ~<~ $10)
    ORDER BY id DESC LIMIT $3
"""
BY_HASH: Final = """
    SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key, part_size, upload_id, state, hash,
           minio_object_name, vault_etag, upload_date, rejection_reason, rejection_detail, created_at, expires_at
    FROM (
        SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key, part_size, upload_id, state, hash,
               minio_object_name, vault_etag, upload_date, rejection_reason, rejection_detail, created_at, expires_at
        FROM files WHERE owner = $1 AND id < $2 AND hash = $8
        ORDER BY id DESC LIMIT 10000 OFFSET 0
    ) AS read
    WHERE state = ANY ($4::text[]) AND ($5::text IS NULL OR content_type = $5)
      AND ($6::timestamptz IS NULL OR created_at > $6) AND ($7::timestamptz IS NULL OR created_at < $7)
      AND ($8::bytea IS NULL OR hash = $8) AND ($9::text IS NULL OR filename ~>=~ $9) AND ($10::text IS NULL OR filename ~<~ $10)
    ORDER BY id DESC LIMIT $3
"""
BY_FILENAME: Final = """
    SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key, part_size, upload_id, state, hash,
           minio_object_name, vault_etag, upload_date, rejection_reason, rejection_detail, created_at, expires_at
    FROM (
        SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key, part_size, upload_id, state, hash,
               minio_object_name, vault_etag, upload_date, rejection_reason, rejection_detail, created_at, expires_at
        FROM files WHERE owner = $1 AND id < $2 AND filename ~>=~ $9 AND filename ~<~ $10
        ORDER BY id DESC LIMIT 10000 OFFSET 0
    ) AS read
    WHERE state = ANY ($4::text[]) AND ($5::text IS NULL OR content_type = $5)
      AND ($6::timestamptz IS NULL OR created_at > $6) AND ($7::timestamptz IS NULL OR created_at < $7)
      AND ($8::bytea IS NULL OR hash = $8) AND ($9::text IS NULL OR filename ~>=~ $9) AND ($10::text IS NULL OR filename ~<~ $10)
    ORDER BY id DESC LIMIT $3
"""


class Found(msgspec.Struct, frozen=True):
    """`end` is the last row that was read, when there may be more behind it; None: all there were have been read."""

    files: list[File]
    end: UUID | None


async def list_files(
    database: Database, owner: str, filters: Filters, *, before: UUID, limit: int
) -> Found:
    """At most `limit` files with ids below `before`, newest first; fewer may come although more exist behind `end`.

    Several statements: `database` is in a transaction, so that they read the same rows.
    """
    first, end = filters.filename_range
    statement = await choose_statement(database, owner, filters)
    rows = await database.fetch(
        statement,
        owner,
        before,
        limit,
        [str(state) for state in filters.states],
        filters.content_type,
        filters.created_after,
        filters.created_before,
        filters.hash and filters.hash.digest,
        first,
        end,
    )
    files = [read_file(row) for row in rows]
    if len(files) == limit:
        return Found(files, files[-1].id)
    return Found(files, await find_read_end(database, statement, owner, filters, before=before))


COUNT_NAMES: Final = """
    SELECT count(*) FROM (SELECT FROM files WHERE owner = $1 AND filename ~>=~ $2 AND filename ~<~ $3 LIMIT 10001) AS found
"""


async def choose_statement(database: Database, owner: str, filters: Filters) -> str:
    """The statement whose index fits the filters; a prefix that too many names share is no help."""
    if filters.hash:
        return BY_HASH
    first, end = filters.filename_range
    if first is None or await database.fetchval(COUNT_NAMES, owner, first, end) > MOST_ROWS_READ:
        return BY_ID
    return BY_FILENAME


READ_END: Final = (
    "SELECT id FROM files WHERE owner = $1 AND id < $2 ORDER BY id DESC OFFSET 9999 LIMIT 1"
)
READ_END_BY_HASH: Final = "SELECT id FROM files WHERE owner = $1 AND id < $2 AND hash = $3 ORDER BY id DESC OFFSET 9999 LIMIT 1"


async def find_read_end(
    database: Database, statement: str, owner: str, filters: Filters, *, before: UUID
) -> UUID | None:
    """The last of the rows that `statement` read when it read as many as it may. So few names fit BY_FILENAME that it read them all."""
    if statement is BY_FILENAME:
        return None
    if filters.hash is None:
        end: UUID | None = await database.fetchval(READ_END, owner, before)
    else:
        end = await database.fetchval(READ_END_BY_HASH, owner, before, filters.hash.digest)
    return end
