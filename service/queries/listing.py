"""Statements of the list of files: pages in descending order of (owner, id), so newest first."""

from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from service.model import File, Sha256, State
from service.queries.plans import reading_in_order
from service.queries.rows import read_file

MOST_ROWS_READ: Final = 10_000
"""The largest number of rows that one page may read, however few of them match the filters."""
LAST_CHARACTER: Final = "\U0010ffff"
LONGEST_NAME: Final = 255
"""The largest length of a filename in characters, and in bytes of UTF-8."""


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """The filters of a list. A `filename` that ends in `*` is a prefix.

    `content_type` is the type that is served: `application/octet-stream` if none was declared.
    """

    states: tuple[State, ...]
    filename: str | None = None
    content_type: str | None = None
    hash: Sha256 | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None

    @property
    def filename_range(self) -> tuple[str, str] | tuple[None, None]:
        """Return the range of matching names, in code point order.

        The first name is in the range, and the second is not. Both are None if every name matches.
        """
        if self.filename in (None, "*"):
            return None, None
        if not self.filename.endswith("*"):
            return self.filename, self.filename + "\x01"  # a name has no control characters
        return self.filename[:-1], follow_prefix(self.filename[:-1])


def follow_prefix(prefix: str) -> str:
    """Return the first string, in code point order, after all names that begin with `prefix`.

    If `prefix` has only the last character, this is a string that is longer than every name.
    """
    shorter = prefix.rstrip(LAST_CHARACTER)
    if not shorter:
        return LAST_CHARACTER * LONGEST_NAME
    last = ord(shorter[-1]) + 1
    # surrogates are not characters
    return shorter[:-1] + chr(0xE000 if last == 0xD800 else last)


# Each inner query reads one index backwards from the cursor. Its ORDER BY has all columns of that
# index, and its WHERE clause compares whole rows. With `owner = $1`, the order by id alone would be
# enough, and the primary key, in which the rows of every owner would be read, would provide it.
# Under the settings of service/queries/plans.py, the planner can use no other index.
BY_ID: Final = """
    SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
           part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
           rejection_reason, rejection_detail, created_at, expires_at
    FROM (
        SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
               part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
               rejection_reason, rejection_detail, created_at, expires_at
        FROM files
        WHERE (owner, id) < ($1, $2)
          AND (owner, id) >= ($1, '00000000-0000-0000-0000-000000000000')
        ORDER BY owner DESC, id DESC LIMIT 10000
    ) AS read
    WHERE state = ANY ($4::text[])
      AND ($5::text IS NULL OR COALESCE(content_type, 'application/octet-stream') = $5)
      AND ($6::timestamptz IS NULL OR created_at > $6)
      AND ($7::timestamptz IS NULL OR created_at < $7)
      AND ($8::bytea IS NULL OR hash = $8)
      AND ($9::text IS NULL OR filename ~>=~ $9) AND ($10::text IS NULL OR filename ~<~ $10)
    ORDER BY owner DESC, id DESC LIMIT $3
"""
BY_HASH: Final = """
    SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
           part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
           rejection_reason, rejection_detail, created_at, expires_at
    FROM (
        SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
               part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
               rejection_reason, rejection_detail, created_at, expires_at
        FROM files
        WHERE hash IS NOT NULL AND (owner, hash, id) < ($1, $8, $2)
          AND (owner, hash, id) >= ($1, $8, '00000000-0000-0000-0000-000000000000')
        ORDER BY owner DESC, hash DESC, id DESC LIMIT 10000
    ) AS read
    WHERE state = ANY ($4::text[])
      AND ($5::text IS NULL OR COALESCE(content_type, 'application/octet-stream') = $5)
      AND ($6::timestamptz IS NULL OR created_at > $6)
      AND ($7::timestamptz IS NULL OR created_at < $7)
      AND ($8::bytea IS NULL OR hash = $8)
      AND ($9::text IS NULL OR filename ~>=~ $9) AND ($10::text IS NULL OR filename ~<~ $10)
    ORDER BY owner DESC, hash DESC, id DESC LIMIT $3
"""
BY_STATE: Final = """
    SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
           part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
           rejection_reason, rejection_detail, created_at, expires_at
    FROM (
        SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
               part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
               rejection_reason, rejection_detail, created_at, expires_at
        FROM files
        WHERE state <> 'ready' AND (owner, state, id) < ($1, ($4::text[])[1], $2)
          AND (owner, state, id) >= ($1, ($4::text[])[1], '00000000-0000-0000-0000-000000000000')
        ORDER BY owner DESC, state DESC, id DESC LIMIT 10000
    ) AS read
    WHERE state = ANY ($4::text[])
      AND ($5::text IS NULL OR COALESCE(content_type, 'application/octet-stream') = $5)
      AND ($6::timestamptz IS NULL OR created_at > $6)
      AND ($7::timestamptz IS NULL OR created_at < $7)
      AND ($8::bytea IS NULL OR hash = $8)
      AND ($9::text IS NULL OR filename ~>=~ $9) AND ($10::text IS NULL OR filename ~<~ $10)
    ORDER BY owner DESC, state DESC, id DESC LIMIT $3
"""
# The names' range is read first, and alone, from the index of names. Only as many rows are then
# looked up by id, newest first, as it takes to fill the page. A prefix is written as a range of
# `text_pattern_ops`, because a generic plan uses no index for LIKE with a parameter. OFFSET 0 keeps
# the planner from joining instead.
BY_FILENAME: Final = """
    WITH named AS MATERIALIZED (
        SELECT id FROM files
        WHERE owner = $1 AND filename ~>=~ $9 AND filename ~<~ $10 AND id < $2
        ORDER BY filename USING ~<~, id LIMIT 10000
    )
    SELECT file.id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
           part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
           rejection_reason, rejection_detail, created_at, expires_at
    FROM (SELECT id FROM named ORDER BY id DESC OFFSET 0) AS newest
    CROSS JOIN LATERAL (
        SELECT id, owner, filename, size, content_type, declared_sha256, metadata, incoming_key,
               part_size, upload_id, state, hash, minio_object_name, vault_etag, upload_date,
               rejection_reason, rejection_detail, created_at, expires_at
        FROM files
        WHERE files.id = newest.id
          AND state = ANY ($4::text[])
          AND ($5::text IS NULL OR COALESCE(content_type, 'application/octet-stream') = $5)
          AND ($6::timestamptz IS NULL OR created_at > $6)
          AND ($7::timestamptz IS NULL OR created_at < $7)
          AND ($8::bytea IS NULL OR hash = $8)
          AND ($9::text IS NULL OR filename ~>=~ $9) AND ($10::text IS NULL OR filename ~<~ $10)
        OFFSET 0
    ) AS file
    ORDER BY newest.id DESC LIMIT $3
"""


