"""Statements of the sweeper.

Each statement that takes leftovers takes none if the database is behind `counter`, that of the
vault (service/marker/__init__.py).

Each batch is taken with SKIP LOCKED, and its rows are postponed. Any number of sweepers may
therefore run at once, and a row that cannot be cleaned up blocks no other row. A batch of files or
reservations is an array and not a join, because the planner cannot estimate how few there are, and
would read the whole table for a join.

An incoming key is deleted four times. Taking it for one of the first three deletions already sets
the time of the next one, so that a deletion that succeeds needs no second update. If the process
dies in between, the object stays until the next deletion. The last deletion is recorded only
afterwards, because no other follows.

The commit that makes a file final sets `files.sweep_at` or `files.purge_at` to its own time, and
the work is due SWEEP_DELAY after that. The delay is added here, by the only reader of these
columns, and not by each statement that commits. The rows are thus found through a range of a
partial index, and a new value of the setting takes effect at once, for existing rows as well. A row
that is to be retried is postponed by five minutes less the delay, so that the retry comes after
five minutes. Reservations have no such delay, because a reservation whose commit the database has
lost is not doomed. The old key of a damaged file is an exception: the commit that dooms it adds the
delay (service/queries/mending.py).
"""

from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec

from service.queries.rows import Database, read_row


class DoomedReservation(msgspec.Struct, frozen=True):
    """A doomed vault key.

    `last` is true if the object was first deleted at least COPY_GRACE ago. From then on, no request
    can write to the key, and the row is deleted after this deletion. `scratch_key` is the key in
    incoming, if the reservation is that of a probe of the store.
    """

    vault_key: UUID
    upload_id: str | None
    scratch_key: str | None
    last: bool


class LeftKey(msgspec.Struct, frozen=True):
    """The incoming key of a final file, and its multipart upload if it has one.

    `last` is true if no deletion follows the one for which the key was taken.
    """

    id: UUID
    incoming_key: str
    upload_id: str | None
    last: bool


class DeletedObject(msgspec.Struct, frozen=True):
    """The vault object of a deleted file."""

    id: UUID
    minio_object_name: UUID


# Before its lease has expired, a reservation is doomed only by the process that holds it.
DOOM_ENDED: Final = """
    UPDATE reservations SET doomed_at = now(), sweep_at = now() WHERE vault_key = ANY (ARRAY(
        SELECT vault_key FROM reservations WHERE doomed_at IS NULL AND lease_until < now()
          AND (SELECT agrees_with_vault($2))
        ORDER BY created_at LIMIT $1 FOR UPDATE SKIP LOCKED
    )) RETURNING vault_key
"""


async def doom_ended_reservations(database: Database, limit: int, *, counter: int) -> int:
    """Doom reservations whose lease has expired, and return how many."""
    return len(await database.fetch(DOOM_ENDED, limit, counter))


CLAIM_DOOMED: Final = """
    UPDATE reservations SET sweep_at = now() + interval '5 minutes' WHERE vault_key = ANY (ARRAY(
        SELECT vault_key FROM reservations WHERE doomed_at IS NOT NULL AND sweep_at <= now()
          AND (SELECT agrees_with_vault($3))
        ORDER BY sweep_at LIMIT $1 FOR UPDATE SKIP LOCKED
    )) RETURNING vault_key, upload_id, scratch_key,
                coalesce(swept_at + $2::interval <= now(), false) AS last
"""


async def claim_doomed_reservations(
    database: Database, limit: int, copy_grace: timedelta, *, counter: int
) -> list[DoomedReservation]:
    """Take at most `limit` doomed reservations that are due.

    The caller must delete the objects at their keys.
    """
    return [
        read_row(row, DoomedReservation)
        for row in await database.fetch(CLAIM_DOOMED, limit, copy_grace, counter)
    ]


# COPY_GRACE begins with the first deletion, not when the reservation is doomed. Otherwise a first
# deletion that comes late would also be the last one.
KEEP_DOOMED: Final = """
    UPDATE reservations
    SET swept_at = coalesce(swept_at, now()), sweep_at = coalesce(swept_at, now()) + $2::interval
    WHERE vault_key = $1 AND doomed_at IS NOT NULL
"""


async def keep_doomed_reservation(
    database: Database, vault_key: UUID, copy_grace: timedelta
) -> None:
    """Record the first deletion of the object. A late request may still create it again."""
    await database.execute(KEEP_DOOMED, vault_key, copy_grace)


DROP_DOOMED: Final = "DELETE FROM reservations WHERE vault_key = $1 AND doomed_at IS NOT NULL"


async def drop_doomed_reservation(database: Database, vault_key: UUID) -> None:
    """Delete a doomed reservation under whose key no object exists and none can appear."""
    await database.execute(DROP_DOOMED, vault_key)


# The incoming key is deleted again 1 h, 1 day and 7 days after the end of the grace period, because
# a PUT that began before its URL expired may end hours later. A file may become final while its URL
# is still valid, so the first of these deletions never comes before the end of the grace period.
CLAIM_INCOMING: Final = """
    UPDATE files
    SET sweeps = least(sweeps + 1, 4),
        sweep_at = CASE sweeps WHEN 0 THEN greatest(grace_until, now()) + interval '1 hour'
                               WHEN 1 THEN greatest(grace_until, now()) + interval '1 day'
                               WHEN 2 THEN greatest(grace_until, now()) + interval '7 days'
                               ELSE now() + interval '5 minutes' - $2::interval END
    WHERE id = ANY (ARRAY(
        SELECT id FROM files
        WHERE sweep_at <= now() - $2::interval AND (SELECT agrees_with_vault($3))
        ORDER BY sweep_at LIMIT $1 FOR UPDATE SKIP LOCKED
    )) AND state NOT IN ('pending', 'verifying') AND incoming_key IS NOT NULL
    RETURNING id, incoming_key, upload_id, sweeps = 4 AS last
"""


