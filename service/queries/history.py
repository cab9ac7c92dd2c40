"""Statements on `file_history`. A trigger on `files` inserts its rows.

A statement that changes `state` also sets `changed_by` and `changed_why`. The trigger moves both
values to the row of the history and sets the two columns to NULL. A statement that omits
`changed_by` fails.

A position in the history is a transaction id and a sequence number (`xid`, `sequence`). Both are
assigned before the transaction commits, and transactions may commit in another order. A reader
therefore takes only rows whose `xid` is below that of the oldest running transaction (`xmin`). No
row can be committed later at a position that it has passed.

The `xid` of a row is the id of its transaction, or the `xid` of the file's previous row if that is
higher. (A commit takes its transaction id when it locks the reservation. It may therefore have the
lower id, and yet change the file after another transaction.) The positions of the rows of one file
thus increase in the order of its transitions. The `xid` of a row is never below the id of the row's
own transaction, so a row is below `xmin` only if its transaction has ended.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from service.model import Sha256, State
from service.queries.plans import reading_in_order
from service.queries.rows import Database, read_row


class Position(NamedTuple):
    """A position in the history. It lies after the row that it names and before every later row."""

    xid: int
    sequence: int


UNKNOWN: Final = Position(2**64 - 1, 0)
"""A position that no server assigns. `is_kept` is false for it, so its reader gets a `reset`."""


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One transition of a file."""

    state: State
    previous: State | None
    at: datetime
    by: str
    why: str | None


class Transition(HistoryEntry, frozen=True, kw_only=True):
    """One transition of any file, with its position in the history.

    `filename` is the file's current name. `hash` is the proved digest, or None if the file was not
    proved at the time of the transition.
    """

    xid: int
    sequence: int
    owner: str
    file_id: UUID
    filename: str
    hash: Sha256 | None

    @property
    def position(self) -> Position:
        return Position(self.xid, self.sequence)


LIST: Final = """
    SELECT state, previous, at, by, why FROM file_history WHERE file_id = $1
    ORDER BY sequence DESC LIMIT 1000
"""


async def list_history(pool: asyncpg.Pool, file_id: UUID) -> list[HistoryEntry]:
    """Return the last 1,000 transitions of a file, oldest first. Few files have more than five."""
    async with reading_in_order(pool) as database:
        rows = await database.fetch(LIST, file_id)
    return [read_row(row, HistoryEntry) for row in reversed(rows)]


NOW: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())"


async def find_snapshot_position(database: Database) -> Position:
    """Return a position that precedes every transition that has not been committed yet.

    Some committed transitions may follow it as well: those of transactions that are newer than the
    oldest running one.
    """
    return Position(await database.fetchval(NOW), 0)


# At least one row is returned, so that `xmin` of the statement's own snapshot shows how far it has
# read. A database that was restored from a dump of another server may have rows whose ids this
# server has not assigned yet. `held_back` does not count them. The rows of all owners are read in
# order, at most 10,000 of them. In this and the next statements, OFFSET 0 keeps the planner from
# reading all of `files` for a join.
READ_ALL: Final = """
    SELECT pg_snapshot_xmin(pg_current_snapshot()) AS xmin,
           EXISTS (SELECT FROM file_history
                   WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())
                     AND xid < pg_snapshot_xmax(pg_current_snapshot())) AS held_back,
           found.*
    FROM (VALUES (1)) AS always LEFT JOIN LATERAL (
        SELECT xid, sequence, owner, file_id, filename, state, previous, at, by, why,
               CASE WHEN state IN ('ready', 'damaged', 'deleted') THEN hash END AS hash
        FROM (
            SELECT xid, sequence, owner, file_id, state, previous, at, by, why FROM file_history
            WHERE (xid, sequence) > ($1::xid8, $2::bigint)
              AND xid < pg_snapshot_xmin(pg_current_snapshot())
            ORDER BY xid, sequence LIMIT 10000
        ) AS read
        CROSS JOIN LATERAL (SELECT filename, hash FROM files WHERE id = file_id OFFSET 0) AS file
        WHERE owner = ANY ($3::text[])
        ORDER BY xid, sequence LIMIT $4
    ) AS found ON true
    ORDER BY found.xid, found.sequence
"""
READ_END: Final = """
    SELECT xid, sequence FROM file_history
    WHERE (xid, sequence) > ($1::xid8, $2::bigint)
      AND xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY xid, sequence OFFSET 9999 LIMIT 1
"""


class Read(msgspec.Struct, frozen=True):
    """The transitions that one page has.

    Every row that could be read before `end` is among them. `more` is true if there may be more
    rows to read after `end`. `held_back` is true if committed rows cannot be read yet because an
    older transaction is still running.
    """

    transitions: list[Transition]
    end: Position
    more: bool
    held_back: bool


