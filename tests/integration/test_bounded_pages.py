"""The number of rows that a page reads. It must not depend on what the planner believes.

The statements are run as they are, but with their bound of 10,000 rows lowered to 500. Half of the
files belong to one owner.
"""

import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
import pytest

from service.database import open_pool
from service.files.pagination import SHOWN_STATES, list_page
from service.model import Sha256, State
from service.queries import history, listing, plans, sweeping
from service.queries.history import Position
from service.queries.listing import Filters
from service.resources import Resources
from service.settings import Count, DatabaseSettings, DatabaseUrl, Secret

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

ROWS: Final = 24_000
BOUND: Final = 500
NEWEST: Final = UUID(int=2**128 - 1)
NUMBERS: Final = {"10000": str(BOUND), "10001": str(BOUND + 1), "9999": str(BOUND - 1)}
SHOWN: Final = "'{damaged,pending,ready,rejected,verifying}'"

# Ids and times follow the numbers, as those of real files do. Owner `big` has every other file. Of
# its files, each hundredth is rejected, and each tenth is deleted. Forty files have one digest.
FILL: Final = """
    INSERT INTO files (id, owner, filename, size, content_type, metadata, state, hash,
                       minio_object_name, vault_etag, upload_date, rejection_reason,
                       rejection_detail, created_at, expires_at, grace_until, final_at, changed_by)
    SELECT (lpad(to_hex(n), 12, '0') || '70008' || lpad(to_hex(n), 15, '0'))::uuid,
           CASE n % 2 WHEN 0 THEN 'big' ELSE 'small-' || n % 100 END, 'doc-' || n, 1,
           CASE n % 3 WHEN 0 THEN 'image/jpeg' END, '{}', state,
           CASE WHEN state <> 'rejected' THEN sha256((n / 80)::text::bytea) END,
           CASE WHEN state <> 'rejected' THEN gen_random_uuid() END,
           CASE WHEN state <> 'rejected' THEN 'e' END,
           CASE WHEN state <> 'rejected' THEN now() END,
           CASE WHEN state = 'rejected' THEN 'unverifiable' END,
           CASE WHEN state = 'rejected' THEN 'no' END,
           '2026-01-01Z'::timestamptz + n * interval '1 second', now(), now(), now(), 'client'
    FROM (
        SELECT n, CASE WHEN n % 200 < 2 THEN 'rejected' WHEN n % 20 < 2 THEN 'deleted'
                       ELSE 'ready' END AS state
        FROM generate_series($1::bigint, $2::bigint) AS n
    ) AS made
"""


def lower(statement: str) -> str:
    """Return the statement with its bound lowered to BOUND."""
    lowered = statement
    for number, lower_number in NUMBERS.items():
        lowered = lowered.replace(f" {number}", f" {lower_number}")
    return lowered


async def fill(connection: asyncpg.Connection, first: int, last: int) -> None:
    await connection.execute(FILL, first, last, timeout=120)  # a trigger runs for each row


async def keep_statistics(connection: asyncpg.Connection) -> None:
    """Keep the server from collecting statistics by itself."""
    for table in ("files", "file_history"):
        await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")


# Plans


def page(
    owner: str = "big",
    *,
    before: UUID = NEWEST,
    states: str = SHOWN,
    content_type: str = "NULL",
    hash: str = "NULL",
    names: str = "NULL, NULL",
) -> str:
    """Return the parameters of a page of 10 files."""
    return f"'{owner}', '{before}', 11, {states}, {content_type}, NULL, NULL, {hash}, {names}"


PAGE: Final = "text, uuid, bigint, text[], text, timestamptz, timestamptz, bytea, text, text"
DEEP: Final = UUID("00000000-0200-7000-8000-000000000000")
FILE: Final = UUID(f"{500:012x}70008{500:015x}")  # the file `doc-500`
NAMES: Final = "'doc-77', 'doc-78'"  # 55 names of `big`
ALL_NAMES: Final = "'doc-', 'doc.'"
HASH: Final = "sha256('100')"

