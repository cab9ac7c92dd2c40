"""The removal of leftovers of every state, including late ones, while some deletions fail."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from service.files.lookup import delete_file
from service.model import File, State
from service.object_store import Bucket, StoreError
from service.object_store.client import Client
from service.object_store.messages import Answer, Deadline, Request
from service.queries import sweeping
from service.resources import Resources
from service.uploads.arrivals import record_event
from service.worker.sweeper import sweep
from tests.integration.steps import (
    claim_due,
    declare,
    find,
    let_settle,
    prove,
    put,
    read_row,
    run,
    send,
)
from tests.support import damage
from tests.support.clock import DAY, pass_time
from tests.support.faults import FaultyBucket, FaultyPool, lose_answer, lose_connection
from tests.support.invariants import check_nothing_left, list_bucket
from tests.support.objects import key_of
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


async def make_pending(resources: Resources) -> File:
    return (await declare(resources)).file


async def make_verifying(resources: Resources) -> File:
    declared = await send(resources)
    await record_event(resources, key_of(declared.file))
    return declared.file


async def make_ready(resources: Resources) -> File:
    return await prove(resources, (await send(resources)).file)


async def make_damaged(resources: Resources) -> File:
    """Return a file in the state `damaged`, which no code of the service sets yet."""
    file = await make_ready(resources)
    await damage.make_damaged(resources.pool, file.id)
    return file


async def make_rejected(resources: Resources) -> File:
    declared = await send(resources)
    await resources.pool.execute(
        "UPDATE files SET declared_sha256 = sha256('x') WHERE id = $1", declared.file.id
    )
    return await prove(resources, declared.file)


async def make_expired(resources: Resources) -> File:
    declared = await declare(resources)
    await pass_time(resources.pool, 3 * DAY)
    await run(resources, await claim_due(resources))
    return declared.file


MAKERS = {
    State.PENDING: make_pending,
    State.VERIFYING: make_verifying,
    State.READY: make_ready,
    State.DAMAGED: make_damaged,
    State.REJECTED: make_rejected,
    State.EXPIRED: make_expired,
}


@pytest.mark.parametrize("state", [state for state in State if state != State.DELETED])
async def test_a_file_is_deleted_in_every_state(resources: Resources, state: State) -> None:
    file = await MAKERS[state](resources)
    assert (await find(resources, file)).state == state
    await delete_file(resources, file.id, owner="ann")
    await delete_file(resources, file.id, owner="ann")
    assert (await find(resources, file)).state == State.DELETED
    await let_settle(resources)
    assert await list_bucket(resources.incoming) | await list_bucket(resources.vault) == set()


async def test_a_put_that_ends_after_the_deletion_of_its_file_is_swept(
    resources: Resources,
) -> None:
    declared = await declare(resources)
    await delete_file(resources, declared.file.id, owner="ann")
    await sweep(resources)
    assert (await put(declared)).status == 200
    await let_settle(resources)
    assert await list_bucket(resources.incoming) == set()


async def test_one_row_that_cannot_be_swept_blocks_no_other(resources: Resources) -> None:
    first, second = await make_ready(resources), await make_ready(resources)
    for file in (first, second):
        await delete_file(resources, file.id, owner="ann")
    stuck = str(first.minio_object_name)

    class FailingBucket(FaultyBucket):
        async def delete(self, key: str, **options: Any) -> None:
            if key == stuck:
                raise StoreError("no")
            await self.bucket.delete(key, **options)

    await sweep(msgspec.structs.replace(resources, vault=FailingBucket(resources.vault)))
    assert await list_bucket(resources.vault) == {stuck}
    await let_settle(resources)
    assert await list_bucket(resources.vault) == set()


class StuckClient:
    """A client that holds the DELETE of one key until it is released.

    A store does this while a stalled reader holds the object.
    """

    def __init__(self, client: Client, key: str) -> None:
        self.client = client
        self.key = key
        self.reached = asyncio.Event()
        self.released = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    async def exchange(self, request: Request, deadline: Deadline) -> Answer:
        if (request.method, request.key) == ("DELETE", self.key):
            self.reached.set()
            await asyncio.wait_for(self.released.wait(), 60)
        return await self.client.exchange(request, deadline)


@asynccontextmanager
async def stuck_at(resources: Resources, key: str) -> AsyncIterator[tuple[Resources, StuckClient]]:
    client: Any = StuckClient(resources.vault.client, key)
    vault = Bucket(client, resources.vault.name, run=asyncio.to_thread)
    try:
        yield msgspec.structs.replace(resources, vault=vault), client
    finally:
        client.released.set()


async def make_deleted(resources: Resources, *, count: int) -> list[File]:
    """Delete files, and return them when only their vault objects are left."""
    ready = [await make_ready(resources) for _ in range(count)]
    await sweep(resources)
    for file in ready:
        await delete_file(resources, file.id, owner="ann")
    await resources.pool.execute("UPDATE files SET sweep_at = NULL")
    return ready


async def is_all_that_is_left(resources: Resources, name: str) -> bool:
    return (
        await list_bucket(resources.vault) == {name}
        and await list_bucket(resources.incoming) == set()
    )


async def test_a_deletion_that_the_store_blocks_delays_nothing_else(
    resources: Resources,
) -> None:
    first, _ = await make_deleted(resources, count=2)
    stuck = str(first.minio_object_name)
    await make_rejected(resources)
    async with stuck_at(resources, stuck) as (held_up, client):
        task = asyncio.create_task(sweep(held_up))
        await asyncio.wait_for(client.reached.wait(), 60)
        await until(lambda: is_all_that_is_left(resources, stuck))
        assert (await make_ready(held_up)).state == State.READY
        await make_deleted(resources, count=1)
        # A sweep by another process does not wait for the blocked deletion either.
        await sweep(resources)
        assert len(await list_bucket(resources.vault)) == 2
        assert not task.done()
        client.released.set()
        await task
    assert await sweeping.claim_deleted_objects(resources.pool, 9, timedelta(0), counter=0) == []
    await check_nothing_left(resources)


async def test_an_incoming_key_that_the_store_does_not_delete_blocks_no_other(
    resources: Resources,
) -> None:
    poisoned, other = await make_ready(resources), await make_ready(resources)

    class PoisonedBucket(FaultyBucket):
        async def delete_many(self, keys: list[str], **options: Any) -> list[str]:
            found: list[str] = await self.bucket.delete_many(
                [key for key in keys if key != poisoned.incoming_key], **options
            )
            return [*found, key_of(poisoned)]

    await sweep(msgspec.structs.replace(resources, incoming=PoisonedBucket(resources.incoming)))
    assert await list_bucket(resources.incoming) == {poisoned.incoming_key}
    assert [(await read_row(resources, file))["sweeps"] for file in (poisoned, other)] == [0, 1]
    assert (await read_row(resources, poisoned))["sweep_later"]
    await pass_time(resources.pool, timedelta(minutes=5))
    await sweep(resources)
    await check_nothing_left(resources)


async def test_a_key_that_is_invalid_for_the_store_blocks_no_other(
    resources: Resources, store: StoreUnderTest
) -> None:
    """Sweep an invalid key.

    MinIO refuses it within the batch, and the embedded store reports it as deleted.
    """
    poisoned, _ = await make_ready(resources), await make_ready(resources)
    await resources.pool.execute(
        "UPDATE files SET incoming_key = '../poisoned' WHERE id = $1", poisoned.id
    )
    await sweep(resources)
    assert await list_bucket(resources.incoming) == {poisoned.incoming_key}
    assert (await read_row(resources, poisoned))["sweeps"] == (1 if store.kind == "embedded" else 0)


async def test_a_sweeper_that_dies_leaves_the_object_to_the_next_deletion(
    resources: Resources,
) -> None:
    file = await make_ready(resources)
    await die_in_sweep(resources)
    assert await list_bucket(resources.incoming) == {file.incoming_key}
    await pass_time(resources.pool, 3 * DAY)
    await sweep(resources)
    assert await list_bucket(resources.incoming) == set()
    assert (await read_row(resources, file))["sweeps"] == 2


async def test_a_sweeper_that_is_stopped_postpones_its_keys_by_five_minutes(
    resources: Resources,
) -> None:
    file = await make_ready(resources)
    await stop_in_sweep(resources)
    assert await list_bucket(resources.incoming) == {file.incoming_key}
    assert (await read_row(resources, file))["sweeps"] == 0
    await pass_time(resources.pool, timedelta(minutes=5))
    await sweep(resources)
    assert await list_bucket(resources.incoming) == set()
    await check_nothing_left(resources)


async def test_a_file_that_is_deleted_during_a_failed_sweep_is_due_at_once(
    resources: Resources,
) -> None:
    file = await make_ready(resources)
    incoming = FaultyBucket(resources.incoming)

    async def delete_once() -> None:
        del incoming.before["delete_many"]
        await delete_file(resources, file.id, owner="ann")
        lose_answer()

    incoming.before["delete_many"] = delete_once
    await sweep(msgspec.structs.replace(resources, incoming=incoming))
    assert (await read_row(resources, file))["sweeps"] == 1
    assert incoming.calls["delete_many"] == 1
    assert await list_bucket(resources.incoming) | await list_bucket(resources.vault) == set()


async def test_the_last_deletion_is_repeated_until_the_store_confirms_it(
    resources: Resources,
) -> None:
    file = await make_ready(resources)
    await resources.pool.execute("UPDATE files SET sweeps = 3, sweep_at = now()")
    incoming = FaultyBucket(resources.incoming)
    incoming.before["delete_many"] = lose_answer
    await sweep(msgspec.structs.replace(resources, incoming=incoming))
    assert (await read_row(resources, file))["sweep_later"]
    await pass_time(resources.pool, timedelta(minutes=5))
    await die_in_sweep(resources)
    assert (await read_row(resources, file))["sweep_later"]
    assert await list_bucket(resources.incoming) == {file.incoming_key}
    await pass_time(resources.pool, timedelta(minutes=5))
    await sweep(resources)
    row = await read_row(resources, file)
    assert (row["sweeps"], row["sweep_later"]) == (4, None)
    await check_nothing_left(resources)


async def die_in_sweep(resources: Resources) -> None:
    """End a sweep before its request reaches the store. The database records nothing of it."""
    pool = FaultyPool(resources.pool, sweeping.KEEP_INCOMING, before=lose_connection)
    await stop_in_sweep(msgspec.structs.replace(resources, pool=pool))


async def stop_in_sweep(resources: Resources) -> None:
    """Cancel a sweep before its request reaches the store, as a worker does when it stops."""
    incoming, reached = FaultyBucket(resources.incoming), asyncio.Event()

    async def wait_forever() -> None:
        reached.set()
        await asyncio.Event().wait()

    incoming.before["delete_many"] = wait_forever
    task = asyncio.create_task(sweep(msgspec.structs.replace(resources, incoming=incoming)))
    await asyncio.wait_for(reached.wait(), 60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
