"""Statements of a claim: find due files, take them, extend the lease, release it.

All statements after the claim itself require the lease.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import msgspec

from service.model import Claim, State, Work
from service.queries.rows import Database, read_row

MOST_OWNERS: Final = 64
"""The number of owners that one statement finds for a kind of work."""


class DueWork(msgspec.Struct, frozen=True):
    """The next work of one kind.

    `due_in` is negative if a file is overdue. In that case `owners` has the next owners, in order,
    that have unfinished files of this kind. Not every one of them need have a due file.
    """

    work: Work
    due_in: timedelta
    owners: list[str]

    @property
    def is_due(self) -> bool:
        return self.due_in <= timedelta(0)


# An owner is found by one probe of an index, however many files the previous one has. The number of
# owners is bounded, so that one statement cannot take long. The next one goes on after the last.
# Large files come before small ones, because the slots for them are fewer.
#
# Rows are compared by (work, owner), because a comparison of `owner` alone could use another index
# and read the owner's files of every kind.
FIND_WORK: Final = """
    SELECT kinds.work, next.due_at - now() AS due_in,
           CASE WHEN next.due_at > now() THEN ARRAY[]::text[] ELSE ARRAY(
               WITH RECURSIVE owners (work, owner, found) AS (
                   (SELECT work, owner, 1 FROM files
                    WHERE work IS NOT NULL AND (work, owner) > (kinds.work, kinds.after)
                    ORDER BY work, owner LIMIT 1)
                   UNION ALL
                   SELECT following.work, following.owner, found + 1
                   FROM owners CROSS JOIN LATERAL (
                       SELECT work, owner FROM files
                       WHERE work IS NOT NULL AND (work, owner) > (owners.work, owners.owner)
                       ORDER BY work, owner LIMIT 1
                   ) AS following
                   WHERE owners.work = kinds.work AND found < $3
               ) SELECT owner FROM owners WHERE work = kinds.work ORDER BY owner
           ) END AS owners
    FROM unnest($1::text[], $2::text[]) AS kinds (work, after) CROSS JOIN LATERAL (
        SELECT due_at FROM files
        WHERE work = kinds.work AND (lease_until IS NULL OR lease_until < now())
        ORDER BY due_at LIMIT 1
    ) AS next
    ORDER BY kinds.work
"""


async def find_work(
    database: Database, kinds: Mapping[Work, str], *, most_owners: int = MOST_OWNERS
) -> list[DueWork]:
    """Return when the next file is due, and which owners wait, for each kind of work that exists.

    `kinds` gives the owner after which to begin for each kind. An empty string is before every
    owner.
    """
    rows = await database.fetch(FIND_WORK, [*kinds], [*kinds.values()], most_owners)
    return [read_row(row, DueWork) for row in rows]


# A claim does not change the state, nor any other column of an index, so that it is a
# heap-only-tuple update. `due_at` stays in the past: a file whose worker has died is due as soon as
# the lease has expired.
#
# The files of one owner are numbered from the number of files
# that the worker already holds for that owner, and lower numbers are claimed first. More files than
# slots are read for each owner, because other workers may have locked the first ones.
#
# Rows are found again by an array and not by a join, because the planner cannot estimate how few
# rows there are, and would read the whole table for a join.
CLAIM: Final = """
    WITH due AS (
        SELECT first.id, first.due_at,
               waiting.held + row_number() OVER (PARTITION BY waiting.owner
                                                 ORDER BY first.due_at) AS place
        FROM unnest($2::text[], $3::bigint[]) AS waiting (owner, held) CROSS JOIN LATERAL (
            SELECT id, due_at FROM files
            WHERE (SELECT agrees_with_vault($6)) AND work = $1 AND owner = waiting.owner
              AND due_at <= now() AND (lease_until IS NULL OR lease_until < now())
            ORDER BY due_at LIMIT 2 * $4::bigint
        ) AS first
    ), queue AS (
        SELECT array_agg(id ORDER BY place, due_at) AS ids FROM due
    ), chosen AS (
        -- Only what may have changed since the first read is compared again after the lock.
        SELECT id FROM files
        WHERE id = ANY ((SELECT ids FROM queue)::uuid[])
          AND due_at <= now() AND (lease_until IS NULL OR lease_until < now())
        ORDER BY array_position((SELECT ids FROM queue), id) LIMIT $4 FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE files SET lease = gen_random_uuid(), lease_until = now() + $5::interval,
                         attempts = attempts + 1
        WHERE id = ANY (ARRAY(SELECT id FROM chosen))
        RETURNING id, owner, filename, size, content_type, declared_sha256, incoming_key, state,
                  work, lease, lease_until, attempts, arrivals, grace_until <= now() AS grace_over,
                  last_error IS NOT NULL AS failed_before, failed_reads
    ), reservation AS (
        -- The same statement inserts the reservation, so that it exists before any object does.
        INSERT INTO reservations (vault_key, file_id, owner, lease, lease_until)
        SELECT gen_random_uuid(), id, owner, lease, lease_until FROM claimed
        RETURNING vault_key, file_id
    )
    SELECT id, owner, filename, size, content_type, declared_sha256, incoming_key, state, work,
           lease, vault_key, attempts, arrivals, grace_over, failed_before, failed_reads
    FROM claimed JOIN reservation ON file_id = id
"""


async def claim_files(
    database: Database,
    work: Work,
    slots: int,
    *,
    held: Mapping[str, int],
    lease: timedelta,
    counter: int,
) -> list[Claim]:
    """Claim up to `slots` due files with this kind of work, for the owners in `held`.

    Nothing is claimed if the database is behind the vault's `counter` (service/marker/__init__.py).
    `held` gives the number of files that the worker already holds for each owner. The owner with
    the fewest is served first.
    """
    rows = await database.fetch(CLAIM, work, [*held], [*held.values()], slots, lease, counter)
    return [read_row(row, Claim) for row in rows]


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


# The reservation can be deleted at once, for the same reason. The next claim copies the object.
ANNOUNCE: Final = """
    WITH reservation AS (
        DELETE FROM reservations
        WHERE vault_key = $1 AND lease = $2 AND doomed_at IS NULL RETURNING vault_key
    )
    UPDATE files
    SET state = 'verifying', changed_by = 'worker', changed_why = 'the worker found the upload',
        verifying_since = coalesce(verifying_since, now()), due_at = now(),
        lease = NULL, lease_until = NULL, last_error = NULL
    FROM reservation WHERE id = $3 AND lease = $2 AND state IN ('pending', 'verifying')
    RETURNING id
"""


async def announce_found(database: Database, claim: Claim) -> bool:
    """Give up a claim of a `pending` file whose object exists, and make the file due at once.

    The file's state becomes `verifying`. Return False if the claim is lost.
    """
    return await database.fetchval(ANNOUNCE, claim.vault_key, claim.lease, claim.id) is not None


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
