"""The history of a file: what statements record of each transition, and what readers see."""

from datetime import timedelta

import asyncpg
import pytest

from service.model import Claim, File, Rejection, RejectionReason, Sha256, State, make_id
from service.queries import claims, files, history, reservations, sweeping, verdicts
from service.queries.history import Position, Transition
from tests.integration.locks import held_open
from tests.support.claims import claim_files
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

START = Position(0, 0)
FILE_ID = make_id()
DONE = "the copy has the declared size"


async def tell(
    pool: asyncpg.Pool, file: File | Claim
) -> list[tuple[str, str | None, str, str | None]]:
    return [
        (one.state, one.previous, one.by, one.why)
        for one in await history.list_history(pool, file.id)
    ]


async def read(pool: asyncpg.Pool, after: Position = START, *owners: str) -> list[Transition]:
    return (await history.read_all(pool, after, list(owners or ("ann",)), limit=100)).transitions


async def test_each_transition_is_recorded_with_its_author_and_reason(pool: asyncpg.Pool) -> None:
    held = await claim_row(pool, await declare_row(pool))
    await commit_row(pool, held)
    await files.delete_file(pool, held.id, owner="ann")
    assert await tell(pool, held) == [
        ("pending", None, "client", "declared"),
        ("verifying", "pending", "store", "the store reported the upload"),
        ("ready", "verifying", "worker", DONE),
        ("deleted", "ready", "client", "the client deleted it"),
    ]


@pytest.mark.parametrize(("digest", "why"), [(DIGEST, f"{DONE} and digest"), (OTHER, None)])
async def test_a_verdict_says_what_was_compared(
    pool: asyncpg.Pool, digest: Sha256, why: str | None
) -> None:
    declared = await declare_row(pool, make_declaration(sha256=digest))
    held = await claim_row(pool, declared)
    file = await commit_row(pool, held)
    # A first mismatch is neither a verdict nor a transition.
    if digest == OTHER:
        assert len(await tell(pool, held)) == 2
        file = await commit_row(pool, await claim_row(pool, declared))
    assert file is not None
    expected = why or f"digest-mismatch: {file.rejection_detail}"
    assert (await tell(pool, held))[-1] == (str(file.state), "verifying", "worker", expected)


async def test_a_statement_that_changes_no_state_is_not_recorded(pool: asyncpg.Pool) -> None:
    held = await claim_row(pool, await declare_row(pool))
    before = await tell(pool, held)
    await files.record_event(pool, held.incoming_key)
    await files.record_arrival(pool, held.id, None, why="the client completed the upload")
    assert await claims.return_to_pending(pool, held, LEASE) == State.VERIFYING
    await claim_files(pool, 1, lease=LEASE)
    assert await commit_row(pool, held) is None
    assert not await files.delete_file(pool, held.id, owner="bob")
    assert await tell(pool, held) == before


async def test_a_return_to_pending_and_a_second_arrival_are_recorded(pool: asyncpg.Pool) -> None:
    held = await claim_row(pool, await declare_row(pool))
    assert await claims.return_to_pending(pool, held, LEASE) == State.PENDING
    await files.record_arrival(pool, held.id, None, why="the client completed the upload")
    assert (await tell(pool, held))[2:] == [
        ("pending", "verifying", "worker", "the store has no object for the file"),
        ("verifying", "pending", "client", "the client completed the upload"),
    ]


async def test_only_the_last_thousand_transitions_of_a_file_are_read(pool: asyncpg.Pool) -> None:
    file = await declare_row(pool)
    await pool.execute(
        "INSERT INTO file_history (xid, sequence, owner, file_id, state, previous, at, by, why)"
        " OVERRIDING SYSTEM VALUE"
        " SELECT pg_current_xact_id(), 1000000 + n, 'ann', $1, 'pending', 'verifying', now(),"
        " 'worker', n::text FROM generate_series(1, 1200) AS n",
        file.id,
    )
    assert [why for _, _, _, why in await tell(pool, file)] == [str(n) for n in range(201, 1201)]


