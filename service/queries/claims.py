"""Statements of a claim: take due files, extend the lease, release it.

All statements but the claim itself require the lease.
"""

from datetime import timedelta
from typing import Final

from service.model import Claim, State
from service.queries.rows import Database, read_row

# A claim does not change the state. Each kind of file has its own partial index, so that a claim
# reads no rows of another kind. `due_at` is set to the expiry of the lease, so that the file is due
# again then if the process dies.
CLAIM: Final = """
    WITH large AS (
        SELECT id FROM files
        WHERE state IN ('pending', 'verifying') AND failed_reads = 0 AND size > 1073741824
          AND due_at <= now() AND (lease_until IS NULL OR lease_until < now())
        ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ), small AS (
        SELECT id FROM files
        WHERE state IN ('pending', 'verifying') AND failed_reads = 0 AND size <= 1073741824
          AND due_at <= now() AND (lease_until IS NULL OR lease_until < now())
        ORDER BY due_at LIMIT greatest($1 - (SELECT count(*) FROM large), 0) FOR UPDATE SKIP LOCKED
    ), unreadable AS (
        SELECT id FROM files
        WHERE state IN ('pending', 'verifying') AND failed_reads > 0
          AND due_at <= now() AND (lease_until IS NULL OR lease_until < now())
        ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED
    ), claimed AS (
        -- This is an array and not a join, because the planner cannot estimate how few rows there
        -- are, and would read the whole table for a join.
        UPDATE files SET lease = gen_random_uuid(), lease_until = now() + $4::interval,
                         due_at = now() + $4::interval, attempts = attempts + 1
        WHERE id = ANY (ARRAY(SELECT id FROM large UNION ALL SELECT id FROM small
                              UNION ALL SELECT id FROM unreadable))
        RETURNING id, owner, filename, size, content_type, declared_sha256, incoming_key, state,
                  lease, lease_until, attempts, arrivals, grace_until <= now() AS grace_over,
                  last_error IS NOT NULL AS failed_before, failed_reads
    ), reservation AS (
        -- The same statement inserts the reservation, so that it exists before any object does.
        INSERT INTO reservations (vault_key, file_id, owner, lease, lease_until)
        SELECT gen_random_uuid(), id, owner, lease, lease_until FROM claimed
        RETURNING vault_key, file_id
    )
    SELECT id, owner, filename, size, content_type, declared_sha256, incoming_key, state, lease,
           vault_key, attempts, arrivals, grace_over, failed_before, failed_reads
    FROM claimed JOIN reservation ON file_id = id
"""


async def claim_files(
    database: Database, slots: int, *, large: int = 0, unreadable: int = 0, lease: timedelta
) -> list[Claim]:
    """Claim up to `slots` due files, at most `large` of them above 1 GiB.

    Also claim up to `unreadable` files for which failed reads of the incoming object are counted.
    They do not count towards `slots`.
    """
    return [
        read_row(row, Claim) for row in await database.fetch(CLAIM, slots, large, unreadable, lease)
    ]


# One statement extends the lease in both tables, or in neither.
EXTEND: Final = """
    WITH reservation AS (
        SELECT vault_key FROM reservations
        WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL FOR UPDATE
    ), file AS (
        UPDATE files SET lease_until = now() + $4::interval FROM reservation
        WHERE id = $3 AND lease = $2 AND state IN ('pending', 'verifying')
        RETURNING lease_until
    )
    UPDATE reservations SET lease_until = file.lease_until FROM file
    WHERE vault_key = $1 RETURNING vault_key
"""


async def extend_lease(database: Database, claim: Claim, lease: timedelta) -> bool:
    """Extend the lease of the claim. Return False if the claim is lost."""
    return (
        await database.fetchval(EXTEND, claim.vault_key, claim.lease, claim.id, lease) is not None
    )


# This runs only if no copy request was sent. The reservation can then be deleted at once, because
# no object can ever exist under its key. An arrival recorded after the claim may report an object
# that was stored just after the check. In that case the file is due again at once.
RETURN: Final = """
    WITH reservation AS (
        DELETE FROM reservations
        WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL RETURNING vault_key
    )
    UPDATE files
    SET state = CASE WHEN arrivals = $4 THEN 'pending' ELSE state END,
        changed_by = 'worker', changed_why = 'the store has no object for the file',
        verifying_since = CASE WHEN arrivals <> $4 THEN verifying_since END,
        due_at = CASE WHEN arrivals = $4
                      THEN least(now() + $5::interval,
                                 greatest(grace_until, now() + interval '1 second'))
                      ELSE now() END,
        lease = NULL, lease_until = NULL, last_error = NULL
    FROM reservation WHERE id = $3 AND lease = $2 AND state IN ('pending', 'verifying')
    RETURNING state
"""


async def return_to_pending(database: Database, claim: Claim, next_look: timedelta) -> State | None:
    """Give up a claim whose file has no object in the store, and return the file's new state.

    The file goes back to `pending` and is due again after `next_look`, or when its grace period
    ends if that comes first. If an arrival was recorded after the claim, the state does not change
    and the file is due at once. Return None if the claim is lost.
    """
    state = await database.fetchval(
        RETURN, claim.vault_key, claim.lease, claim.id, claim.arrivals, next_look
    )
    return state and State(state)


RELEASE: Final = """
    UPDATE files
    SET lease = NULL, lease_until = NULL, due_at = now() + $3::interval, last_error = $4
    WHERE id = $1 AND lease = $2 AND state IN ('pending', 'verifying')
    RETURNING id
"""


async def release_claim(
    database: Database, claim: Claim, *, retry_in: timedelta, error: str
) -> bool:
    """Release the lease and record the error. Return False if the claim was already lost.

    The reservation is not touched, because the next claim uses a new key.
    """
    return await database.fetchval(RELEASE, claim.id, claim.lease, retry_in, error) is not None


# A worker sleeps for this time unless it is notified. Files with a live lease are left out, and so
# are the kinds of files for which the worker has no free slot.
NEXT_DUE: Final = """
    SELECT least(
        (SELECT due_at FROM files
         WHERE $1::boolean AND state IN ('pending', 'verifying') AND failed_reads = 0
               AND size <= 1073741824 AND (lease_until IS NULL OR lease_until < now())
         ORDER BY due_at LIMIT 1),
        (SELECT due_at FROM files
         WHERE $2::boolean AND state IN ('pending', 'verifying') AND failed_reads = 0
               AND size > 1073741824 AND (lease_until IS NULL OR lease_until < now())
         ORDER BY due_at LIMIT 1),
        (SELECT due_at FROM files
         WHERE $3::boolean AND state IN ('pending', 'verifying') AND failed_reads > 0
               AND (lease_until IS NULL OR lease_until < now())
         ORDER BY due_at LIMIT 1)
    ) - now()
"""


async def find_next_due(
    database: Database, *, small: bool, large: bool, unreadable: bool
) -> timedelta | None:
    """Return the time until the next file of these kinds is due, or None if there is none.

    The time is negative if a file is overdue.
    """
    delay: timedelta | None = await database.fetchval(NEXT_DUE, small, large, unreadable)
    return delay
