"""Statements that wait for each other's row locks under READ COMMITTED.

Each pair of statements that can wait for each other is made to do so, in either order. The model
(tests/model) treats each statement as one atomic step. These tests show that the statements behave
accordingly.
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
from service.queries import claims, files, idempotency, reservations, sweeping, verdicts
from service.queries.idempotency import KeyedRequest
from service.queries.rows import Database
from tests.integration.locks import held_open, until_waiting
from tests.support.claims import claim_files

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

LEASE = timedelta(minutes=1)
DIGEST, OTHER = Sha256(bytes(32)), Sha256(bytes(31) + b"\x01")
DECLARATION = Declaration(
    owner="ann", filename="a.txt", size=3, content_type=None, sha256=None, metadata={}
)
Statement = Callable[[Database], Awaitable[Any]]


@pytest.fixture
async def held(pool: asyncpg.Pool) -> Claim:
    """Return the claim of a file whose verification is in progress."""
    file_id = make_id()
    ends = {"upload_ttl": timedelta(days=1), "grace": timedelta(hours=1)}
    await files.declare_file(
        pool, DECLARATION, file_id=file_id, incoming_key=file_id.hex, part_size=None, **ends
    )
    await files.record_event(pool, file_id.hex)
    [claim] = await claim_files(pool, 1, lease=LEASE)
    return claim


@pytest.fixture
async def streamed(pool: asyncpg.Pool) -> reservations.HeldKey:
    """Return the reservation of a streamed upload that is in progress."""
    return await reservations.reserve_key(pool, make_id(), "ann", lease=LEASE)


async def meet(
    pool: asyncpg.Pool, first: Statement, second: Statement, *, ends: str = "COMMIT"
) -> tuple[Any, Any]:
    """Run `second` while `first` holds its rows, and return both results.

    The transaction of `first` ends with `ends` as soon as `second` waits for a lock.
    """
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


def doom(held: Claim | reservations.HeldKey) -> Callable[[Database], Awaitable[bool]]:
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


async def test_a_commit_that_waits_for_a_sweepers_doom_commits_nothing(
    pool: asyncpg.Pool, held: Claim
) -> None:
    await end_lease(pool)
    assert await meet(
        pool,
        lambda database: sweeping.doom_ended_reservations(database, 9, counter=0),
        commit(held),
    ) == (1, None)
    assert await state(pool, held) == State.VERIFYING


async def test_a_commit_that_waits_for_a_doom_that_is_rolled_back_succeeds(
    pool: asyncpg.Pool, held: Claim
) -> None:
    _, file = await meet(pool, doom(held), commit(held), ends="ROLLBACK")
    assert file.state == State.READY


async def test_a_doom_that_waits_for_a_commit_updates_nothing(
    pool: asyncpg.Pool, held: Claim
) -> None:
    file, doomed = await meet(pool, commit(held), doom(held))
    assert (file.state, doomed) == (State.READY, False)


async def test_a_doom_that_waits_for_a_commit_that_is_rolled_back_succeeds(
    pool: asyncpg.Pool, held: Claim
) -> None:
    _, doomed = await meet(pool, commit(held), doom(held), ends="ROLLBACK")
    assert doomed
    assert await commit(held)(pool) is None


async def test_a_sweeper_skips_a_reservation_that_another_statement_has_locked(
    pool: asyncpg.Pool, held: Claim
) -> None:
    await end_lease(pool)
    for statement in (extend(held), commit(held)):
        async with held_open(pool) as holder:
            assert await statement(holder)
            assert await sweeping.doom_ended_reservations(pool, 9, counter=0) == 0
    # Both statements were rolled back.
    assert await sweeping.doom_ended_reservations(pool, 9, counter=0) == 1


async def test_an_extension_that_waits_for_a_doom_moves_neither_lease(
    pool: asyncpg.Pool, held: Claim
) -> None:
    assert await meet(pool, doom(held), extend(held)) == (True, False)
    longer = """
        SELECT (SELECT count(*) FROM files WHERE lease_until > now() + $1)
             + (SELECT count(*) FROM reservations WHERE lease_until > now() + $1)
    """
    assert await pool.fetchval(longer, LEASE) == 0


async def test_an_extension_that_waits_for_a_commit_updates_nothing(
    pool: asyncpg.Pool, held: Claim
) -> None:
    file, extended = await meet(pool, commit(held), extend(held))
    assert (file.state, extended) == (State.READY, False)


async def test_a_commit_that_waits_for_an_extension_succeeds(
    pool: asyncpg.Pool, held: Claim
) -> None:
    extended, file = await meet(pool, extend(held), commit(held))
    assert (extended, file.state) == (True, State.READY)


async def test_a_commit_that_waits_for_the_owners_deletion_commits_nothing(
    pool: asyncpg.Pool, held: Claim
) -> None:
    assert await meet(pool, delete(held), commit(held)) == (True, None)
    [copy] = await reservations.list_reservations(pool, held.id)
    # The sweeper dooms it when its lease has expired.
    assert copy.doomed_at is None


async def test_a_deletion_that_waits_for_a_commit_purges_the_proved_object(
    pool: asyncpg.Pool, held: Claim
) -> None:
    file, deleted = await meet(pool, commit(held), delete(held))
    assert (file.state, deleted) == (State.READY, True)
    assert [
        left.minio_object_name
        for left in await sweeping.claim_deleted_objects(pool, 9, timedelta(0), counter=0)
    ] == [held.vault_key]


async def test_a_commit_that_waits_for_a_digest_compares_it(
    pool: asyncpg.Pool, held: Claim
) -> None:
    _, file = await meet(pool, arrive(held, OTHER), commit(held))
    # The first mismatch is not yet a verdict.
    assert (file.state, file.hash) == (State.VERIFYING, None)
    [copy] = await reservations.list_reservations(pool, held.id)
    assert copy.doomed_at is not None


async def test_a_digest_that_waits_for_a_commit_changes_nothing(
    pool: asyncpg.Pool, held: Claim
) -> None:
    file, recorded = await meet(pool, commit(held), arrive(held, OTHER))
    assert (file.state, recorded) == (State.READY, None)


async def test_the_first_of_two_concurrent_digests_is_kept(pool: asyncpg.Pool, held: Claim) -> None:
    first, second = await meet(pool, arrive(held, DIGEST), arrive(held, OTHER))
    assert (first.declared_sha256, second) == (DIGEST, None)


async def test_a_return_to_pending_that_waits_for_an_arrival_has_no_effect(
    pool: asyncpg.Pool, held: Claim
) -> None:
    _, came_to = await meet(
        pool, arrive(held, None), lambda database: claims.return_to_pending(database, held, LEASE)
    )
    assert came_to == State.VERIFYING
    assert len(await claim_files(pool, 1, lease=LEASE)) == 1


async def test_an_arrival_that_waits_for_a_return_makes_the_file_verifying(
    pool: asyncpg.Pool, held: Claim
) -> None:
    came_to, recorded = await meet(
        pool, lambda database: claims.return_to_pending(database, held, LEASE), arrive(held, None)
    )
    assert (came_to, recorded.state) == (State.PENDING, State.VERIFYING)
    assert len(await claim_files(pool, 1, lease=LEASE)) == 1


async def test_two_workers_never_claim_one_file(pool: asyncpg.Pool, held: Claim) -> None:
    await claims.release_claim(pool, held, retry_in=timedelta(0), error="")
    async with held_open(pool) as holder:
        assert len(await claim_files(holder, 9, lease=LEASE)) == 1
        assert await claim_files(pool, 9, lease=LEASE) == []
    assert len(await claim_files(pool, 9, lease=LEASE)) == 1


def commit_streamed(copy: reservations.HeldKey) -> Callable[[Database], Awaitable[File | None]]:
    return lambda database: reservations.commit_streamed_upload(
        database, copy, DECLARATION, file_id=make_id(), sha256=DIGEST, etag="e"
    )


async def test_a_streamed_commit_that_waits_for_a_doom_inserts_no_file(
    pool: asyncpg.Pool, streamed: reservations.HeldKey
) -> None:
    assert await meet(pool, doom(streamed), commit_streamed(streamed)) == (True, None)
    assert await pool.fetchval("SELECT count(*) FROM files") == 0


async def test_a_doom_that_waits_for_a_streamed_commit_updates_nothing(
    pool: asyncpg.Pool, streamed: reservations.HeldKey
) -> None:
    file, doomed = await meet(pool, commit_streamed(streamed), doom(streamed))
    assert (file.state, doomed) == (State.READY, False)


async def make_keyed(pool: asyncpg.Pool) -> Callable[[Database], Awaitable[File | None]]:
    """Reserve a key for another upload, and return its commit with the `Idempotency-Key` `one`."""
    reservation = await reservations.reserve_key(pool, make_id(), "ann", lease=LEASE)
    return lambda database: reservations.commit_streamed_upload(
        database,
        reservation,
        DECLARATION,
        file_id=make_id(),
        sha256=DIGEST,
        etag="e",
        keyed=KeyedRequest("one", DIGEST),
    )


async def test_a_streamed_commit_that_waits_for_its_key_inserts_nothing(
    pool: asyncpg.Pool,
) -> None:
    file, nothing = await meet(pool, await make_keyed(pool), await make_keyed(pool))
    assert (file.state, nothing) == (State.READY, None)
    assert await pool.fetchval("SELECT count(*) FROM files") == 1
    # The reservation of the second is still there, to be doomed before its object is deleted.
    assert await pool.fetchval("SELECT count(*) FROM reservations WHERE doomed_at IS NULL") == 1


async def test_a_streamed_commit_succeeds_after_its_key_was_rolled_back(
    pool: asyncpg.Pool,
) -> None:
    _, file = await meet(pool, await make_keyed(pool), await make_keyed(pool), ends="ROLLBACK")
    assert file.state == State.READY
    found = await idempotency.recall_request(pool, "ann", "one")
    assert found is not None
    assert found.file_id == file.id


async def test_a_declaration_that_waits_for_the_key_of_a_commit_finds_it(
    pool: asyncpg.Pool,
) -> None:
    def remember(database: Database) -> Awaitable[idempotency.Remembered | None]:
        return idempotency.remember_request(
            database, "ann", "one", request=OTHER, file_id=make_id()
        )

    file, found = await meet(pool, await make_keyed(pool), remember)
    assert (found.file_id, found.request_sha256) == (file.id, DIGEST)


async def test_a_doom_that_waits_for_a_commit_without_a_row_succeeds(pool: asyncpg.Pool) -> None:
    """Doom the reservation of a commit whose key was used, so that its object can be deleted."""
    await (await make_keyed(pool))(pool)
    commit_again = await make_keyed(pool)
    [reservation] = await pool.fetch("SELECT vault_key, lease FROM reservations")
    nothing, doomed = await meet(
        pool,
        commit_again,
        lambda database: reservations.doom_reservation(
            database, reservation["vault_key"], reservation["lease"]
        ),
    )
    assert (nothing, doomed) == (None, True)


@pytest.mark.parametrize("what", ["extend", "name"])
async def test_an_update_of_a_reservation_that_waits_for_its_doom_fails(
    pool: asyncpg.Pool, streamed: reservations.HeldKey, what: str
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
async def test_statements_on_both_tables_lock_the_reservation_first(
    pool: asyncpg.Pool, held: Claim, what: str
) -> None:
    """Take the locks in this order, so that no two statements can wait for each other."""
    await pool.execute("UPDATE files SET grace_until = now(), expires_at = now()")
    async with held_open(pool) as holder:
        await holder.execute("SELECT FROM reservations FOR UPDATE")
        waiting = asyncio.create_task(awaited(OF_BOTH_TABLES[what](pool, held)))
        await until_waiting(pool, 1)
        # This raises LockNotAvailableError if the waiting statement has locked the file's row.
        await pool.execute("SELECT FROM files FOR UPDATE NOWAIT")
        await holder.execute("COMMIT")
        assert await waiting
