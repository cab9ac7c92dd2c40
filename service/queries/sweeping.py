"""Statements of the sweeper. Each batch is taken with SKIP LOCKED and pushed ahead, so any number of sweepers may run
and a row that cannot be cleaned blocks no other.

`files.sweep_at` and `files.purge_at` are set to the time of the commit that makes the file final.
What they announce is due SWEEP_DELAY after them. The delay is added here, by the only reader of
these columns, and not by each of the statements that commit. So the row is found by a range of its
partial index, and a new value of the setting takes effect at once, also for rows that are already
there. A retry is pushed ahead by five minutes less the delay, so that it comes after five minutes.
Reservations have no such delay: a commit that the database has lost leaves them undoomed.
"""

from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec

from service.queries.rows import Database, read_row


class DoomedReservation(msgspec.Struct, frozen=True):
    """A doomed vault key. `last`: it was swept before, COPY_GRACE ago, so no request to it can be under way and the row may go.

    `scratch_key` is the key in incoming that a probe of the store reserved with it.
    """

    vault_key: UUID
    upload_id: str | None
    scratch_key: str | None
    last: bool


class LeftKey(msgspec.Struct, frozen=True):
    """The incoming key of a final file, and the multipart upload that was begun for it."""

    id: UUID
    incoming_key: str
    upload_id: str | None


class DeletedObject(msgspec.Struct, frozen=True):
    """The vault object of a deleted file."""

    id: UUID
    minio_object_name: UUID


# Only its own worker dooms a reservation before its lease has ended.
DOOM_ENDED: Final = """
    UPDATE reservations SET doomed_at = now(), sweep_at = now() WHERE vault_key IN (
        SELECT vault_key FROM reservations WHERE doomed_at IS NULL AND lease_until < now()
        ORDER BY created_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ) RETURNING vault_key
"""


async def doom_ended_reservations(database: Database, limit: int) -> int:
    """Doom reservations whose lease has ended, and return how many."""
    return len(await database.fetch(DOOM_ENDED, limit))


CLAIM_DOOMED: Final = """
    UPDATE reservations SET sweep_at = now() + interval '5 minutes' WHERE vault_key IN (
        SELECT vault_key FROM reservations WHERE doomed_at IS NOT NULL AND sweep_at <= now()
        ORDER BY sweep_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ) RETURNING vault_key, upload_id, scratch_key, coalesce(swept_at + $2::interval <= now(), false) AS last
"""


async def claim_doomed_reservations(
    database: Database, limit: int, copy_grace: timedelta
) -> list[DoomedReservation]:
    """Take doomed reservations whose object is to be deleted now."""
    return [
        read_row(row, DoomedReservation)
        for row in await database.fetch(CLAIM_DOOMED, limit, copy_grace)
    ]


# COPY_GRACE counts from the first deletion, not from the doom: a deletion that comes late must not be the last one too.
KEEP_DOOMED: Final = """
    UPDATE reservations SET swept_at = coalesce(swept_at, now()), sweep_at = coalesce(swept_at, now()) + $2::interval
    WHERE vault_key = $1 AND doomed_at IS NOT NULL
"""


async def keep_doomed_reservation(
    database: Database, vault_key: UUID, copy_grace: timedelta
) -> None:
    """The object is deleted for the first time; a late request may still bring one."""
    await database.execute(KEEP_DOOMED, vault_key, copy_grace)


DROP_DOOMED: Final = "DELETE FROM reservations WHERE vault_key = $1 AND doomed_at IS NOT NULL"


async def drop_doomed_reservation(database: Database, vault_key: UUID) -> None:
    """Nothing lies under the key, and nothing can come."""
    await database.execute(DROP_DOOMED, vault_key)


CLAIM_INCOMING: Final = """
    UPDATE files SET sweep_at = now() + interval '5 minutes' - $2::interval WHERE id IN (
        SELECT id FROM files WHERE sweep_at <= now() - $2::interval ORDER BY sweep_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ) AND state NOT IN ('pending', 'verifying') AND incoming_key IS NOT NULL
    RETURNING id, incoming_key, upload_id
"""