async def test_an_expiry_and_a_rejection_are_recorded(pool: asyncpg.Pool) -> None:
    rejected = await claim_row(pool, await declare_row(pool))
    await verdicts.reject_file(
        pool, rejected, Rejection(RejectionReason.SIZE_MISMATCH, "declared 3 bytes, received 4")
    )
    assert (await tell(pool, rejected))[-1] == (
        "rejected",
        "verifying",
        "worker",
        "size-mismatch: declared 3 bytes, received 4",
    )
    file = await declare_row(pool)
    await pool.execute(
        "UPDATE files SET expires_at = now(), grace_until = now(), due_at = now() WHERE id = $1",
        file.id,
    )
    [held] = await claim_files(pool, 1, lease=LEASE)
    await verdicts.expire_file(pool, held)
    assert (await tell(pool, held))[1:] == [
        ("expired", "pending", "worker", "no upload arrived in time")
    ]


async def test_the_history_of_a_streamed_upload_begins_with_ready(pool: asyncpg.Pool) -> None:
    copy = await reservations.reserve_key(pool, FILE_ID, "ann", lease=LEASE)
    file = await reservations.commit_streamed_upload(
        pool, copy, make_declaration(), file_id=FILE_ID, sha256=DIGEST, etag="e"
    )
    assert file is not None
    assert await tell(pool, file) == [
        ("ready", None, "client", "streamed through the API and hashed on the way")
    ]
    [event] = await read(pool)
    assert (event.hash, event.filename, event.file_id) == (DIGEST, "photo.jpg", file.id)


async def test_a_transition_that_is_rolled_back_is_not_recorded(pool: asyncpg.Pool) -> None:
    file = await declare_row(pool)
    async with held_open(pool) as holder:
        await files.record_event(holder, key_of(file))
    assert await tell(pool, file) == [("pending", None, "client", "declared")]


async def test_the_digest_is_not_shown_before_it_is_proved(pool: asyncpg.Pool) -> None:
    await commit_row(pool, await claim_row(pool, await declare_row(pool)))
    assert [(one.state, one.hash) for one in await read(pool)] == [
        (State.PENDING, None),
        (State.VERIFYING, None),
        (State.READY, DIGEST),
    ]


# The order that readers see


async def test_readers_wait_for_a_lower_transaction_id_that_commits_later(
    pool: asyncpg.Pool,
) -> None:
    async with held_open(pool) as holder:
        # This assigns the transaction's id before the transaction writes anything.
        await holder.fetchval("SELECT pg_current_xact_id()")
        now = await history.find_snapshot_position(pool)
        later = await declare_row(pool, make_declaration("later"))
        found = await history.read_all(pool, now, ["ann"], limit=9)
        assert (found.transitions, found.held_back) == ([], True)
        assert await history.read_some(pool, now, owner="ann", file_id=None, limit=9) == []
        assert await history.read_some(pool, now, owner="ann", file_id=later.id, limit=9) == []
        await declare_row(holder, make_declaration("earlier"))
        await holder.execute("COMMIT")
    again = await history.read_all(pool, found.end, ["ann"], limit=9)
    assert [one.filename for one in again.transitions] == ["earlier", "later"]


async def test_transitions_keep_their_order_if_transaction_ids_are_reversed(
    pool: asyncpg.Pool,
) -> None:
    await pool.execute("UPDATE files SET due_at = now()")
    file = await declare_row(pool)
    await pool.execute("UPDATE files SET due_at = now()")
    [held] = await claim_files(pool, 1, lease=LEASE)
    async with held_open(pool) as holder:
        # A commit locks its reservation first. The lock assigns the transaction's id.
        await holder.execute("SELECT FROM reservations FOR UPDATE")
        await files.record_event(pool, key_of(file))
        assert (
            await verdicts.commit_verification(holder, held, size=3, sha256=DIGEST, etag="e")
            is not None
        )
        await holder.execute("COMMIT")
    assert [one.state for one in await read(pool)] == [State.PENDING, State.VERIFYING, State.READY]


async def test_a_page_begins_where_the_previous_page_ended(pool: asyncpg.Pool) -> None:
    for number in range(5):
        await declare_row(pool, make_declaration(str(number)))
        await declare_row(pool, make_declaration("another's", owner="bob"))
    names, at = [], START
    for _ in range(3):
        found = await history.read_all(pool, at, ["ann", "eve"], limit=2)
        names += [one.filename for one in found.transitions]
        at = found.end
    assert names == [*"01234"]
    assert await read(pool, at) == []