READS: Final = {
    # name: (statement, the types and the values of its parameters, the most rows it may read)
    "the first page": (listing.BY_ID, PAGE, page(), 20),
    "a deep page": (listing.BY_ID, PAGE, page(before=DEEP), 20),
    "a page of a small owner": (listing.BY_ID, PAGE, page("small-7"), 20),
    "a page of an unknown owner": (listing.BY_ID, PAGE, page("none"), 0),
    "a page of a rare type": (listing.BY_ID, PAGE, page(content_type="'a/b'"), BOUND),
    "a page of two states": (listing.BY_ID, PAGE, page(states="'{rejected,expired}'"), BOUND),
    "rejected files": (listing.BY_STATE, PAGE, page(states="'{rejected}'"), 11),
    "expired files": (listing.BY_STATE, PAGE, page(states="'{expired}'"), 0),
    "deleted files of a rare type": (
        listing.BY_STATE,
        PAGE,
        page(states="'{deleted}'", content_type="'a/b'"),
        BOUND,
    ),
    "files with a digest": (listing.BY_HASH, PAGE, page(hash=HASH), 20),
    "few names": (listing.BY_FILENAME, PAGE, page(names=NAMES), 55 + 20),
    "few names before a deep cursor": (
        listing.BY_FILENAME,
        PAGE,
        page(before=DEEP, names=NAMES),
        55 + 20,
    ),
    "all names": (listing.BY_FILENAME, PAGE, page(names=ALL_NAMES), BOUND + 20),
    "all names of a rare type": (
        listing.BY_FILENAME,
        PAGE,
        page(names=ALL_NAMES, content_type="'a/b'"),
        2 * BOUND,
    ),
    "the number of names": (
        listing.COUNT_NAMES,
        "text, text, text",
        f"'big', {ALL_NAMES}",
        BOUND + 1,
    ),
    "the end of a page": (listing.READ_END, "text, uuid", f"'big', '{NEWEST}'", BOUND),
    "the end of a page of a state": (
        listing.READ_END_BY_STATE,
        "text, uuid, text",
        f"'big', '{NEWEST}', 'deleted'",
        BOUND,
    ),
    "the end of a page of a digest": (
        listing.READ_END_BY_HASH,
        "text, uuid, bytea",
        f"'big', '{NEWEST}', {HASH}",
        40,
    ),
    "the history of a file": (
        history.LIST,
        "uuid",
        f"'{FILE}'",
        1,
    ),
    "the events of an owner": (
        history.READ_OWNER,
        "xid8, bigint, text, bigint",
        "'0', 5, 'small-1', 11",
        2 * 11,
    ),
    "the events of a file": (
        history.READ_FILE,
        "xid8, bigint, uuid, bigint",
        f"'0', 5, '{FILE}', 11",
        2,
    ),
    "the events of all": (
        history.READ_ALL,
        "xid8, bigint, text[], bigint",
        "'0', 5, '{big}', 11",
        40,
    ),
    "the events of an unknown owner": (
        history.READ_ALL,
        "xid8, bigint, text[], bigint",
        "'0', 5, '{none}', 11",
        BOUND,
    ),
    "the end of the events": (history.READ_END, "xid8, bigint", "'0', 5", BOUND),
}


async def prepare(connection: asyncpg.Connection) -> None:
    for number, (statement, types, _, _) in enumerate(READS.values()):
        await connection.execute(f"PREPARE read_{number} ({types}) AS {lower(statement)}")


async def find_unbounded(connection: asyncpg.Connection, mode: str) -> dict[str, tuple[int, int]]:
    """Return the reads that are above their bound: the rows that they read, and the blocks.

    A block is 8 KiB. A bounded read that returns a page needs few of them.
    """
    found = {}
    for number, (name, (_, _, values, most)) in enumerate(READS.items()):
        async with connection.transaction():
            await connection.execute(plans.READ_IN_ORDER)
            await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
            plan = await explain(connection, f"read_{number} ({values})")
        rows, blocks = count_rows(plan), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        if rows > most or blocks > 100 + 3 * most:
            found[name] = (rows, blocks)
    return found


