"""Statements that tell how the work stands."""

from typing import Final

import msgspec

from service.queries.rows import Database, read_row


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """Ages in seconds, of the oldest one; 0 when there is none. Overdue: due, and nobody holds a live lease."""

    overdue: int
    overdue_seconds: float
    verifying: int
    verifying_seconds: float
    reservations: int
    doomed_reservations: int


# Every count goes through a partial index over what is unfinished, so that the cost follows the backlog and not the table.
MEASURE: Final = """
    WITH unfinished AS (
        SELECT state, due_at, lease_until, verifying_since FROM files WHERE state IN ('pending', 'verifying') AND size <= 1073741824
        UNION ALL
        SELECT state, due_at, lease_until, verifying_since FROM files WHERE state IN ('pending', 'verifying') AND size > 1073741824
    ), work AS (
        SELECT count(*) FILTER (WHERE overdue) AS overdue,
               coalesce(extract(epoch FROM now() - min(due_at) FILTER (WHERE overdue)), 0)::float8 AS overdue_seconds,
               count(*) FILTER (WHERE state = 'verifying') AS verifying,
               coalesce(extract(epoch FROM now() - min(verifying_since) FILTER (WHERE state = 'verifying')), 0)::float8 AS verifying_seconds
        FROM (
            SELECT state, due_at, verifying_since, due_at <= now() AND (lease_until IS NULL OR lease_until <= now()) AS overdue
            FROM unfinished
        ) AS judged
    )
    SELECT overdue, overdue_seconds, verifying, verifying_seconds,
           (SELECT count(*) FROM reservations WHERE doomed_at IS NULL) AS reservations,
           (SELECT count(*) FROM reservations WHERE doomed_at IS NOT NULL) AS doomed_reservations
    FROM work
"""


async def measure_backlog(database: Database) -> Backlog:
    return read_row(await database.fetchrow(MEASURE), Backlog)


PING: Final = "SELECT 1"


async def ping(database: Database) -> None:
    """Raises what the database raises when it is away."""
    await database.fetchval(PING)
