"""Statements over `file_history`. Its rows are written by a trigger on `files`.

A statement that changes `state` sets `changed_by` and `changed_why` beside it. The trigger moves them to the row of the history, so they
are NULL afterwards, and a statement that forgets them fails.

Ids are a transaction's id and a sequence. They are given out before their commits, in another order: a reader takes only rows below the
oldest transaction that still runs (`xmin`), so nothing can appear below what it has read.

A row's `xid` is its transaction's, or that of the file's row before where that one is higher: a commit that locked its reservation first
may have the lower id of two, and changes the file after the other one. So the ids of one file rise in the order of its transitions. What is
stored is never below the transaction's own id, so it is below `xmin` only when the transaction has ended.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from service.model import Sha256, State
from service.queries.rows import Database, read_row


class Position(NamedTuple):
    """A place in the history: behind this row, and before all with a higher id."""

    xid: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.xid}-{self.sequence}"


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One transition of a file."""

    state: State
    previous: State | None
    at: datetime
    by: str
    why: str | None


class Transition(HistoryEntry, frozen=True, kw_only=True):
    """The same among those of other files. `filename` is what the file is called now; `hash` is null before it was proved."""

    xid: int
    sequence: int
    owner: str
    file_id: UUID
    filename: str
    hash: Sha256 | None

    @property
    def position(self) -> Position:
        return Position(self.xid, self.sequence)


LIST: Final = (
    "SELECT state, previous, at, by, why FROM file_history WHERE file_id = $1 ORDER BY sequence"
)


async def list_history(database: Database, file_id: UUID) -> list[HistoryEntry]:
    """All that became of a file, oldest first."""
    return [read_row(row, HistoryEntry) for row in await database.fetch(LIST, file_id)]


NOW: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())"


async def find_snapshot_position(database: Database) -> Position:
    """Before everything that is not committed yet, and behind nothing that is not."""
    return Position(await database.fetchval(NOW), 0)


# One row is returned at least, so that the statement's own snapshot tells how far it has read. A row of a database that was restored from
# elsewhere may have an id that is not given out here yet: `held_back` does not wait for it.
READ_ALL: Final = """
    SELECT pg_snapshot_xmin(pg_current_snapshot()) AS xmin,
           EXISTS (SELECT FROM file_history WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())
                                              AND xid < pg_snapshot_xmax(pg_current_snapshot())) AS held_back,
           found.*
    FROM (VALUES (1)) AS always LEFT JOIN LATERAL (
        SELECT xid, sequence, history.owner, file_id, filename, history.state, history.previous, at, by, why,
               CASE WHEN history.state IN ('ready', 'damaged', 'deleted') THEN hash END AS hash
        FROM file_history AS history JOIN files ON files.id = file_id
        WHERE (xid, sequence) > ($1::xid8, $2::bigint) AND xid < pg_snapshot_xmin(pg_current_snapshot())
          AND history.owner = ANY ($3::text[])
        ORDER BY xid, sequence LIMIT $4
    ) AS found ON true
    ORDER BY found.xid, found.sequence
"""


class Read(msgspec.Struct, frozen=True):
    """`end`: nothing that may be read is left before it. `held_back`: rows are there that wait for an older transaction."""

    transitions: list[Transition]
    end: Position
    held_back: bool


async def read_all(database: Database, after: Position, owners: list[str], *, limit: int) -> Read:
    """What became of these owners' files behind `after`."""
    rows = await database.fetch(READ_ALL, after.xid, after.sequence, owners, limit)
    found = [read_row(row, Transition) for row in rows if row["sequence"] is not None]
    end = found[-1].position if len(found) == limit else max(after, Position(rows[0]["xmin"], 0))
    return Read(found, end, rows[0]["held_back"])


# The owner stands in the comparison as well: otherwise a plan that reads all owners' rows in order can look cheaper.
READ_OWNER: Final = """
    SELECT xid, sequence, history.owner, file_id, filename, history.state, history.previous, at, by, why,
           CASE WHEN history.state IN ('ready', 'damaged', 'deleted') THEN hash END AS hash
    FROM file_history AS history JOIN files ON files.id = file_id
    WHERE (xid, sequence) > ($1::xid8, $2::bigint) AND xid < pg_snapshot_xmin(pg_current_snapshot())
      AND history.owner = $3 AND (history.owner, xid, sequence) > ($3, $1, $2)
    ORDER BY xid, sequence LIMIT $4
"""
READ_FILE: Final = """
    SELECT xid, sequence, history.owner, file_id, filename, history.state, history.previous, at, by, why,
           CASE WHEN history.state IN ('ready', 'damaged', 'deleted') THEN hash END AS hash
    FROM file_history AS history JOIN files ON files.id = file_id
    WHERE (xid, sequence) > ($1::xid8, $2::bigint) AND xid < pg_snapshot_xmin(pg_current_snapshot())
      AND history.file_id = $3
    ORDER BY xid, sequence LIMIT $4
"""


async def read_some(
    database: Database, after: Position, *, owner: str, file_id: UUID | None, limit: int
) -> list[Transition]:
    """What became of one owner's files, or of one file, behind `after`."""
    rows: list[Any]
    if file_id is None:
        rows = await database.fetch(READ_OWNER, after.xid, after.sequence, owner, limit)
    else:
        rows = await database.fetch(READ_FILE, after.xid, after.sequence, file_id, limit)
    return [read_row(row, Transition) for row in rows]


# An id above all that were given out is of another database, or of this one before it was restored.
IS_KEPT: Final = """
    SELECT $1::xid8 <= pg_snapshot_xmax(pg_current_snapshot())
       AND ((xid, sequence) <= ($1::xid8, $2::bigint) OR xid >= pg_snapshot_xmax(pg_current_snapshot()))
    FROM history_horizon
"""


async def is_kept(database: Database, position: Position) -> bool:
    """Whether nothing behind `position` was forgotten. Read first, then ask: what is forgotten in between is asked after."""
    kept: bool = await database.fetchval(IS_KEPT, position.xid, position.sequence)
    return kept


# A dump that is restored into another server brings ids that are given out there later: until then no reader would be sent such a row,
# nor any further one of its file. They get this transaction's id, which keeps their order.
REBASE: Final = (
    "UPDATE file_history SET xid = pg_current_xact_id() WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())",
    "UPDATE files SET history_xid = NULL WHERE history_xid >= pg_snapshot_xmax(pg_current_snapshot())",
    "UPDATE history_horizon SET xid = pg_current_xact_id() WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())",
)


async def rebase_history(connection: asyncpg.Connection) -> None:
    """Ids that this server has not given out yet become ids that it has."""
    for statement in REBASE:
        await connection.execute(statement)
