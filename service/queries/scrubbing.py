"""Statements of the scrub, which reads the objects of proved files again."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from service.model import Sha256, State
from service.queries.rows import Database, read_row

PAGE: Final = 100


class DueFile(msgspec.Struct, frozen=True):
    """A proved file whose object is due to be read again. `checked_at` orders the files."""

    id: UUID
    key: UUID
    state: State
    size: int
    hash: Sha256
    checked_at: datetime


# `agrees_with_vault` compares the row of the marker with the counter in the vault. There are two
# statements, because the planner uses a partial index only if the state is a literal.
LIST_DUE: Final = """
    SELECT id, minio_object_name AS key, state, size, hash,
           coalesce(checked_at, final_at) AS checked_at
    FROM files
    WHERE state = 'ready' AND coalesce(checked_at, final_at) <= $1
      AND ($2::timestamptz IS NULL OR (coalesce(checked_at, final_at), id) > ($2, $3::uuid))
      AND agrees_with_vault($4)
    ORDER BY coalesce(checked_at, final_at), id LIMIT $5
"""
LIST_DUE_DAMAGED: Final = """
    SELECT id, minio_object_name AS key, state, size, hash,
           coalesce(checked_at, final_at) AS checked_at
    FROM files
    WHERE state = 'damaged' AND coalesce(checked_at, final_at) <= $1
      AND ($2::timestamptz IS NULL OR (coalesce(checked_at, final_at), id) > ($2, $3::uuid))
      AND agrees_with_vault($4)
    ORDER BY coalesce(checked_at, final_at), id LIMIT $5
"""


async def list_due(
    database: Database, *, damaged: bool, before: datetime, after: DueFile | None, counter: int
) -> list[DueFile]:
    """Return the next files that were checked before that time, the oldest check first.

    `counter` is that of the vault's marker. Nothing is returned if the database has another one.
    """
    rows = await database.fetch(
        LIST_DUE_DAMAGED if damaged else LIST_DUE,
        before,
        after.checked_at if after else None,
        after.id if after else None,
        counter,
        PAGE,
    )
    return [read_row(row, DueFile) for row in rows]


IS_NAMED: Final = """
    SELECT EXISTS (SELECT FROM files
                   WHERE id = $1 AND minio_object_name = $2 AND state IN ('ready', 'damaged'))
"""


async def is_named(database: Database, file_id: UUID, key: UUID) -> bool:
    """Return whether the proved file still names the object."""
    return bool(await database.fetchval(IS_NAMED, file_id, key))


# The scrub reads the files in the order of their last checks. '-infinity' would come first as well,
# but PostgreSQL before 17 cannot compute the age of such a check. A file that is due already is not
# written again, because its readers may be many.
REQUEST_CHECK: Final = """
    UPDATE files SET checked_at = 'epoch'
    WHERE id = $1 AND state = 'ready' AND minio_object_name = $2
      AND checked_at IS DISTINCT FROM 'epoch'
"""


async def request_check(database: Database, file_id: UUID, key: UUID) -> None:
    """Make a `ready` file the next one that the scrub reads, if its row still names this key."""
    await database.execute(REQUEST_CHECK, file_id, key)


ASK_BOUNDS: Final = """
    SELECT now() - $1::interval AS ready, now() - least($1::interval, $2::interval) AS damaged
"""


async def ask_bounds(
    database: Database, *, every: timedelta, damaged_every: timedelta
) -> tuple[datetime, datetime]:
    """Return the times before which a check of a `ready` and of a `damaged` file is too old."""
    row = await database.fetchrow(ASK_BOUNDS, every, damaged_every)
    return row["ready"], row["damaged"]


IS_DUE: Final = """
    SELECT (stopped_at IS NULL OR stopped_at <= now() - $3::interval)
       AND (EXISTS (SELECT FROM files WHERE state = 'ready'
                      AND coalesce(checked_at, final_at) <= now() - $1::interval)
         OR EXISTS (SELECT FROM files WHERE state = 'damaged'
                      AND coalesce(checked_at, final_at)
                          <= now() - least($1::interval, $2::interval)))
    FROM scrub