class Found(msgspec.Struct, frozen=True):
    """The files of a page.

    `end` is the id of the last row that was read, if there may be more rows after it. It is None if
    all rows were read.
    """

    files: list[File]
    end: UUID | None


async def list_files(
    pool: asyncpg.Pool, owner: str, filters: Filters, *, before: UUID, limit: int
) -> Found:
    """Return at most `limit` files whose ids are below `before`, newest first.

    The page may be short although more files match after `end`.
    """
    first, end = filters.filename_range
    async with reading_in_order(pool) as database:
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
    SELECT count(*) FROM (
        SELECT FROM files WHERE owner = $1 AND filename ~>=~ $2 AND filename ~<~ $3
        ORDER BY filename USING ~<~, id LIMIT 10001
    ) AS found
"""


async def choose_statement(database: asyncpg.Connection, owner: str, filters: Filters) -> str:
    """Return the statement whose index fits the filters.

    The index of filenames is not used if more than MOST_ROWS_READ names match. The index of states
    has no files that are ready.
    """
    if filters.hash:
        return BY_HASH
    first, end = filters.filename_range
    if first is not None:
        named: int = await database.fetchval(COUNT_NAMES, owner, first, end)
        if named <= MOST_ROWS_READ:
            return BY_FILENAME
    if len(filters.states) == 1 and filters.states[0] != State.READY:
        return BY_STATE
    return BY_ID


READ_END: Final = """
    SELECT id FROM files
    WHERE (owner, id) < ($1, $2) AND (owner, id) >= ($1, '00000000-0000-0000-0000-000000000000')
    ORDER BY owner DESC, id DESC OFFSET 9999 LIMIT 1
"""
READ_END_BY_HASH: Final = """
    SELECT id FROM files
    WHERE hash IS NOT NULL AND (owner, hash, id) < ($1, $3, $2)
      AND (owner, hash, id) >= ($1, $3, '00000000-0000-0000-0000-000000000000')
    ORDER BY owner DESC, hash DESC, id DESC OFFSET 9999 LIMIT 1
"""
READ_END_BY_STATE: Final = """
    SELECT id FROM files
    WHERE state <> 'ready' AND (owner, state, id) < ($1, $3, $2)
      AND (owner, state, id) >= ($1, $3, '00000000-0000-0000-0000-000000000000')
    ORDER BY owner DESC, state DESC, id DESC OFFSET 9999 LIMIT 1
"""


async def find_read_end(
    database: asyncpg.Connection, statement: str, owner: str, filters: Filters, *, before: UUID
) -> UUID | None:
    """Return the id of the last row that `statement` read, or None if it read all rows.

    BY_FILENAME always reads all rows, because it is chosen only if at most MOST_ROWS_READ names
    match.
    """
    end: UUID | None = None
    if statement is BY_ID:
        end = await database.fetchval(READ_END, owner, before)
    elif statement is BY_HASH and filters.hash:
        end = await database.fetchval(READ_END_BY_HASH, owner, before, filters.hash.digest)
    elif statement is BY_STATE:
        end = await database.fetchval(READ_END_BY_STATE, owner, before, str(filters.states[0]))
    return end
