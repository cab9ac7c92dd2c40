"""Statements that measure the backlog, and that check the connection to the database."""

from typing import Final

import msgspec

from service.queries.rows import Database, read_row


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of unfinished files and of reservations.

    A file is overdue if it is due and no process holds a live lease on it. The fields in seconds
    are for the file that has been overdue, or in `verifying`, for the longest time. They are 0 if
    there is none.
    """

    overdue: int
    overdue_seconds: float
    verifying: int
    verifying_seconds: float
    reservations: int
    doomed_reservations: int


# Each count reads a partial index of unfinished rows. The cost therefore depends on the size of the
# backlog, not on that of the table.
MEASURE: Final = """
    WITH backlog AS (
        SELECT count(*) FILTER (WHERE overdue) AS overdue,
               coalesce(extract(epoch FROM now() - min(due_at) FILTER (WHERE overdue)),
                        0)::float8 AS overdue_seconds,
               count(*) FILTER (WHERE state = 'verifying') AS verifying,
               coalesce(extract(epoch FROM now() - min(verifying_since)
                                                   FILTER (WHERE state = 'verifying')),
                        0)::float8 AS verifying_seconds
        FROM (
            SELECT state, due_at, verifying_since,
                   due_at <= now() AND (lease_until IS NULL OR lease_until <= now()) AS overdue
            FROM files WHERE work IS NOT NULL
        ) AS judged
    )
    SELECT overdue, overdue_seconds, verifying, verifying_seconds,
           (SELECT count(*) FROM reservations WHERE doomed_at IS NULL) AS reservations,
           (SELECT count(*) FROM reservations WHERE doomed_at IS NOT NULL) AS doomed_reservations
    FROM backlog
"""


async def measure_backlog(database: Database) -> Backlog:
    return read_row(await database.fetchrow(MEASURE), Backlog)


PING: Final = "SELECT 1"


async def ping(database: Database) -> None:
    """Run a statement that reads nothing.

    Raises one of the errors in service.database.UNREACHABLE if the database is unavailable.
    """
    await database.fetchval(PING)
