"""Statements of `assay inspect` and `assay doctor`: the whole row of a file, and the arrivals."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from service.model import RejectionReason, Sha256, State
from service.queries.rows import Database, read_row_if_any


class FileDiagnostics(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `files` with the columns that describe the work on it.

    `sweep_at` and `purge_at` include SWEEP_DELAY: they are the times at which the sweeper acts.
    `proved_at` and `checked_at` are NULL before the first scrub of the file. `last_change` is the
    reason of its last transition. `now` is the time of the statement by the database's clock.
    """

    id: UUID
    owner: str
    filename: str
    size: int
    content_type: str | None
    declared_sha256: Sha256 | None
    state: State
    hash: Sha256 | None
    minio_object_name: UUID | None
    rejection_reason: RejectionReason | None
    rejection_detail: str | None
    incoming_key: str | None
    part_size: int | None
    upload_id: str | None
    created_at: datetime
    expires_at: datetime
    grace_until: datetime
    final_at: datetime | None
    lease: UUID | None
    lease_until: datetime | None
    attempts: int
    arrivals: int
    due_at: datetime | None
    last_error: str | None
    failed_reads: int
    failed_reads_since: datetime | None
    sweep_at: datetime | None
    sweeps: int
    purge_at: datetime | None
    proved_at: datetime | None
    checked_at: datetime | None
    last_change: str | None
    now: datetime


DIAGNOSTICS: Final = """
    SELECT id, owner, filename, size, content_type, declared_sha256, state, hash, minio_object_name,
           rejection_reason, rejection_detail, incoming_key, part_size, upload_id, created_at,
           expires_at, grace_until, final_at, lease, lease_until, attempts, arrivals, due_at,
           last_error, failed_reads, failed_reads_since,
           sweep_at + $2::interval AS sweep_at, sweeps, purge_at + $2::interval AS purge_at,
           proved_at, checked_at,
           (SELECT why FROM file_history WHERE file_id = id ORDER BY sequence DESC LIMIT 1)
               AS last_change,
           now() AS now
    FROM files WHERE id = $1
"""


async def find_diagnostics(
    database: Database, file_id: UUID, *, sweep_delay: timedelta
) -> FileDiagnostics | None:
    return read_row_if_any(
        await database.fetchrow(DIAGNOSTICS, file_id, sweep_delay), FileDiagnostics
    )


# `arrivals` counts the store's events and the client's reports. If it is 0, a worker found the
# object by its own check. Only the newest rows are read, by the primary key (ids begin with the
# time), so that the statement is fast in a database of any size.
ANNOUNCEMENTS: Final = """
    SELECT count(*) AS judged, count(*) FILTER (WHERE arrivals = 0) AS unannounced FROM (
        SELECT state, final_at, incoming_key, arrivals FROM files ORDER BY id DESC LIMIT 10000
    ) AS newest
    WHERE final_at > now() - $1::interval AND state IN ('ready', 'rejected')
      AND incoming_key IS NOT NULL
"""


async def count_announcements(database: Database, within: timedelta) -> tuple[int, int]:
    """Count recent uploads, and those of them without an arrival report.

    The first number counts the files that became `ready` or `rejected` within this time, among the
    10,000 newest. The second counts those that neither the store nor the client had reported.
    """
    row = await database.fetchrow(ANNOUNCEMENTS, within)
    return row["judged"], row["unannounced"]


ARRIVALS: Final = "SELECT arrivals, state FROM files WHERE id = $1"


async def count_arrivals(database: Database, file_id: UUID) -> tuple[int, State] | None:
    """Return the number of arrivals of the file and its state, or None if there is no such file."""
    row = await database.fetchrow(ARRIVALS, file_id)
    return row and (row["arrivals"], State(row["state"]))
