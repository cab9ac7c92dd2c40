"""What READ COMMITTED makes of statements that have to wait for a row: each meeting of two, in either order, made to happen.

The model (tests/model) takes every statement for one atomic step; here it is shown that they behave like that.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from service.model import (
    Claim,
    Declaration,
    File,
    Rejection,
    RejectionReason,
    Sha256,
    State,
    make_id,
)
from service.queries import claims, files, reservations, sweeping, verdicts
from service.queries.rows import Database
from tests.integration.locks import held_open, until_waiting

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

LEASE = timedelta(minutes=1)
DIGEST, OTHER = Sha256(bytes(32)), Sha256(bytes(31) + b"\x01")
DECLARATION = Declaration(
    owner="ann", filename="a.txt", size=3, content_type=None, sha256=None, metadata={}
)
Statement = Callable[[Database], Awaitable[Any]]


@pytest.fixture
async def held(pool: asyncpg.Pool) -> Claim:
    """A claim under way."""
    file_id = make_id()
    ends = {"upload_ttl": timedelta(days=1), "grace": timedelta(hours=1)}
    await files.declare_file(
        pool, DECLARATION, file_id=file_id, incoming_key=file_id.hex, part_size=None, **ends
    )
    await files.record_event(pool, file_id.hex)
    [claim] = await claims.claim_files(pool, 1, lease=LEASE)
    return claim


@pytest.fixture
async def streamed(pool: asyncpg.Pool) -> reservations.Reservation:
    """A streamed upload under way."""
    return await reservations.reserve_key(pool, make_id(), "ann", lease=LEASE)


async def meet(
    pool: asyncpg.Pool, first: Statement, second: Statement, *, ends: str = "COMMIT"
) -> tuple[Any, Any]:
    """What both come to: `first` holds its rows when `second` comes, and ends only when that waits for them."""
    async with held_open(pool) as holder:
        outcome = await first(holder)
        waiting = asyncio.create_task(awaited(second(pool)))
        await until_waiting(pool, 1)
        await holder.execute(ends)
        return outcome, await waiting


async def awaited(statement: Awaitable[Any]) -> Any:
    return await statement


def commit(held: Claim) -> Callable[[Database], Awaitable[File | None]]:
    return lambda database: verdicts.commit_verification(
        database, held, size=3, sha256=DIGEST, etag="e"
    )


def doom(held: Claim | reservations.Reservation) -> Callable[[Database], Awaitable[bool]]:
    return lambda database: reservations.doom_reservation(database, held.vault_key, held.lease)


def extend(held: Claim) -> Callable[[Database], Awaitable[bool]]:
    return lambda database: claims.extend_lease(database, held, timedelta(hours=1))


def delete(held: Claim) -> Callable[[Database], Awaitable[bool]]:
    return lambda database: files.delete_file(database, held.id, owner="ann")


def arrive(held: Claim, digest: Sha256 | None) -> Callable[[Database], Awaitable[File | None]]:
    return lambda database: files.record_arrival(database, held.id, digest, why="complete")


async def state(pool: asyncpg.Pool, held: Claim) -> State:
    return State(await pool.fetchval("SELECT state FROM files WHERE id = $1", held.id))


async def end_lease(pool: asyncpg.Pool) -> None:
    await pool.execute("UPDATE reservations SET lease_until = now() - interval '1 s'")


async def test_a_commit_that_waits_for_a_sweepers_doom_finds_the_copy_doomed(
    pool: asyncpg.Pool, held: Claim
) -> None:
    await end_lease(pool)
    assert await meet(
        pool, lambda database: sweeping.doom_ended_reservations(database, 9), commit(held)
    ) == (1, None)
    assert await state(pool, held) == State.VERIFYING


async def test_a_commit_that_waits_for_a_doom_that_is_rolled_back_wins(
    pool: asyncpg.Pool, held: Claim
) -> None:
    _, file = await meet(pool, doom(held), commit(held), ends="ROLLBACK")
    assert file.state == State.READY


async def test_a_doom_that_waits_for_a_commit_hits_nothing(pool: asyncpg.Pool, held: Claim) -> None:
    file, doomed = await meet(pool, commit(held), doom(held))
    assert (file.state, doomed) == (State.READY, False)


async def test_a_doom_that_waits_for_a_commit_that_is_rolled_back_wins(
    pool: asyncpg.Pool, held: Claim
) -> None:
    _, doomed = await meet(pool, commit(held), doom(held), ends="ROLLBACK")
    assert doomed
    assert await commit(held)(pool) is None


async def test_a_sweeper_passes_over_the_copy_of_a_commit_or_an_extension_under_way(
    pool: asyncpg.Pool, held: Claim
) -> None:
    await end_lease(pool)
    for statement in (extend(held), commit(held)):
        async with held_open(pool) as holder:
            assert await statement(holder)
            assert await sweeping.doom_ended_reservations(pool, 9) == 0
    assert await sweeping.doom_ended_reservations(pool, 9) == 1  # both were rolled back


async def test_an_extension_that_waits_for_a_doom_moves_neither_lease(
    pool: asyncpg.Pool, held: Claim
) -> None:
    assert await meet(pool, doom(held), extend(held)) == (True, False)
    longer = """
        SELECT (SELECT count(*) FROM files WHERE lease_until > now() + $1)
             + (SELECT count(*) FROM reservations WHERE lease_until > now() + $1)
    """
    assert await pool.fetchval(longer, LEASE) == 0


async def test_an_extension_that_waits_for_a_commit_is_too_late(
    pool: asyncpg.Pool, held: Claim
) -> None:
    file, extended = await meet(pool, commit(held), extend(held))
    assert (file.state, extended) == (State.READY, False)


async def test_a_commit_that_waits_for_an_extension_wins(pool: asyncpg.Pool, held: Claim) -> None:
    extended, file = await meet(pool, extend(held), commit(held))
    assert (extended, file.state) == (True, State.READY)


async def test_a_commit_that_waits_for_the_owners_deletion_comes_to_nothing(
    pool: asyncpg.Pool, held: Claim
) -> None:
    assert await meet(pool, delete(held), commit(held)) == (True, None)
    [copy] = await reservations.list_reservations(pool, held.id)
    assert copy.doomed_at is None  # the sweeper's, when its lease has ended


async def test_a_deletion_that_waits_for_a_commit_sees_to_the_proved_object(
    pool: asyncpg.Pool, held: Claim
) -> None:
    file, deleted = await meet(pool, commit(held), delete(held))
    assert (file.state, deleted) == (State.READY, True)
    assert [
        left.minio_object_name
        for left in await sweeping.claim_deleted_objects(pool, 9, timedelta(0))
    ] == [held.vault_key]


async def test_a_commit_that_waits_for_a_digest_compares_it(
    pool: asyncpg.Pool, held: Claim
) -> None:
    _, file = await meet(pool, arrive(held, OTHER), commit(held))
    assert (file.state, file.hash) == (
        State.VERIFYING,
        None,
    )  # the first mismatch is no verdict yet
    [copy] = await reservations.list_reservations(pool, held.id)
    assert copy.doomed_at is not None


async def test_a_digest_that_waits_for_a_commit_changes_nothing(
    pool: asyncpg.Pool, held: Claim
) -> None:
    file, recorded = await meet(pool, commit(held), arrive(held, OTHER))
    assert (file.state, recorded) == (State.READY, None)


async def test_two_digests_at_once_leave_the_first(pool: asyncpg.Pool, held: Claim) -> None:
    first, second = await meet(pool, arrive(held, DIGEST), arrive(held, OTHER))
    assert (first.declared_sha256, second) == (DIGEST, None)


async def test_a_way_back_that_waits_for_an_arrival_is_none(
    pool: asyncpg.Pool, held: Claim
) -> None:
    _, came_to = await meet(
        pool, arrive(held, None), lambda database: claims.return_to_pending(database, held, LEASE)
    )
    assert came_to == State.VERIFYING
    assert len(await claims.claim_files(pool, 1, lease=LEASE)) == 1


async def test_an_arrival_that_waits_for_the_way_back_announces_anew(
    pool: asyncpg.Pool, held: Claim
) -> None:
    came_to, recorded = await meet(
        pool, lambda database: claims.return_to_pending(database, held, LEASE), arrive(held, None)
    )
    assert (came_to, recorded.state) == (State.PENDING, State.VERIFYING)
    assert len(await claims.claim_files(pool, 1, lease=LEASE)) == 1


async def test_two_workers_never_claim_one_file(pool: asyncpg.Pool, held: Claim) -> None:
    await claims.release_claim(pool, held, retry_in=timedelta(0), error="")
    async with held_open(pool) as holder:
        assert len(await claims.claim_files(holder, 9, lease=LEASE)) == 1
        assert await claims.claim_files(pool, 9, lease=LEASE) == []
    assert len(await claims.claim_files(pool, 9, lease=LEASE)) == 1


def commit_streamed(copy: reservations.Reservation) -> Callable[[Database], Awaitable[File | None]]:
    return lambda database: reservations.commit_streamed_upload(
        database, copy, DECLARATION, sha256=DIGEST, etag="e"
    )


async def test_a_streamed_commit_that_waits_for_a_doom_bears_no_file(
    pool: asyncpg.Pool, streamed: reservations.Reservation
) -> None:
    assert await meet(pool, doom(streamed), commit_streamed(streamed)) == (True, None)
    assert await pool.fetchval("SELECT count(*) FROM files") == 0


async def test_a_doom_that_waits_for_a_streamed_commit_hits_nothing(
    pool: asyncpg.Pool, streamed: reservations.Reservation
) -> None:
    file, doomed = await meet(pool, commit_streamed(streamed), doom(streamed))
    assert (file.state, doomed) == (State.READY, False)


@pytest.mark.parametrize("what", ["extend", "name"])
async def test_what_keeps_a_streamed_copy_is_told_of_the_doom_that_it_waited_for(
    pool: asyncpg.Pool, streamed: reservations.Reservation, what: str
) -> None:
    keep: dict[str, Statement] = {
        "extend": lambda database: reservations.extend_reservation(database, streamed, LEASE),
        "name": lambda database: reservations.name_upload(
            database, streamed.vault_key, streamed.lease, upload_id="upload-1"
        ),
    }
    assert await meet(pool, doom(streamed), keep[what]) == (True, False)


# Deadlocks


OF_BOTH_TABLES: dict[str, Callable[[Database, Claim], Awaitable[Any]]] = {
    "commit": lambda database, held: commit(held)(database),
    "extend": lambda database, held: extend(held)(database),
    "return": lambda database, held: claims.return_to_pending(database, held, LEASE),
    "expire": verdicts.expire_file,
    "reject": lambda database, held: verdicts.reject_file(
        database, held, Rejection(RejectionReason.UNVERIFIABLE, "no")
    ),
}


@pytest.mark.parametrize("what", OF_BOTH_TABLES)
async def test_who_needs_both_rows_takes_the_copys_first(
    pool: asyncpg.Pool, held: Claim, what: str
) -> None:
    """So no two can wait for each other."""
    await pool.execute("UPDATE files SET grace_until = now(), expires_at = now()")
    async with held_open(pool) as holder:
        await holder.execute("SELECT FROM reservations FOR UPDATE")
        waiting = asyncio.create_task(awaited(OF_BOTH_TABLES[what](pool, held)))
        await until_waiting(pool, 1)
        await pool.execute(
            "SELECT FROM files FOR UPDATE NOWAIT"
        )  # would raise LockNotAvailableError
        await holder.execute("COMMIT")
        assert await waiting