# Removal of old history


async def test_removing_a_row_removes_its_history_and_moves_the_horizon(pool: asyncpg.Pool) -> None:
    kept = await declare_row(pool)
    [first] = await read(pool)
    file = await declare_row(pool)
    await files.delete_file(pool, file.id, owner="ann")
    last = (await read(pool))[-1].position
    assert await history.is_kept(pool, first.position, owner="ann")
    await pool.execute(
        "UPDATE files SET final_at = now() - interval '99 days', sweep_at = NULL WHERE id = $1",
        file.id,
    )
    await sweeping.forget_files(pool, 9, timedelta(days=30))
    assert await tell(pool, file) == []
    assert len(await tell(pool, kept)) == 1
    assert [
        await history.is_kept(pool, position, owner="ann")
        for position in (START, first.position, last)
    ] == [False, False, True]


async def test_a_removal_does_not_move_the_horizon_of_another_owner(pool: asyncpg.Pool) -> None:
    mine = await declare_row(pool, make_declaration("mine", owner="bob"))
    [first] = await read(pool, START, "bob")
    await forget(pool, await declare_row(pool))
    assert not await history.is_kept(pool, first.position, owner="ann")
    assert await history.is_kept(pool, first.position, owner="bob")
    await forget(pool, mine)
    await forget(pool, await declare_row(pool))
    assert not await history.is_kept(pool, first.position, owner="bob")
    rows = await pool.fetch("SELECT owner FROM history_horizons ORDER BY owner")
    assert [row["owner"] for row in rows] == ["ann", "bob"]


async def forget(pool: asyncpg.Pool, file: File) -> None:
    """Delete a file and remove its row, as the sweeper does long afterwards."""
    await files.delete_file(pool, file.id, owner=file.owner)
    await pool.execute(
        "UPDATE files SET final_at = now() - interval '99 days', sweep_at = NULL WHERE id = $1",
        file.id,
    )
    await sweeping.forget_files(pool, 9, timedelta(days=30))


async def test_nothing_is_removed_before_every_reader_could_have_read_it(
    pool: asyncpg.Pool,
) -> None:
    """Keep the horizon behind the current position.

    Otherwise a reader that begins now would be reset again and again.
    """
    async with held_open(pool) as holder:
        await holder.fetchval("SELECT pg_current_xact_id()")
        file = await declare_row(pool)
        await files.delete_file(pool, file.id, owner="ann")
        await pool.execute(
            "UPDATE files SET final_at = now() - interval '99 days', sweep_at = NULL WHERE id = $1",
            file.id,
        )
        await sweeping.forget_files(pool, 9, timedelta(days=30))
        assert await history.is_kept(pool, await history.find_snapshot_position(pool), owner="ann")
        await holder.execute("COMMIT")
    await sweeping.forget_files(pool, 9, timedelta(days=30))
    assert await tell(pool, file) == []
    assert await history.is_kept(pool, await history.find_snapshot_position(pool), owner="ann")


async def test_a_transaction_id_that_was_never_assigned_is_not_kept(pool: asyncpg.Pool) -> None:
    now = await history.find_snapshot_position(pool)
    assert await history.is_kept(pool, now, owner="ann")
    assert not await history.is_kept(pool, Position(now.xid + 10_000_000, 1), owner="ann")
    assert not await history.is_kept(pool, history.UNKNOWN, owner="ann")


async def test_a_history_from_another_server_is_rebased(pool: asyncpg.Pool) -> None:
    file = await declare_row(pool)
    for statement in (
        "UPDATE file_history SET xid = '9000000000000'",
        "UPDATE files SET history_xid = '9000000000000'",
        "UPDATE history_horizons SET xid = '9000000000000'",
    ):
        await pool.execute(statement)
    # Readers do not wait until this server reaches such ids, which could take years.
    assert not (await history.read_all(pool, START, ["ann"], limit=9)).held_back
    async with pool.acquire() as connection:
        await history.rebase_history(connection)
    await files.record_event(pool, key_of(file))
    assert [one.state for one in await read(pool)] == [State.PENDING, State.VERIFYING]
    assert await history.is_kept(pool, await history.find_snapshot_position(pool), owner="ann")
