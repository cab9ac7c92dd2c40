"""Failovers that lose a commit lose no file, because nothing is deleted within SWEEP_DELAY."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from service.files.lookup import delete_file
from service.model import File, State
from service.object_store import Bucket, StoreError
from service.operations.inspection import inspect_file
from service.queries import assemblies, sweeping
from service.resources import Resources, open_resources
from service.settings import DatabaseUrl, Delay, Secret, Settings
from service.worker.loop import Worker
from service.worker.sweeper import sweep
from tests.conftest import execute, in_database
from tests.integration.steps import (
    BODY,
    claim,
    claim_due,
    declare,
    find,
    let_settle,
    prove,
    run,
    send,
    send_parts,
)
from tests.support.clock import DAY, pass_time
from tests.support.faults import FaultyBucket
from tests.support.invariants import check_invariants, check_nothing_left, list_bucket
from tests.support.methods import ONLY_COPIED
from tests.support.objects import key_of, multipart_upload_of, put_as_root

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

DELAY = timedelta(minutes=5)
BEFORE_ITS_END = timedelta(minutes=4)
LEASE_OVER = timedelta(minutes=2)
REST = timedelta(minutes=1, seconds=1)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, sweep_delay=Delay(DELAY))


class Standby:
    """A copy of the database at one moment, which receives no later commit of the primary."""

    def __init__(self, admin_url: str, settings: Settings) -> None:
        self.admin_url = admin_url
        self.name = f"assay_{secrets.token_hex(6)}"
        self.primary = settings.database_url.rpartition("/")[2].partition("?")[0]
        self.settings = msgspec.structs.replace(
            settings, database_url=DatabaseUrl(Secret(in_database(admin_url, self.name)))
        )

    async def copy(self) -> None:
        """Copy the primary database, which must have no open connection."""
        await execute(self.admin_url, f"CREATE DATABASE {self.name} TEMPLATE {self.primary}")


@pytest.fixture
def standby(admin_url: str, settings: Settings) -> Iterator[Standby]:
    standby = Standby(admin_url, settings)
    yield standby
    asyncio.run(execute(admin_url, f"DROP DATABASE IF EXISTS {standby.name} WITH (FORCE)"))


async def sweep_within_the_delay(resources: Resources) -> None:
    """Sweep at once, and once more when the delay is almost over."""
    await sweep(resources)
    await pass_time(resources.pool, BEFORE_ITS_END)
    await sweep(resources)


@pytest.mark.parametrize(("declared", "verdict"), [(None, State.READY), ("x", State.REJECTED)])
async def test_a_lost_verdict_is_reached_again(
    settings: Settings, standby: Standby, declared: str | None, verdict: State
) -> None:
    async with open_resources(settings) as primary:
        await primary.guard.check()  # the marker is raised once, before the copy
        file = (await send(primary)).file
        held = await claim(primary, file)
        if declared is not None:
            await primary.pool.execute("UPDATE files SET declared_sha256 = sha256('x')")
            # The first mismatch is not yet a verdict.
            await run(primary, held)
            held = await claim_due(primary)
    await standby.copy()
    async with open_resources(settings) as primary:
        await run(primary, held)
        assert (await find(primary, file)).state == verdict
        await sweep_within_the_delay(primary)
        assert await list_bucket(primary.incoming) == {file.incoming_key}
    async with open_resources(standby.settings) as promoted:
        assert (await find(promoted, file)).state == State.VERIFYING
        await pass_time(promoted.pool, LEASE_OVER)
        await sweep(promoted)
        await run(promoted, await claim_due(promoted))
        assert (await find(promoted, file)).state == verdict
        await check_invariants(promoted)
        await let_settle(promoted)
        await check_nothing_left(promoted)


async def test_a_lost_deletion_leaves_the_object(settings: Settings, standby: Standby) -> None:
    async with open_resources(settings) as primary:
        await primary.guard.check()  # as above
        file = await prove(primary, (await send(primary)).file)
    await standby.copy()
    async with open_resources(settings) as primary:
        await delete_file(primary, file.id, owner="ann")
        await sweep_within_the_delay(primary)
    async with open_resources(standby.settings) as promoted:
        assert (await find(promoted, file)).state == State.READY
        await check_invariants(promoted)
        await delete_file(promoted, file.id, owner="ann")
        await let_settle(promoted)
        await check_nothing_left(promoted)


async def make_ready(resources: Resources) -> File:
    return await prove(resources, (await send(resources)).file)


async def make_rejected(resources: Resources) -> File:
    declared = await send(resources)
    await resources.pool.execute("UPDATE files SET declared_sha256 = sha256('x')")
    return await prove(resources, declared.file)


async def make_rejected_before_a_copy(resources: Resources) -> File:
    declared = await send(resources)
    await resources.pool.execute("UPDATE files SET size = size + 1")
    return await prove(resources, declared.file)


async def make_expired(resources: Resources) -> File:
    declared = await declare(resources)
    await pass_time(resources.pool, 3 * DAY)
    await run(resources, await claim_due(resources))
    return await find(resources, declared.file)


async def make_cancelled(resources: Resources) -> File:
    declared = await send(resources)
    await delete_file(resources, declared.file.id, owner="ann")
    return await find(resources, declared.file)


async def make_deleted(resources: Resources) -> File:
    file = await make_ready(resources)
    await delete_file(resources, file.id, owner="ann")
    return await find(resources, file)


MAKERS = {
    make_ready: State.READY,
    make_rejected: State.REJECTED,
    make_rejected_before_a_copy: State.REJECTED,
    make_expired: State.EXPIRED,
    make_cancelled: State.DELETED,
    make_deleted: State.DELETED,
}


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
async def test_objects_are_kept_for_the_delay_and_no_longer(
    resources: Resources, root_incoming: Bucket, make: Any
) -> None:
    file = await make(resources)
    assert file.state == MAKERS[make]
    if make is make_expired:
        await asyncio.to_thread(put_as_root, root_incoming, key_of(file), BODY)
    vault = {str(file.minio_object_name)} if file.minio_object_name else set()
    await sweep_within_the_delay(resources)
    assert await list_bucket(resources.incoming) == {file.incoming_key}
    assert await list_bucket(resources.vault) == vault
    assert "in incoming is swept in 0:0" in (await inspect_file(resources, file.id)).next
    await pass_time(resources.pool, REST)
    await sweep(resources)
    assert await list_bucket(resources.incoming) == set()
    assert await list_bucket(resources.vault) == (vault if file.state == State.READY else set())


async def test_only_the_first_deletion_waits_for_the_delay(resources: Resources) -> None:
    """Repeat each failed deletion after five minutes."""
    file = await make_deleted(resources)

    class FailingBucket(FaultyBucket):
        async def delete(self, *_: Any, **__: Any) -> None:
            raise StoreError("no")

        async def delete_many(self, *_: Any, **__: Any) -> list[str]:
            raise StoreError("no")

    failing = msgspec.structs.replace(
        resources, incoming=FailingBucket(resources.incoming), vault=FailingBucket(resources.vault)
    )
    await pass_time(resources.pool, DELAY)
    for _ in range(3):
        await sweep(failing)
        await pass_time(resources.pool, BEFORE_ITS_END)
        await sweep(resources)
        assert await list_bucket(resources.incoming) == {file.incoming_key}
        assert await list_bucket(resources.vault) == {str(file.minio_object_name)}
        await pass_time(resources.pool, REST)
    await sweep(resources)
    await check_nothing_left(resources)


async def test_parts_of_a_deleted_file_outlive_the_assemblys_lease_and_delay(
    resources: Resources,
) -> None:
    file = await send_parts(resources)
    assert await assemblies.claim_assembly(
        resources.pool, file.id, file.upload_id or "", timedelta(hours=1)
    )
    await delete_file(resources, file.id, owner="ann")
    for waited in (timedelta(hours=1), BEFORE_ITS_END):
        await pass_time(resources.pool, waited)
        await sweep(resources)
        assert len(await resources.incoming.list_parts(*multipart_upload_of(file))) == 2
    await pass_time(resources.pool, REST)
    await sweep(resources)
    await check_nothing_left(resources)


@ONLY_COPIED
@pytest.mark.usefixtures("method")
async def test_doomed_reservations_are_not_delayed(resources: Resources) -> None:
    await make_rejected(resources)
    # A mismatch becomes a verdict only after a second copy.
    assert len(await list_bucket(resources.vault)) == 2
    await sweep(resources)
    assert await list_bucket(resources.vault) == set()


class CountingPool:
    """A pool that counts the sweeps by one of their statements."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.sweeps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)

    async def fetch(self, statement: str, *args: Any) -> Any:
        self.sweeps += statement == sweeping.CLAIM_PURGES
        return await self.pool.fetch(statement, *args)


async def test_a_signal_about_leftovers_that_are_not_due_starts_no_sweep(
    resources: Resources,
) -> None:
    every = timedelta(seconds=0.3)
    pool: Any = CountingPool(resources.pool)
    patient = msgspec.structs.replace(
        resources,
        pool=pool,
        settings=msgspec.structs.replace(resources.settings, sweep_every=every),
    )
    begun_at = time.monotonic()
    task = asyncio.create_task(Worker(patient).run_sweeper())
    async with asyncio.timeout(20):
        while pool.sweeps < 3:
            resources.notifications.notify_leftovers()
            await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert time.monotonic() - begun_at >= 2 * every.total_seconds()
