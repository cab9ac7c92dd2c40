"""Shares of a worker's slots: between owners, and between files that arrived and looks."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable

import asyncpg
import msgspec
import pytest

from service.model import Claim, State, Work
from service.queries import claims, files
from service.queries.history import list_history
from service.resources import Resources
from service.settings import Count
from service.worker.loop import SMALL_A_CLAIM, SMALL_AT_ONCE, Worker
from service.worker.small_files import SMALL_BYTES
from tests.integration.steps import declare, find, send, working
from tests.support.claims import claim_files
from tests.support.invariants import check_invariants, list_bucket
from tests.support.objects import key_of
from tests.support.rows import LEASE, declare_row, make_declaration
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

MEDIUM_BYTES = SMALL_BYTES + 1

ANNOUNCED = """
    INSERT INTO files (id, owner, filename, size, metadata, incoming_key, state, expires_at,
                       grace_until, due_at, changed_by)
    SELECT gen_random_uuid(), $1, 'name', $4, '{}', gen_random_uuid()::text, $2,
           now() + interval '1 day', now() + interval '1 day', now() - interval '1 hour', 'client'
    FROM generate_series(1, $3)
"""


class IdleWorker(Worker):
    """A worker whose verifications never end."""

    async def verify(self, claim: Claim, claimed_at: float) -> None:  # noqa: ARG002  # as in Worker
        await asyncio.Event().wait()

    def count_owners(self, kinds: Iterable[Work]) -> Counter[str]:
        return Counter(claim.owner for claim in self.running.values() if claim.work in {*kinds})


@pytest.fixture
async def worker(resources: Resources) -> AsyncIterator[IdleWorker]:
    settings = msgspec.structs.replace(resources.settings, worker_slots=Count(4))
    worker = IdleWorker(msgspec.structs.replace(resources, settings=settings))
    yield worker
    for task in worker.running:
        task.cancel()


async def insert(
    pool: asyncpg.Pool, owner: str, count: int, state: State, *, size: int = MEDIUM_BYTES
) -> None:
    """Insert due files of an owner. They have been due for an hour."""
    await pool.execute(ANNOUNCED, owner, state, count, size, timeout=60)


async def announce(pool: asyncpg.Pool, owner: str, *, size: int = MEDIUM_BYTES) -> None:
    file = await declare_row(pool, make_declaration(owner=owner, size=size))
    await files.record_event(pool, key_of(file))


async def test_an_owner_has_half_of_the_slots_while_another_waits(
    resources: Resources, worker: IdleWorker
) -> None:
    await insert(resources.pool, "greedy", 100, State.VERIFYING)
    for _ in range(3):
        await announce(resources.pool, "modest")
    await worker.fill_slots()
    assert worker.count_owners([Work.MEDIUM]) == {"greedy": 2, "modest": 2}


async def test_an_owner_has_every_slot_while_no_other_waits(
    resources: Resources, worker: IdleWorker
) -> None:
    await insert(resources.pool, "greedy", 100, State.VERIFYING)
    await worker.fill_slots()
    assert worker.count_owners([Work.MEDIUM]) == {"greedy": 4}


async def test_a_freed_slot_goes_to_the_owner_that_has_none(
    resources: Resources, worker: IdleWorker
) -> None:
    await insert(resources.pool, "greedy", 100, State.VERIFYING)
    await worker.fill_slots()
    await announce(resources.pool, "modest")
    await end(worker, [*worker.running][:1])
    await worker.fill_slots()
    assert worker.count_owners([Work.MEDIUM]) == {"greedy": 3, "modest": 1}


async def test_small_files_are_shared_between_owners(
    resources: Resources, worker: IdleWorker
) -> None:
    await insert(resources.pool, "greedy", 100, State.VERIFYING, size=SMALL_BYTES)
    for _ in range(3):
        await announce(resources.pool, "modest", size=1)
    await worker.fill_slots()
    assert worker.count_owners([Work.SMALL]) == {"greedy": SMALL_A_CLAIM - 3, "modest": 3}
    assert worker.free_slots(Work.MEDIUM) == worker.slots


async def test_small_files_begin_many_at_once(
    resources: Resources, worker: IdleWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.worker.loop.SMALL_PAUSE_SECONDS", 3600.0)
    await insert(resources.pool, "greedy", 100, State.VERIFYING, size=1)
    while worker.free_slots(Work.SMALL):
        await worker.fill_slots()
    assert len(worker.running) == SMALL_AT_ONCE
    await announce(resources.pool, "modest", size=1)
    claimed = [*worker.running]
    resources.notifications.work.clear()
    await end(worker, claimed[1:SMALL_A_CLAIM])
    assert worker.free_slots(Work.SMALL) == 0
    assert not resources.notifications.work.is_set()
    await end(worker, claimed[:1])
    assert resources.notifications.work.is_set()  # the loop wakes
    await worker.fill_slots()
    assert worker.count_owners([Work.SMALL])["modest"] == 1
    assert len(worker.running) == SMALL_AT_ONCE


async def test_slow_small_files_delay_no_others(
    resources: Resources, worker: IdleWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.worker.loop.SMALL_PAUSE_SECONDS", 3600.0)
    await insert(resources.pool, "greedy", SMALL_A_CLAIM, State.VERIFYING, size=1)
    await worker.fill_slots()
    await announce(resources.pool, "greedy", size=1)
    await worker.fill_slots()
    assert len(worker.running) == SMALL_A_CLAIM + 1
    await announce(resources.pool, "modest", size=1)
    await worker.fill_slots()
    assert not worker.count_owners([Work.SMALL])["modest"]
    monkeypatch.setattr("service.worker.loop.SMALL_PAUSE_SECONDS", 0.0)
    await worker.fill_slots()
    assert worker.count_owners([Work.SMALL])["modest"] == 1


async def test_large_and_medium_files_of_an_owner_count_together(
    resources: Resources, worker: IdleWorker
) -> None:
    for _ in range(9):
        large = await declare_row(
            resources.pool, make_declaration(owner="greedy", size=2 * 1024**3)
        )
        await files.record_event(resources.pool, key_of(large))
    await insert(resources.pool, "greedy", 9, State.VERIFYING)
    await insert(resources.pool, "modest", 9, State.VERIFYING)
    await worker.fill_slots()
    assert worker.count_owners([Work.LARGE]) == {"greedy": 2}
    assert worker.count_owners([Work.MEDIUM]) == {"modest": 2}


async def test_files_that_were_never_sent_delay_no_announced_file(
    resources: Resources, worker: IdleWorker
) -> None:
    await insert(resources.pool, "greedy", 4000, State.PENDING)
    await announce(resources.pool, "modest")
    await worker.fill_slots()
    assert worker.count_owners([Work.MEDIUM]) == {"modest": 1}
    assert worker.count_owners([Work.LOOK]) == {"greedy": 2}


async def test_looks_are_shared_between_owners(resources: Resources, worker: IdleWorker) -> None:
    await insert(resources.pool, "greedy", 100, State.PENDING)
    await insert(resources.pool, "modest", 1, State.PENDING)
    await worker.fill_slots()
    assert worker.count_owners([Work.LOOK]) == {"greedy": 1, "modest": 1}


async def test_every_owner_has_a_turn_when_there_are_many(
    resources: Resources, worker: IdleWorker
) -> None:
    owners = {f"owner{number:03}" for number in range(2 * claims.MOST_OWNERS + 9)}
    for owner in owners:
        await insert(resources.pool, owner, 2, State.VERIFYING)
    served: set[str] = set()
    for _ in range(len(owners)):  # twice as many turns as four slots need
        await worker.fill_slots()
        served |= worker.count_owners([Work.MEDIUM]).keys()
        await end(worker, [*worker.running])
    assert served == owners


async def end(worker: IdleWorker, claimed: Iterable[asyncio.Task[None]]) -> None:
    ended = {*claimed}
    for task in ended:
        task.cancel()
    await until(lambda: not ended & worker.running.keys())


async def test_a_worker_skips_rows_that_another_one_is_claiming(resources: Resources) -> None:
    await insert(resources.pool, "ann", 5, State.VERIFYING)
    async with resources.pool.acquire() as other, other.transaction():
        assert len(await claim_files(other, 3, lease=LEASE)) == 3
        assert len(await claim_files(resources.pool, 3, lease=LEASE)) == 2


async def test_a_file_that_only_a_look_found_is_verified(resources: Resources) -> None:
    declared = await send(resources)
    await resources.pool.execute("UPDATE files SET due_at = now()")
    async with working(resources):

        async def is_ready() -> bool:
            return (await find(resources, declared.file)).state == State.READY

        await until(is_ready)
    file = await find(resources, declared.file)
    states = [(row.state, row.by, row.why) for row in await list_history(resources.pool, file.id)]
    assert (State.VERIFYING, "worker", "the worker found the upload") in states
    await check_invariants(resources)
    assert await list_bucket(resources.vault) == {str(file.minio_object_name)}


async def test_a_look_at_a_missing_object_leaves_no_reservation(resources: Resources) -> None:
    declared = await declare(resources)
    await resources.pool.execute("UPDATE files SET due_at = now()")
    async with working(resources):

        async def was_looked_at() -> bool:
            return bool(
                await resources.pool.fetchval(
                    "SELECT attempts > 0 AND lease IS NULL FROM files WHERE id = $1",
                    declared.file.id,
                )
            )

        await until(was_looked_at)
    assert (await find(resources, declared.file)).state == State.PENDING
    assert await resources.pool.fetchval("SELECT count(*) FROM reservations") == 0