async def explain(connection: asyncpg.Connection, call: str) -> dict[str, Any]:
    """Run a prepared statement, and return its plan with the numbers of rows and blocks."""
    explained = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {call}")
    plan: dict[str, Any] = json.loads(explained)[0]["Plan"]
    return plan


def count_rows(plan: dict[str, Any]) -> int:
    """Return how many rows of tables the plan has read, whether or not they matched."""
    rows: float = sum(
        node["Actual Loops"]
        * (
            node["Actual Rows"]
            + node.get("Rows Removed by Filter", 0)
            + node.get("Rows Removed by Index Recheck", 0)
        )
        for node in list_nodes(plan)
        if "Relation Name" in node
    )
    return round(rows)


def list_nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the node of a plan and all nodes below it."""
    yield plan
    for below in plan.get("Plans", []):
        yield from list_nodes(below)


async def test_a_page_is_bounded_with_and_without_statistics(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as early, pool.acquire() as connection:
        await keep_statistics(connection)
        for one in (early, connection):
            await prepare(one)
        # A generic plan is made once. This one is made for an empty table.
        await find_unbounded(early, "force_generic_plan")
        await fill(connection, 1, ROWS)
        assert await find_unbounded(early, "force_generic_plan") == {}
        for mode in ("force_custom_plan", "force_generic_plan"):
            assert await find_unbounded(connection, mode) == {}
        await connection.execute("ANALYZE files, file_history")
        for mode in ("force_custom_plan", "force_generic_plan"):
            assert await find_unbounded(connection, mode) == {}


async def test_a_page_is_bounded_with_statistics_of_another_table(pool: asyncpg.Pool) -> None:
    """Collect the statistics when the table has a single owner."""
    async with pool.acquire() as connection:
        await keep_statistics(connection)
        await fill(connection, 2, 3)
        await connection.execute("UPDATE files SET owner = 'big'")
        await connection.execute("UPDATE file_history SET owner = 'big'")
        await connection.execute("ANALYZE files, file_history")
        await fill(connection, 4, ROWS)
        await prepare(connection)
        for mode in ("force_custom_plan", "force_generic_plan"):
            assert await find_unbounded(connection, mode) == {}


BATCHES: Final = {
    sweeping.CLAIM_INCOMING: "10, '0 s', 0",
    sweeping.CLAIM_PURGES: "10, '0 s', 0",
}


async def test_a_batch_of_the_sweeper_reads_no_other_rows(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        await keep_statistics(connection)
        await fill(connection, 1, ROWS)
        await connection.execute(
            """
            UPDATE files SET incoming_key = id, sweep_at = now(), purge_at = now()
            WHERE state = 'deleted' AND owner = 'big'
            """
        )
        await connection.execute("ANALYZE files, file_history")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        for number, (statement, values) in enumerate(BATCHES.items()):
            await connection.execute(
                f"PREPARE batch_{number} (bigint, interval, bigint) AS {statement}"
            )
            plan = await explain(connection, f"batch_{number} ({values})")
            assert 0 < count_rows(plan) <= 40, statement


# Requests


STATES: Final = (SHOWN_STATES, (State.REJECTED,), (State.DELETED, State.REJECTED))
DIGESTS: Final = (None, Sha256(hashlib.sha256(b"20").digest()))
FILENAMES: Final = (None, "doc-*", "doc-17*", "doc-1700", "none*")
TYPES: Final = (None, "image/jpeg", "a/b")
HALF: Final = datetime(2026, 1, 1, 0, 30, tzinfo=UTC)
TIMES: Final = ((None, None), (HALF, None), (None, HALF))

MATCHING: Final = """
    SELECT id FROM files
    WHERE owner = 'big' AND state = ANY ($1::text[]) AND ($2::bytea IS NULL OR hash = $2)
      AND ($3::text IS NULL OR filename LIKE $3)
      AND ($4::text IS NULL OR coalesce(content_type, 'application/octet-stream') = $4)
      AND ($5::timestamptz IS NULL OR created_at > $5)
      AND ($6::timestamptz IS NULL OR created_at < $6)
    ORDER BY id DESC
