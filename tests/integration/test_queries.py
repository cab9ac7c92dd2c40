"""The SQL statements of the service, run on a real PostgreSQL."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from service.model import (
    Claim,
    File,
    Rejection,
    RejectionReason,
    Sha256,
    State,
    Work,
    make_id,
)
from service.queries import claims, files, listing, reservations, sweeping, verdicts
from tests.support.claims import EVERY_KIND, claim_files
from tests.support.objects import key_of
from tests.support.rows import (
    DIGEST,
    LEASE,
    OTHER,
    claim_row,
    commit_row,
    declare_row,
    make_declaration,
)

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

AT_ONCE = timedelta(0)
NONE_BEFORE = UUID(int=2**128 - 1)
THIRD = Sha256(bytes(31) + b"\x02")
FILE_ID = make_id()


async def count(pool: asyncpg.Pool, statement: str) -> int:
    found: int = await pool.fetchval(statement)
    return found


async def test_a_declared_file_is_pending_and_found_only_by_its_owner(pool: asyncpg.Pool) -> None:
    file = await declare_row(pool, make_declaration(metadata={"a": "b"}))
    assert file.state == State.PENDING
    assert file.metadata == {"a": "b"}
    assert await files.find_file(pool, file.id, owner="ann") == file
    assert await files.find_file(pool, file.id, owner="bob") is None
    assert await files.find_file(pool, file.id, owner=None) == file


async def test_a_claim_changes_no_state_and_records_its_vault_key(pool: asyncpg.Pool) -> None:
    held = await claim_row(pool, await declare_row(pool))
    [copy] = await reservations.list_reservations(pool, held.id)
    assert (copy.vault_key, copy.lease) == (held.vault_key, held.lease)
    assert held.state == State.VERIFYING
    assert await claim_files(pool, 9, lease=LEASE) == []


async def test_large_files_are_claimed_separately_from_small_ones(pool: asyncpg.Pool) -> None:
    large = await declare_row(pool, make_declaration(size=2**30 + 1))
    await files.record_event(pool, key_of(large))
    assert await claim_files(pool, 9, lease=LEASE) == []
    assert [held.id for held in await claim_files(pool, 9, lease=LEASE, kinds=EVERY_KIND)] == [
        large.id
    ]


async def test_a_claim_changes_no_index(pool: asyncpg.Pool) -> None:
    file = await declare_row(pool)
    await files.record_event(pool, key_of(file))
    async with pool.acquire() as connection, connection.transaction():
        updates = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = $1"
        before = await connection.fetchrow(updates, "files")
        [held] = await claim_files(connection, 9, lease=LEASE)
        assert await claims.extend_lease(connection, held, LEASE)
        after = await connection.fetchrow(updates, "files")
    assert [now - was for now, was in zip(after, before, strict=True)] == [2, 2]


async def test_an_expired_lease_is_claimed_again_under_another_key(pool: asyncpg.Pool) -> None:
    first = await claim_row(pool, await declare_row(pool))
    await pool.execute("UPDATE files SET lease_until = now() - interval '1 s', due_at = now()")
    [second] = await claim_files(pool, 9, lease=LEASE)
    assert second.lease != first.lease
    assert second.vault_key != first.vault_key
    assert await commit_row(pool, first) is None
    ready = await commit_row(pool, second)
    assert ready is not None
    assert ready.minio_object_name == second.vault_key


async def test_the_commit_makes_the_file_ready_and_removes_the_reservation(
    pool: asyncpg.Pool,
) -> None:
    held = await claim_row(pool, await declare_row(pool))
    file = await commit_row(pool, held)
    assert file is not None
    assert (file.state, file.hash, file.minio_object_name, file.vault_etag) == (
        State.READY,
        DIGEST,
        held.vault_key,
        "e",
    )
    assert file.upload_date is not None
    assert await reservations.list_reservations(pool, held.id) == []


async def test_the_commit_compares_a_digest_that_arrived_during_the_hashing(
    pool: asyncpg.Pool,
) -> None:
    held = await claim_row(pool, await declare_row(pool))
    assert await files.record_arrival(pool, held.id, OTHER, why="complete") is not None
    first = await commit_row(pool, held)
    assert first is not None
    assert (first.state, first.rejection_reason, first.hash) == (State.VERIFYING, None, None)
    [again] = await claim_files(pool, 9, lease=LEASE)
    assert again.vault_key != held.vault_key
    file = await commit_row(pool, again)
    assert file is not None
    assert (file.state, file.rejection_reason, file.hash) == (
        State.REJECTED,
        RejectionReason.DIGEST_MISMATCH,
        None,
    )
    assert [
        copy.doomed_at is not None for copy in await reservations.list_reservations(pool, held.id)
    ] == [True, True]


async def test_two_mismatches_with_different_digests_reject_no_file(pool: asyncpg.Pool) -> None:
    """Delay the next claim after two mismatches whose digests differ.

    Either a read was wrong, or the client sends two contents alternately.
    """
    held = await claim_row(pool, await declare_row(pool, make_declaration(sha256=THIRD)))
    assert (await commit_row(pool, held)) is not None
    [again] = await claim_files(pool, 9, lease=LEASE)
    file = await verdicts.commit_verification(pool, again, size=3, sha256=OTHER, etag="e")
    assert file is not None
    assert (file.state, file.rejection_reason) == (State.VERIFYING, None)
    assert await claim_files(pool, 9, lease=LEASE) == []
    await pool.execute("UPDATE files SET due_at = now()")
    [third] = await claim_files(pool, 9, lease=LEASE)
    proved = await verdicts.commit_verification(pool, third, size=3, sha256=THIRD, etag="e")
    assert proved is not None
    assert (proved.state, proved.hash) == (State.READY, THIRD)


async def test_a_worker_that_has_lost_its_lease_counts_no_failed_read(pool: asyncpg.Pool) -> None:
    held = await claim_row(pool, await declare_row(pool))
    await pool.execute("UPDATE files SET lease = gen_random_uuid() WHERE id = $1", held.id)
    assert await count_read(pool, held, most_reads=1, most_time=timedelta(0)) is None
    assert await pool.fetchval("SELECT failed_reads FROM files WHERE id = $1", held.id) == 0


async def test_failed_reads_reject_a_file_only_after_both_bounds(pool: asyncpg.Pool) -> None:
    file = await declare_row(pool)
    for expected in (State.VERIFYING, State.VERIFYING, State.VERIFYING):
        counted = await count_read(
            pool, await claim_row(pool, file), most_reads=3, most_time=timedelta(hours=24)
        )
        assert counted is not None
        assert counted.state == expected
    await pool.execute("UPDATE files SET failed_reads_since = now() - interval '24 hours'")
    rejected = await count_read(
        pool, await claim_row(pool, file), most_reads=3, most_time=timedelta(hours=24)
    )
    assert rejected is not None
    assert (rejected.state, rejected.rejection_reason) == (
        State.REJECTED,
        RejectionReason.UNVERIFIABLE,
    )
    assert "4 reads" in (rejected.rejection_detail or "")


async def test_an_arrival_cannot_cancel_the_back_off_of_an_unreadable_object(
    pool: asyncpg.Pool,
) -> None:
    file = await declare_row(pool)
    held = await claim_row(pool, file)
    await verdicts.count_failed_read(
        pool,
        held,
        retry_in=timedelta(minutes=10),
        error="503",
        most_reads=10,
        most_time=timedelta(hours=24),
    )
    for _ in range(2):
        await files.record_event(pool, key_of(file))
        assert await claim_files(pool, 9, lease=LEASE, kinds={Work.UNREADABLE}) == []
    await pool.execute("UPDATE files SET due_at = due_at - interval '30 seconds'")
    assert await claim_files(pool, 9, lease=LEASE) == []
    assert [one.id for one in await claim_files(pool, 9, lease=LEASE, kinds={Work.UNREADABLE})] == [
        file.id
    ]


async def count_read(
    pool: asyncpg.Pool, held: Claim, *, most_reads: int, most_time: timedelta
) -> File | None:
    retry_in = timedelta(0)
    return await verdicts.count_failed_read(
        pool, held, retry_in=retry_in, error="503", most_reads=most_reads, most_time=most_time
    )


async def test_a_second_and_different_digest_changes_nothing(pool: asyncpg.Pool) -> None:
    file = await declare_row(pool, make_declaration(sha256=DIGEST))
    assert await files.record_arrival(pool, file.id, OTHER, why="complete") is None
    assert await files.find_file(pool, file.id, owner=None) == file


async def test_another_size_is_rejected_by_the_commit(pool: asyncpg.Pool) -> None:
    await commit_size(pool, await claim_row(pool, await declare_row(pool)))
    [again] = await claim_files(pool, 9, lease=LEASE)
    file = await commit_size(pool, again)
    assert file is not None
    assert (file.state, file.rejection_reason) == (State.REJECTED, RejectionReason.SIZE_MISMATCH)


async def commit_size(pool: asyncpg.Pool, held: Claim) -> File | None:
    return await verdicts.commit_verification(pool, held, size=4, sha256=DIGEST, etag="e")


async def test_a_doomed_reservation_cannot_be_committed(pool: asyncpg.Pool) -> None:
    held = await claim_row(pool, await declare_row(pool))
    assert await reservations.doom_reservation(pool, held.vault_key, held.lease)
    assert await commit_row(pool, held) is None
    assert not await reservations.doom_reservation(pool, held.vault_key, held.lease)


async def test_a_committed_reservation_cannot_be_doomed(pool: asyncpg.Pool) -> None:
    held = await claim_row(pool, await declare_row(pool))
    await commit_row(pool, held)
    assert not await reservations.doom_reservation(pool, held.vault_key, held.lease)


async def test_a_deleted_file_is_not_committed_and_its_reservation_is_doomed(
    pool: asyncpg.Pool,
) -> None:
    held = await claim_row(pool, await declare_row(pool))
    assert await files.delete_file(pool, held.id, owner="ann")
    assert await commit_row(pool, held) is None
    assert await sweeping.doom_ended_reservations(pool, 9, counter=0) == 0
    await pool.execute("UPDATE reservations SET lease_until = now() - interval '1 s'")
    assert await sweeping.doom_ended_reservations(pool, 9, counter=0) == 1


async def test_an_extension_moves_both_leases_and_neither_after_a_doom(pool: asyncpg.Pool) -> None:
    held = await claim_row(pool, await declare_row(pool))
    assert await claims.extend_lease(pool, held, timedelta(hours=1))
    equal = """
        SELECT count(*) FROM files JOIN reservations ON file_id = id
        WHERE files.lease_until = reservations.lease_until
    """
    assert await count(pool, equal + " AND files.lease_until > now() + interval '50 min'") == 1
    await reservations.doom_reservation(pool, held.vault_key, held.lease)
    assert not await claims.extend_lease(pool, held, LEASE)


async def test_a_return_to_pending_removes_the_reservation(pool: asyncpg.Pool) -> None:
    held = await claim_row(pool, await declare_row(pool))
    assert await claims.return_to_pending(pool, held, timedelta(minutes=1)) == State.PENDING
    assert await reservations.list_reservations(pool, held.id) == []


async def test_an_arrival_after_the_claim_makes_the_file_due_again_at_once(
    pool: asyncpg.Pool,
) -> None:
    file = await declare_row(pool)
    held = await claim_row(pool, file)
    await files.record_event(pool, key_of(file))
    assert await claims.return_to_pending(pool, held, timedelta(minutes=1)) == State.VERIFYING
    assert len(await claim_files(pool, 9, lease=LEASE)) == 1


async def test_a_file_does_not_expire_within_its_grace_period(pool: asyncpg.Pool) -> None:
    held = await claim_row(pool, await declare_row(pool))
    assert not held.grace_over
    assert await verdicts.expire_file(pool, held) is None


async def test_a_file_expires_after_its_grace_period(pool: asyncpg.Pool) -> None:
    file = await declare_row(pool)
    await pool.execute(
        """
        UPDATE files
        SET created_at = now() - interval '9 days', expires_at = now() - interval '8 days',
            grace_until = now()
        """
    )
    held = await claim_row(pool, file)
    assert held.grace_over
    expired = await verdicts.expire_file(pool, held)
    assert expired is not None
    assert expired.state == State.EXPIRED


async def test_a_rejection_without_a_copy_keeps_its_reason(pool: asyncpg.Pool) -> None:
    held = await claim_row(pool, await declare_row(pool))
    file = await verdicts.reject_file(pool, held, Rejection(RejectionReason.UNVERIFIABLE, "no"))
    assert file is not None
    assert (file.rejection_reason, file.rejection_detail) == (RejectionReason.UNVERIFIABLE, "no")
    assert await files.record_event(pool, key_of(file)) is None


async def test_a_streamed_upload_is_committed_from_its_live_reservation(pool: asyncpg.Pool) -> None:
    copy = await reservations.reserve_key(pool, FILE_ID, "ann", lease=LEASE)
    file = await reservations.commit_streamed_upload(
        pool, copy, make_declaration(), file_id=FILE_ID, sha256=DIGEST, etag="e"
    )
    assert file is not None
    assert (file.id, file.state, file.minio_object_name) == (
        FILE_ID,
        State.READY,
        copy.vault_key,
    )
    assert await reservations.list_reservations(pool, file.id) == []


async def test_a_streamed_upload_is_not_committed_from_a_doomed_reservation(
    pool: asyncpg.Pool,
) -> None:
    copy = await reservations.reserve_key(pool, FILE_ID, "ann", lease=LEASE)
    await reservations.doom_reservation(pool, copy.vault_key, copy.lease)
    assert (
        await reservations.commit_streamed_upload(
            pool, copy, make_declaration(), file_id=FILE_ID, sha256=DIGEST, etag="e"
        )
        is None
    )
    assert await count(pool, "SELECT count(*) FROM files") == 0


async def list_names(pool: asyncpg.Pool, **filters: object) -> list[str]:
    asked = listing.Filters(
        states=tuple(State),
        **filters,  # type: ignore[arg-type]  # the tests name the fields that they filter by
    )
    return [
        file.filename
        for file in (
            await listing.list_files(pool, "ann", asked, before=NONE_BEFORE, limit=10)
        ).files
    ]


async def test_pages_are_newest_first_and_filtered_by_name_and_prefix(pool: asyncpg.Pool) -> None:
    for name in ("a1", "a2", "b%", "a\U0010ffff", "b_"):
        await declare_row(pool, make_declaration(name))
    await declare_row(pool, make_declaration("a1", owner="bob"))
    assert await list_names(pool) == ["b_", "a\U0010ffff", "b%", "a2", "a1"]
    assert await list_names(pool, filename="a1") == ["a1"]
    assert sorted(await list_names(pool, filename="a*")) == ["a1", "a2", "a\U0010ffff"]
    assert await list_names(pool, filename="b%*") == ["b%"]
    assert await list_names(pool, filename="c*") == []


async def test_the_sweeper_claims_each_leftover_once(pool: asyncpg.Pool) -> None:
    held = await claim_row(pool, await declare_row(pool))
    await commit_row(pool, held)
    await files.delete_file(pool, held.id, owner="ann")
    assert [
        left.id for left in await sweeping.claim_incoming_keys(pool, 9, AT_ONCE, counter=0)
    ] == [held.id]
    assert await sweeping.claim_incoming_keys(pool, 9, AT_ONCE, counter=0) == []
    assert [
        left.minio_object_name
        for left in await sweeping.claim_deleted_objects(pool, 9, AT_ONCE, counter=0)
    ] == [held.vault_key]
    assert await sweeping.claim_deleted_objects(pool, 9, AT_ONCE, counter=0) == []


SWEEPS = {sweeping.CLAIM_INCOMING: "files_sweep", sweeping.CLAIM_PURGES: "files_purge"}


@pytest.mark.parametrize("statement", SWEEPS, ids=SWEEPS.values())
async def test_the_sweeper_reads_no_row_that_is_not_due(pool: asyncpg.Pool, statement: str) -> None:
    """Read only the due range of the partial index, and no row whose delay is not over."""
    async with pool.acquire() as connection:
        await connection.execute(
            """
            INSERT INTO files (id, owner, filename, size, metadata, incoming_key, state, hash,
                               minio_object_name, vault_etag, upload_date, expires_at,
                               grace_until, final_at, sweep_at, purge_at, changed_by)
            SELECT gen_random_uuid(), 'ann', 'name', 1, '{}', 'key' || n, 'deleted', sha256('x'),
                   gen_random_uuid(), 'e', now(), now(),
                   now(), now(), now(), now(), 'client'
            FROM generate_series(1, 20000) AS n
            """,
            timeout=60,  # A trigger runs for each row.
        )
        await connection.execute("ANALYZE files")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE sweep (bigint, interval, bigint) AS {statement}")
        explained = await connection.fetchval(
            "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE sweep (500, '5 minutes', 0)"
        )
    [scan] = [
        node
        for node in list_nodes(json.loads(explained)[0]["Plan"])
        if node.get("Index Name") == SWEEPS[statement]
    ]
    assert "Filter" not in scan
    assert scan["Actual Rows"] == 0


# There are 3,000 due files of each kind but medium ones, all of one owner, and then one small file
# of another.
MANY_DUE = """
    INSERT INTO files (id, owner, filename, size, metadata, incoming_key, state, expires_at,
                       grace_until, due_at, failed_reads, failed_reads_since, changed_by)
    SELECT gen_random_uuid(), CASE WHEN n > 12000 THEN 'bob' ELSE 'ann' END, 'name',
           CASE n % 4 WHEN 1 THEN 1 ELSE 2147483648 END, '{}', 'key' || n,
           CASE n % 4 WHEN 0 THEN 'pending' ELSE 'verifying' END, now(), now(),
           now() - (20000 - n) * interval '1 second',
           CASE n % 4 WHEN 2 THEN 1 ELSE 0 END, CASE n % 4 WHEN 2 THEN now() END, 'client'
    FROM generate_series(1, 12001) AS n