async def claim_incoming_keys(
    database: Database, limit: int, delay: timedelta, *, counter: int
) -> list[LeftKey]:
    """Take at most `limit` final files whose `sweep_at` is at least `delay` ago.

    The caller must delete the objects at their incoming keys.
    """
    rows = await database.fetch(CLAIM_INCOMING, limit, delay, counter)
    return [read_row(row, LeftKey) for row in rows]


# A file that its owner has deleted meanwhile is due at once, and is not changed.
KEEP_INCOMING: Final = """
    UPDATE files SET sweeps = sweeps - 1, sweep_at = now() + interval '5 minutes' - $2::interval
    WHERE id = ANY ($1::uuid[]) AND sweeps > 0
"""


async def keep_incoming_keys(database: Database, file_ids: list[UUID], delay: timedelta) -> None:
    """Record that the incoming keys of these files were not deleted. They are due in five
    minutes.
    """
    await database.execute(KEEP_INCOMING, file_ids, delay)


END_INCOMING: Final = """
    UPDATE files SET sweep_at = NULL WHERE id = ANY ($1::uuid[]) AND sweeps = 4
"""


async def end_incoming_sweeps(database: Database, file_ids: list[UUID]) -> None:
    """Record that the incoming keys of these files were deleted for the last time."""
    await database.execute(END_INCOMING, file_ids)


CLAIM_PURGES: Final = """
    UPDATE files SET purge_at = now() + interval '5 minutes' - $2::interval WHERE id = ANY (ARRAY(
        SELECT id FROM files
        WHERE purge_at <= now() - $2::interval AND (SELECT agrees_with_vault($3))
        ORDER BY purge_at LIMIT $1 FOR UPDATE SKIP LOCKED
    )) AND state = 'deleted'
    RETURNING id, minio_object_name
"""


async def claim_deleted_objects(
    database: Database, limit: int, delay: timedelta, *, counter: int
) -> list[DeletedObject]:
    """Take at most `limit` deleted files whose `purge_at` is at least `delay` ago.

    The caller must delete their vault objects.
    """
    rows = await database.fetch(CLAIM_PURGES, limit, delay, counter)
    return [read_row(row, DeletedObject) for row in rows]


MARK_PURGED: Final = "UPDATE files SET purge_at = NULL WHERE id = $1 AND state = 'deleted'"


async def mark_purged(database: Database, file_id: UUID) -> None:
    """Record that the vault object of a deleted file no longer exists."""
    await database.execute(MARK_PURGED, file_id)


# Only files that can no longer have an object in either bucket are deleted. Their history is
# deleted with them, and the horizon of each owner moves to the last row. All of their history must
# be older than the oldest running transaction. Otherwise the horizon would be ahead of the position
# at which readers begin. Concurrent sweepers lock the horizons in the order of the owners.
FORGET_FILES: Final = """
    WITH forgotten AS (
        DELETE FROM files WHERE id = ANY (ARRAY(
            SELECT id FROM files
            WHERE state IN ('deleted', 'expired') AND final_at < now() - $2::interval
              AND sweep_at IS NULL AND purge_at IS NULL
              AND coalesce(history_xid < pg_snapshot_xmin(pg_current_snapshot()), true)
              AND NOT EXISTS (SELECT FROM reservations WHERE file_id = files.id)
            ORDER BY final_at LIMIT $1 FOR UPDATE SKIP LOCKED
        )) RETURNING id
    ), history AS (
        DELETE FROM file_history WHERE file_id = ANY (ARRAY(SELECT id FROM forgotten))
        RETURNING owner, xid, sequence
    )
    INSERT INTO history_horizons AS known (owner, xid, sequence)
    SELECT DISTINCT ON (owner) owner, xid, sequence FROM history
    ORDER BY owner, xid DESC, sequence DESC
    ON CONFLICT (owner) DO UPDATE SET xid = excluded.xid, sequence = excluded.sequence
    WHERE (known.xid, known.sequence) < (excluded.xid, excluded.sequence)
"""


async def forget_files(database: Database, limit: int, keep_rows: timedelta) -> None:
    """Delete at most `limit` rows of files that have been gone for longer than `keep_rows`.

    Their history is deleted as well.
    """
    await database.execute(FORGET_FILES, limit, keep_rows)


FORGET_KEYS: Final = """
    DELETE FROM idempotency_keys WHERE (owner, key) IN (
        SELECT owner, key FROM idempotency_keys WHERE created_at < now() - interval '24 hours'
          AND NOT EXISTS (SELECT FROM files
                          WHERE id = file_id AND state IN ('pending', 'verifying'))
        ORDER BY created_at LIMIT $1 FOR UPDATE SKIP LOCKED
    )
"""


async def forget_idempotency_keys(database: Database, limit: int) -> None:
    """Delete at most `limit` keys that are older than 24 h and whose file is final."""
    await database.execute(FORGET_KEYS, limit)