async def read_all(pool: asyncpg.Pool, after: Position, owners: list[str], *, limit: int) -> Read:
    """Return at most `limit` transitions of these owners' files after the position `after`.

    There may be fewer of them although more follow, if 10,000 rows were read.
    """
    async with reading_in_order(pool) as database:
        rows = await database.fetch(READ_ALL, after.xid, after.sequence, owners, limit)
        found = [read_row(row, Transition) for row in rows if row["sequence"] is not None]
        last = None
        if len(found) < limit:
            last = await database.fetchrow(READ_END, after.xid, after.sequence)
    if len(found) == limit:
        end, more = found[-1].position, True
    elif last is not None:
        end, more = Position(last["xid"], last["sequence"]), True
    else:
        end, more = max(after, Position(rows[0]["xmin"], 0)), False
    return Read(found, end, more=more, held_back=rows[0]["held_back"])


# The range of rows and the order have all columns of one index. With `owner = $3`, the order by
# `xid` and `sequence` would be enough, and the primary key, in which the rows of every owner would
# be read, would provide it as well.
READ_OWNER: Final = """
    SELECT xid, sequence, owner, file_id, filename, state, previous, at, by, why,
           CASE WHEN state IN ('ready', 'damaged', 'deleted') THEN hash END AS hash
    FROM (
        SELECT xid, sequence, owner, file_id, state, previous, at, by, why FROM file_history
        WHERE (owner, xid, sequence) > ($3::text, $1::xid8, $2::bigint)
          AND (owner, xid, sequence) < ($3, pg_snapshot_xmin(pg_current_snapshot()), 0)
        ORDER BY owner, xid, sequence OFFSET 0
    ) AS read
    CROSS JOIN LATERAL (SELECT filename, hash FROM files WHERE id = file_id OFFSET 0) AS file
    ORDER BY owner, xid, sequence LIMIT $4
"""
# The rows of one file have increasing positions, so their order by `sequence` is that by position.
READ_FILE: Final = """
    SELECT xid, sequence, owner, file_id, filename, state, previous, at, by, why,
           CASE WHEN state IN ('ready', 'damaged', 'deleted') THEN hash END AS hash
    FROM (
        SELECT xid, sequence, owner, file_id, state, previous, at, by, why FROM file_history
        WHERE (xid, sequence) > ($1::xid8, $2::bigint)
          AND xid < pg_snapshot_xmin(pg_current_snapshot()) AND file_id = $3
        ORDER BY sequence OFFSET 0
    ) AS read
    CROSS JOIN LATERAL (SELECT filename, hash FROM files WHERE id = file_id OFFSET 0) AS file
    ORDER BY sequence LIMIT $4
"""


async def read_some(
    pool: asyncpg.Pool, after: Position, *, owner: str, file_id: UUID | None, limit: int
) -> list[Transition]:
    """Return at most `limit` transitions of one owner's files, or of one file, after `after`.

    If `file_id` is given, `owner` is not compared.
    """
    rows: list[Any]
    async with reading_in_order(pool) as database:
        if file_id is None:
            rows = await database.fetch(READ_OWNER, after.xid, after.sequence, owner, limit)
        else:
            rows = await database.fetch(READ_FILE, after.xid, after.sequence, file_id, limit)
    return [read_row(row, Transition) for row in rows]


FIND_KEY: Final = "SELECT secret FROM event_id_key"


async def find_key(database: Database) -> bytes:
    """Return the key that encrypts the ids of events. It never changes."""
    secret: bytes = await database.fetchval(FIND_KEY)
    return secret


# A position above every id that this server has assigned comes from another database, or from this
# one before it was restored from a dump. The horizons of other owners are not compared, because a
# reader could infer from them that files of other owners were deleted.
IS_KEPT: Final = """
    SELECT $1::xid8 <= pg_snapshot_xmax(pg_current_snapshot())
       AND NOT EXISTS (SELECT FROM history_horizons
                       WHERE owner = $3 AND (xid, sequence) > ($1::xid8, $2::bigint)
                         AND xid < pg_snapshot_xmax(pg_current_snapshot()))
"""


async def is_kept(database: Database, position: Position, *, owner: str) -> bool:
    """Return whether no transition of the owner's files after `position` has been deleted.

    Call this after the transitions were read, because rows may be deleted between the two
    statements.
    """
    kept: bool = await database.fetchval(IS_KEPT, position.xid, position.sequence, owner)
    return kept


# A dump may contain ids that the server into which it is restored has not assigned yet. Until they
# are assigned, readers would get neither these rows nor later rows of the same files. The
# statements replace such an id by that of the current transaction. `sequence` keeps the rows in
# order.
REBASE: Final = (
    """
    UPDATE file_history SET xid = pg_current_xact_id()
    WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())
    """,
    """
    UPDATE files SET history_xid = NULL
    WHERE history_xid >= pg_snapshot_xmax(pg_current_snapshot())
    """,
    """
    UPDATE history_horizons SET xid = pg_current_xact_id()
    WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())
    """,
)


async def rebase_history(connection: asyncpg.Connection) -> None:
    """Replace transaction ids that this server has not assigned yet by ids that it has."""
    for statement in REBASE:
        await connection.execute(statement)