"""


@pytest.mark.parametrize(
    ("statement", "types", "values", "most"),
    [
        (
            claims.FIND_WORK,
            "text[], text[], integer",
            '\'{large,medium,small,look,unreadable}\', \'{"","","","",""}\', 64',
            # the next due file of each kind, the first one of each owner of that kind, and the
            # one that shows that there are no more owners
            4 + 5 + 4,
        ),
        (
            claims.CLAIM,
            "text, text[], bigint[], bigint, interval, bigint",
            "'small', '{ann,bob}', '{0,0}', 4, '1 minute', 0",
            # twice as many as the slots for ann and one for bob, both read twice, and the claimed
            # ones
            2 * (2 * 4 + 1) + 4,
        ),
    ],
    ids=["find", "claim"],
)
async def test_a_claim_reads_few_rows_however_many_files_are_due(
    pool: asyncpg.Pool, statement: str, types: str, values: str, most: int
) -> None:
    async with pool.acquire() as connection:
        await connection.execute(MANY_DUE, timeout=60)  # A trigger runs for each row.
        await connection.execute("ANALYZE files")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE work ({types}) AS {statement}")
        explained = await connection.fetchval(
            f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE work ({values})"
        )
    nodes = list_nodes(json.loads(explained)[0]["Plan"])
    scans = [
        node
        for node in nodes
        if node.get("Relation Name") == "files" and "Scan" in node["Node Type"]
    ]
    assert 0 < sum(scan["Actual Rows"] * scan["Actual Loops"] for scan in scans) <= most
    assert not [scan for scan in scans if scan.get("Rows Removed by Filter")]


def list_nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the node of a plan and all nodes below it."""
    return [plan, *(node for below in plan.get("Plans", []) for node in list_nodes(below))]