"""
ROWS_READ: Final = """
    SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)
           + (SELECT sum(seq_tup_read) FROM pg_stat_user_tables)
"""


@pytest.fixture
async def one_connection(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[asyncpg.Pool]:
    """Yield a pool whose only connection uses generic plans, and lower the bounds."""
    for module in (listing, history):
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, str):
                monkeypatch.setattr(module, name, lower(value))
    monkeypatch.setattr(listing, "MOST_ROWS_READ", BOUND)
    pool = await open_pool(
        DatabaseSettings(
            database_url=DatabaseUrl(Secret(database_url)), database_pool_size=Count(1)
        )
    )
    async with pool:
        await pool.execute("SET plan_cache_mode = force_generic_plan")
        async with pool.acquire() as connection:
            await keep_statistics(connection)
            await fill(connection, 1, 6000)
        yield pool


async def count_rows_read(pool: asyncpg.Pool) -> int:
    """Return how many rows this database's sessions have read so far, by the server's counters."""
    await pool.execute("SELECT pg_stat_force_next_flush()")
    return int(await pool.fetchval(ROWS_READ))


async def test_pages_of_every_filter_are_bounded_and_complete(
    one_connection: asyncpg.Pool, resources: Resources
) -> None:
    """Follow the cursors to the end, and compare the files with those of one plain statement."""
    pool, most = one_connection, 0
    here = msgspec.structs.replace(resources, pool=pool)
    for states, digest, filename, content_type, (after, before) in itertools.product(
        STATES, DIGESTS, FILENAMES, TYPES, TIMES
    ):
        chosen: dict[str, Any] = {
            "states": states,
            "hash": digest,
            "filename": filename,
            "content_type": content_type,
            "created_after": after,
            "created_before": before,
        }
        assert {*chosen} == {*Filters.__struct_fields__}
        filters = Filters(**chosen)
        found: list[UUID] = []
        cursor, more, counted = None, True, await count_rows_read(pool)
        while more:
            page = await list_page(here, "big", filters, cursor=cursor, limit=300)
            found += [file.id for file in page.files]
            now = await count_rows_read(pool)
            most, counted = max(most, now - counted), now
            cursor, more = page.next, page.next is not None
        wanted = await pool.fetch(
            MATCHING,
            [str(state) for state in states],
            digest and digest.digest,
            filename and filename.replace("*", "%"),
            content_type,
            after,
            before,
        )
        assert found == [row["id"] for row in wanted], filters
    # The names are counted, the rows are read, and the last of them is found.
    assert BOUND < most <= 3 * BOUND + 1


async def test_a_feed_reads_bounded_pages_and_misses_nothing(one_connection: asyncpg.Pool) -> None:
    pool, at, more, most, pages = one_connection, Position(0, 0), True, 0, 0
    found: list[UUID] = []
    before = await count_rows_read(pool)
    while more:
        read = await history.read_all(pool, at, ["small-1"], limit=50)
        after = await count_rows_read(pool)
        found += [one.file_id for one in read.transitions]
        most, before, pages = max(most, after - before), after, pages + 1
        at, more = read.end, read.more
    wanted = await pool.fetch("SELECT id FROM files WHERE owner = 'small-1' ORDER BY id")
    assert found == [row["id"] for row in wanted]
    assert pages == 6000 // BOUND + 1
    # The transitions are read with their files, and the last of them is found.
    assert BOUND < most <= 2 * BOUND + 50