async def claim_incoming_keys(database: Database, limit: int, delay: timedelta) -> list[LeftKey]:
    """Take final files whose incoming key is to be deleted now, `delay` after their `sweep_at`."""
    return [read_row(row, LeftKey) for row in await database.fetch(CLAIM_INCOMING, limit, delay)]


# Once, and again 1 h, 1 day and 7 days after the end: a PUT that began before its URL's end may finish hours later.
# A file that is final early has its URL open still; the next look comes after its end all the same.
MARK_INCOMING: Final = """
    UPDATE files
    SET sweeps = sweeps + 1,
        sweep_at = CASE sweeps WHEN 0 THEN greatest(grace_until, now()) + interval '1 hour'
                               WHEN 1 THEN greatest(grace_until, now()) + interval '1 day'
                               WHEN 2 THEN greatest(grace_until, now()) + interval '7 days' END
    WHERE id = ANY ($1::uuid[]) AND sweep_at IS NOT NULL
"""


async def mark_incoming_swept(database: Database, file_ids: list[UUID]) -> None:
    """The incoming keys of these files were deleted once more."""
    await database.execute(MARK_INCOMING, file_ids)


CLAIM_PURGES: Final = """
    UPDATE files SET purge_at = now() + interval '5 minutes' - $2::interval WHERE id IN (
        SELECT id FROM files WHERE purge_at <= now() - $2::interval ORDER BY purge_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ) AND state = 'deleted'
    RETURNING id, minio_object_name
"""


async def claim_deleted_objects(
    database: Database, limit: int, delay: timedelta
) -> list[DeletedObject]:
    """Take deleted files whose vault object is to be deleted now, `delay` after their `purge_at`."""
    return [
        read_row(row, DeletedObject) for row in await database.fetch(CLAIM_PURGES, limit, delay)
    ]


MARK_PURGED: Final = "UPDATE files SET purge_at = NULL WHERE id = $1 AND state = 'deleted'"


async def mark_purged(database: Database, file_id: UUID) -> None:
    """The vault object of a deleted file is gone."""
    await database.execute(MARK_PURGED, file_id)


# Only when nothing of them can lie in either bucket any more. Their history goes with them, and the horizon says how far it went; not
# before all of it lies below the oldest transaction that still runs, or the horizon were ahead of every reader that begins now.
FORGET_FILES: Final = """
    WITH forgotten AS (
        DELETE FROM files WHERE id IN (
            SELECT id FROM files
            WHERE state IN ('deleted', 'expired') AND final_at < now() - $2::interval AND sweep_at IS NULL AND purge_at IS NULL
              AND coalesce(history_xid < pg_snapshot_xmin(pg_current_snapshot()), true)
              AND NOT EXISTS (SELECT FROM reservations WHERE file_id = files.id)
            ORDER BY final_at LIMIT $1 FOR UPDATE SKIP LOCKED
        ) RETURNING id
    ), history AS (
        DELETE FROM file_history USING forgotten WHERE file_id = forgotten.id RETURNING xid, sequence
    ), last AS (
        SELECT xid, sequence FROM history ORDER BY xid DESC, sequence DESC LIMIT 1
    )
    UPDATE history_horizon SET xid = last.xid, sequence = last.sequence FROM last
    WHERE (history_horizon.xid, history_horizon.sequence) < (last.xid, last.sequence)
"""


async def forget_files(database: Database, limit: int, keep_rows: timedelta) -> None:
    """Drop the rows of files that are gone for longer than KEEP_ROWS, and their history."""
    await database.execute(FORGET_FILES, limit, keep_rows)


FORGET_KEYS: Final = """
    DELETE FROM idempotency_keys WHERE (owner, key) IN (
        SELECT owner, key FROM idempotency_keys WHERE created_at < now() - interval '24 hours'
          AND NOT EXISTS (SELECT FROM files WHERE id = file_id AND state IN ('pending', 'verifying'))
        ORDER BY created_at LIMIT $1 FOR UPDATE SKIP LOCKED
    )
"""


async def forget_idempotency_keys(database: Database, limit: int) -> None:
    """Drop keys that are older than 24 h and whose file is final."""
    await database.execute(FORGET_KEYS, limit)
