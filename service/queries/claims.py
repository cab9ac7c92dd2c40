"""Statements of a claim: take due files, extend the lease, give it back. All but the claim require the lease."""

from datetime import timedelta
from typing import Final

from service.model import Claim, State
from service.queries.rows import Database, read_row

# A claim changes no state. Each kind of file has a partial index of its own, so a claim reads no row of another kind. `due_at` moves with
# the lease: when the process dies, the file is due again at its end.
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
        -- By an array and not by a join: the planner does not know how few they are, and would read the whole table for a join.
        UPDATE files SET lease = gen_random_uuid(), lease_until = now() + $4::interval, due_at = now() + $4::interval,
                         attempts = attempts + 1
        WHERE id = ANY (ARRAY(SELECT id FROM large UNION ALL SELECT id FROM small UNION ALL SELECT id FROM unreadable))
        RETURNING id, owner, filename, size, content_type, declared_sha256, incoming_key, state, lease, lease_until,
                  attempts, arrivals, grace_until <= now() AS grace_over, last_error IS NOT NULL AS failed_before, failed_reads
    ), reservation AS (
        -- Written in the same statement, before anything can lie under its key.
        INSERT INTO reservations (vault_key, file_id, owner, lease, lease_until)
        SELECT gen_random_uuid(), id, owner, lease, lease_until FROM claimed
        RETURNING vault_key, file_id
    )
    SELECT id, owner, filename, size, content_type, declared_sha256, incoming_key, state, lease, vault_key, attempts, arrivals,
           grace_over, failed_before, failed_reads
    FROM claimed JOIN reservation ON file_id = id
"""


async def claim_files(
    database: Database, slots: int, *, large: int = 0, unreadable: int = 0, lease: timedelta
) -> list[Claim]:
    """Claim up to `slots` due files, at most `large` of them above 1 GiB.

    Claim up to `unreadable` files beside them of which a failed read of the incoming object was counted.
    """
    return [
        read_row(row, Claim) for row in await database.fetch(CLAIM, slots, large, unreadable, lease)
    ]


# Both tables' leases move in one statement, and neither without the other.
EXTEND: Final = """
    WITH reservation AS (
        SELECT vault_key FROM reservations WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL FOR UPDATE
    ), file AS (
        UPDATE files SET lease_until = now() + $4::interval FROM reservation
        WHERE id = $3 AND lease = $2 AND state IN ('pending', 'verifying')
        RETURNING lease_until
    )
    UPDATE reservations SET lease_until = file.lease_until FROM file WHERE vault_key = $1 RETURNING vault_key
"""


async def extend_lease(database: Database, claim: Claim, lease: timedelta) -> bool:
    """Keep the claim; False: it is lost."""
    return (
        await database.fetchval(EXTEND, claim.vault_key, claim.lease, claim.id, lease) is not None
    )


# Only while no copy request was sent: the reservation may go at once, because nothing can ever lie under its key.
# An arrival that came after the claim may speak of an object that the look just missed: then the file is due again at once.
RETURN: Final = """
    WITH reservation AS (
        DELETE FROM reservations WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL RETURNING vault_key
    )
    UPDATE files
    SET state = CASE WHEN arrivals = $4 THEN 'pending' ELSE state END,
        changed_by = 'worker', changed_why = 'nothing lies at its key',
        verifying_since = CASE WHEN arrivals <> $4 THEN verifying_since END,
        due_at = CASE WHEN arrivals = $4 THEN least(now() + $5::interval, greatest(grace_until, now() + interval '1 second'))
                      ELSE now() END,
        lease = NULL, lease_until = NULL, last_error = NULL
    FROM reservation WHERE id = $3 AND lease = $2 AND state IN ('pending', 'verifying')
    RETURNING state
"""


async def return_to_pending(database: Database, claim: Claim, next_look: timedelta) -> State | None:
    """Nothing was there: look again later. The state that the file has now; None: the claim is lost."""
    state = await database.fetchval(
        RETURN, claim.vault_key, claim.lease, claim.id, claim.arrivals, next_look
    )
    return state and State(state)


RELEASE: Final = """
    UPDATE files SET lease = NULL, lease_until = NULL, due_at = now() + $3::interval, last_error = $4
    WHERE id = $1 AND lease = $2 AND state IN ('pending', 'verifying')
    RETURNING id
"""


async def release_claim(
    database: Database, claim: Claim, *, retry_in: timedelta, error: str
) -> bool:
    """Give the lease back, with the reason; a new claim gets a new key."""
    return await database.fetchval(RELEASE, claim.id, claim.lease, retry_in, error) is not None


# How long a worker may sleep without a signal. A file with a live lease is under way already. A kind of file for which the worker has
# no free slot is no reason to wake.
NEXT_DUE: Final = """
    SELECT least(
        (SELECT due_at FROM files
         WHERE $1::boolean AND state IN ('pending', 'verifying') AND failed_reads = 0 AND size <= 1073741824
               AND (lease_until IS NULL OR lease_until < now())
         ORDER BY due_at LIMIT 1),
        (SELECT due_at FROM files
         WHERE $2::boolean AND state IN ('pending', 'verifying') AND failed_reads = 0 AND size > 1073741824
               AND (lease_until IS NULL OR lease_until < now())
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
    """Return the time until the next file of these kinds is due, negative if it is overdue; None if there is none."""
    delay: timedelta | None = await database.fetchval(NEXT_DUE, small, large, unreadable)
    return delay