async def test_an_incoming_key_is_swept_four_times(pool: asyncpg.Pool) -> None:
    file = await declare_row(pool)
    await files.delete_file(pool, file.id, owner="ann")
    for _ in range(4):
        await pool.execute("UPDATE files SET sweep_at = now() WHERE sweep_at IS NOT NULL")
        [left] = await sweeping.claim_incoming_keys(pool, 9, AT_ONCE, counter=0)
    assert left.last
    await sweeping.end_incoming_sweeps(pool, [left.id])
    assert (
        await count(pool, "SELECT count(*) FROM files WHERE sweep_at IS NULL AND sweeps = 4") == 1
    )
    await pool.execute("UPDATE files SET final_at = now() - interval '99 days'")
    await sweeping.forget_files(pool, 9, timedelta(days=30))
    assert await count(pool, "SELECT count(*) FROM files") == 0


async def test_a_late_first_deletion_is_not_the_last(pool: asyncpg.Pool) -> None:
    held = await claim_row(pool, await declare_row(pool))
    await reservations.doom_reservation(pool, held.vault_key, held.lease)
    await pool.execute(
        """
        UPDATE reservations
        SET doomed_at = now() - interval '3 days', sweep_at = now() - interval '3 days'
        """
    )
    assert [
        copy.last
        for copy in await sweeping.claim_doomed_reservations(
            pool, 9, timedelta(hours=24), counter=0
        )
    ] == [False]


async def test_a_doomed_reservation_is_kept_until_copy_grace_is_over(pool: asyncpg.Pool) -> None:
    held = await claim_row(pool, await declare_row(pool))
    await reservations.doom_reservation(pool, held.vault_key, held.lease)
    grace = timedelta(hours=24)
    assert [
        copy.last for copy in await sweeping.claim_doomed_reservations(pool, 9, grace, counter=0)
    ] == [False]
    await sweeping.keep_doomed_reservation(pool, held.vault_key, grace)
    assert await sweeping.claim_doomed_reservations(pool, 9, grace, counter=0) == []
    await pool.execute(
        """
        UPDATE reservations
        SET swept_at = swept_at - $1::interval, sweep_at = sweep_at - $1::interval
        """,
        grace,
    )
    assert [
        copy.last for copy in await sweeping.claim_doomed_reservations(pool, 9, grace, counter=0)
    ] == [True]
