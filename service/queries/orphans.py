"""Statements of `assay scrub --orphans`, which finds objects that no row names.

A key is doomed by the insertion of a doomed reservation, as the sweeper expects it. No key is
doomed if the database is behind `counter`, that of the vault (service/marker/__init__.py).

The keys of a page are an array and not a join, because the planner cannot estimate how few there
are, and would read the whole table for a join.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg

from service.queries.reservations import give_up_named_keys
from service.queries.rows import Database

# A file may become final while its incoming object exists, so files of every state count. The keys
# between `$2` and `$3` that are named, or that the store does not list, are forgotten: if one of
# them is seen again, its age begins again.
NOTE_INCOMING: Final = """
    WITH named AS (
        SELECT incoming_key COLLATE "C" AS key FROM files WHERE incoming_key = ANY ($1::text[])
        UNION ALL
        SELECT scratch_key COLLATE "C" FROM reservations WHERE scratch_key = ANY ($1::text[])
    ), unnamed AS MATERIALIZED (
        SELECT key COLLATE "C" AS key FROM unnest($1::text[]) AS listed (key)
        WHERE key NOT IN (SELECT key FROM named)
    ), known AS (
        SELECT key, seen_at FROM incoming_orphans WHERE key = ANY ($1::text[])
    ), noted AS (
        INSERT INTO incoming_orphans (key) SELECT key FROM unnamed ON CONFLICT (key) DO NOTHING
    ), forgotten AS (
        DELETE FROM incoming_orphans
        WHERE key > $2 AND key <= $3 AND key NOT IN (SELECT key FROM unnamed)
    )
    SELECT key, coalesce(now() - seen_at, interval '0') AS age
    FROM unnamed LEFT JOIN known USING (key)
"""


async def note_incoming_orphans(
    database: Database, keys: Sequence[str], *, after: str, last: str
) -> dict[str, timedelta]:
    """Return those of the keys that no row names, and the time since they were first seen.

    `keys` are all that the store lists from `after`, which is not among them, to `last`.
    """
    rows = await database.fetch(NOTE_INCOMING, keys, after, last)
    return {row["key"]: row["age"] for row in rows}


FORGET_REST: Final = "DELETE FROM incoming_orphans WHERE key > $1"


async def forget_incoming_orphans(database: Database, *, after: str) -> None:
    """Forget the keys after the last one that the store lists."""
    await database.execute(FORGET_REST, after)


# No lock is needed. A row names an incoming key before its URL is handed out, and before a probe
# writes to it. So if no row names the key of an object that exists, no row will name it later.
# The age is compared again, because the database may have been restored after it was read.
DOOM_INCOMING: Final = """
    WITH doomed AS (
        INSERT INTO reservations (vault_key, scratch_key, lease, lease_until, doomed_at, sweep_at)
        SELECT gen_random_uuid(), key, gen_random_uuid(), now(), now(), now()
        FROM incoming_orphans
        WHERE key = ANY ($1::text[]) AND seen_at <= now() - $2::interval
          AND NOT EXISTS (SELECT FROM files WHERE incoming_key = incoming_orphans.key)
          AND (SELECT agrees_with_vault($3))
        ORDER BY key
        ON CONFLICT (scratch_key) WHERE scratch_key IS NOT NULL DO NOTHING
        RETURNING scratch_key
    )
    SELECT agrees_with_vault($3) AS agrees, ARRAY(SELECT scratch_key FROM doomed) AS doomed
"""


async def doom_incoming_keys(
    database: Database, keys: Sequence[str], *, grace: timedelta, counter: int
) -> set[str] | None:
    """Doom those of the keys that no row names and that were first seen at least `grace` ago.

    Return them, or None if the database does not agree with the vault.
    """
    row = await database.fetchrow(DOOM_INCOMING, keys, grace, counter)
    return set(row["doomed"]) if row["agrees"] else None


# A reservation of a vault key that was not reserved in advance names a file. An orphan's does not,
# because its file may have no row. An object whose metadata name an unproved or damaged file is
# spared, because `assay reconcile` might still adopt it.
#
# An adoption may name the key at the same time (service/queries/reconciling.py). It first inserts a
# reservation of the key. Its commit then deletes this reservation and inserts the file. Only one of
# the adoption and this statement inserts the reservation. But if the commit of the adoption ends
# after this statement has begun, the statement does not see the file, because its snapshot is
# older, and finds the key free, because an index has no snapshot. The insertion even waits for such
# a commit. `give_up_named_keys` therefore looks once more, in the same transaction.
#
# After the insertion, no adoption can begin: it finds the reservation, or waits for the end of this
# transaction. The sweeper cannot see the reservation before that.
DOOM_VAULT: Final = """
    WITH doomed AS (
        INSERT INTO reservations (vault_key, lease, lease_until, doomed_at, sweep_at)
        SELECT key, gen_random_uuid(), now(), now(), now()
        FROM unnest($1::uuid[], $2::uuid[]) AS orphans (key, file_id)
        WHERE NOT EXISTS (SELECT FROM files WHERE minio_object_name = orphans.key
                                              AND (state <> 'deleted' OR purge_at IS NOT NULL))
          AND NOT EXISTS (SELECT FROM files WHERE id = orphans.file_id
                                AND state IN ('pending', 'verifying', 'damaged'))
          AND (SELECT agrees_with_vault($3))
        ORDER BY key
        ON CONFLICT (vault_key) DO NOTHING
        RETURNING vault_key
    )
    SELECT agrees_with_vault($3) AS agrees, ARRAY(SELECT vault_key FROM doomed) AS doomed
"""


async def doom_vault_keys(
    pool: asyncpg.Pool, file_ids: dict[UUID, UUID], *, counter: int
) -> set[UUID] | None:
    """Doom those of the keys that no row names. `file_ids` has the file of each key.

    Return them, or None if the database does not agree with the vault.
    """
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="read_committed"),
    ):
        row = await connection.fetchrow(
            DOOM_VAULT, [*file_ids.keys()], [*file_ids.values()], counter
        )
        if not row["agrees"]:
            return None
        return set(row["doomed"]) - await give_up_named_keys(connection, row["doomed"])