"""


async def is_due(
    database: Database, *, every: timedelta, damaged_every: timedelta, rest: timedelta
) -> bool:
    """Return whether a file is due, and the last scrub did not stop less than `rest` ago."""
    return bool(await database.fetchval(IS_DUE, every, damaged_every, rest))


MARK_DAMAGED: Final = """
    UPDATE files
    SET state = 'damaged', checked_at = now(), changed_by = 'worker', changed_why = $3
    WHERE id = $1 AND minio_object_name = $2 AND state = 'ready' RETURNING id
"""


async def mark_damaged(database: Database, file_id: UUID, key: UUID, *, why: str) -> bool:
    """Record that the object of a `ready` file is missing or has other bytes."""
    return await database.fetchval(MARK_DAMAGED, file_id, key, why) is not None


MARK_WHOLE: Final = """
    UPDATE files
    SET state = 'ready', vault_etag = $3, proved_at = now(), checked_at = now(),
        changed_by = CASE WHEN state = 'damaged' THEN 'worker' END,
        changed_why = CASE WHEN state = 'damaged' THEN 'the object has the proved bytes again' END
    WHERE id = $1 AND minio_object_name = $2 AND state IN ('ready', 'damaged') RETURNING id
"""


async def mark_whole(database: Database, file_id: UUID, key: UUID, *, etag: str) -> bool:
    """Record that the object has the proved bytes, and its ETag of today."""
    return await database.fetchval(MARK_WHOLE, file_id, key, etag) is not None


NOTE_CHECK: Final = """
    UPDATE files SET checked_at = now()
    WHERE id = $1 AND minio_object_name = $2 AND state = 'damaged'
"""


async def note_check(database: Database, file_id: UUID, key: UUID) -> None:
    """Record that a damaged file was read again, and is not whole."""
    await database.execute(NOTE_CHECK, file_id, key)


NOTE_STOP: Final = """
    UPDATE scrub SET stopped_at = CASE WHEN $1::text IS NOT NULL THEN now() END, stopped_why = $1
    WHERE stopped_why IS NOT NULL OR $1::text IS NOT NULL
"""


async def note_stop(database: Database, why: str | None) -> None:
    """Record why the scrub stopped before its end, or with None that it did not stop."""
    await database.execute(NOTE_STOP, why)


MEASURE_SECONDS: Final = 600.0
MEASURE: Final = """
    UPDATE scrub
    SET vault_bytes = (SELECT coalesce(sum(size), 0)::bigint FROM files
                       WHERE state IN ('ready', 'damaged')),
        measured_at = now()
    WHERE measured_at IS NULL OR measured_at <= now() - interval '1 hour'
    RETURNING vault_bytes
"""


async def measure_vault(connection: asyncpg.Connection) -> int | None:
    """Add up the bytes of all proved files, at most once an hour. Return None in between.

    Raises TimeoutError after MEASURE_SECONDS.
    """
    measured: int | None = await connection.fetchval(MEASURE, timeout=MEASURE_SECONDS)
    return measured


class ScrubState(msgspec.Struct, frozen=True):
    """What the scrub has found. `oldest_check_seconds` is 0 if no file is `ready`."""

    damaged: int
    oldest_check_seconds: float
    stopped_seconds: float | None
    stopped_why: str | None
    vault_bytes: int | None


# The first two values come from partial indexes. A check that a reader has asked for is at the
# epoch (REQUEST_CHECK).
READ_STATE: Final = """
    SELECT (SELECT count(*) FROM files WHERE state = 'damaged') AS damaged,
           coalesce(extract(epoch FROM now() - (
               SELECT coalesce(nullif(checked_at, 'epoch'), final_at)
               FROM files WHERE state = 'ready'
               ORDER BY coalesce(checked_at, final_at), id LIMIT 1)), 0)::float8
               AS oldest_check_seconds,
           extract(epoch FROM now() - stopped_at)::float8 AS stopped_seconds, stopped_why,
           vault_bytes
    FROM scrub
"""


async def read_state(database: Database) -> ScrubState:
    return read_row(await database.fetchrow(READ_STATE), ScrubState)
