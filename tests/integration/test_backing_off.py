"""Backing off: a worker does not retry in a busy loop.

The causes are an unavailable store, large files without a free slot, and a file that cannot be
proved.
"""

import asyncio
import math
from datetime import timedelta

import msgspec
import pytest

from service import clock
from service.marker import Standing
from service.object_store import ObjectChanged, RequestRefused
from service.resources import Resources, open_resources
from service.settings import Settings, Url
from service.uploads.arrivals import record_event
from service.uploads.declaring import Declared
from service.worker import store_health
from service.worker.loop import Worker
from tests.integration.steps import BODY, declare, put, working
from tests.support.claims import EVERY_KIND, claim_files
from tests.support.faults import FaultyBucket
from tests.support.methods import COPIED, SMALL, Method
from tests.support.objects import key_of
from tests.support.servers import free_port
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

SECOND = 1.0


async def announce(resources: Resources, *, size: int = len(BODY)) -> Declared:
    """Declare a file and record an arrival for it, although nothing was sent."""
    declared = await declare(resources, size=size)
    await record_event(resources, key_of(declared.file))
    return declared


async def count_attempts(resources: Resources) -> int:
    attempts: int = await resources.pool.fetchval("SELECT sum(attempts) FROM files")
    return attempts


async def test_no_file_is_claimed_while_the_store_is_unavailable(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_health, "LONGEST_WAIT", timedelta(milliseconds=100))
    away = msgspec.structs.replace(settings, s3_endpoint=Url(f"http://127.0.0.1:{free_port()}"))
    async with open_resources(away) as resources:
        # The marker was read before the store became unavailable.
        resources.guard.standing, resources.guard.due_at = Standing(0), math.inf
        for _ in range(50):
            await announce(resources)
        async with working(resources) as worker:
            # By then, the claims that were in progress have ended.
            await until(lambda: worker.health.failed_probes > 2 * resources.settings.worker_slots)
            before, probes = await count_attempts(resources), worker.health.failed_probes
            await until(lambda: worker.health.failed_probes > probes + 5)
            assert await count_attempts(resources) == before < 50


async def test_a_recovered_store_is_used_at_once_after_the_first_success(
    resources: Resources,
) -> None:
    worker = Worker(resources)
    # The wait for recovery is now one minute.
    worker.health.failed_probes, worker.health.failures = 1, 10
    waiting = asyncio.create_task(worker.health.wait_for_recovery())
    await announce(resources)
    [claim] = await claim_files(resources.pool, 1, lease=resources.settings.lease)
    # Nothing was sent. The store answers 404, which shows that it is available.
    await worker.verify(claim, clock.read_seconds())
    await asyncio.wait_for(waiting, 5)
    assert not worker.health.is_away


async def test_a_large_file_without_a_slot_does_not_wake_the_worker(resources: Resources) -> None:
    worker = Worker(resources)
    for _ in range(3):
        await announce(resources, size=2 * 1024**3)
    held = await claim_files(resources.pool, 2, lease=resources.settings.lease, kinds=EVERY_KIND)
    never = asyncio.Event()
    for claim in held:
        worker.running[asyncio.create_task(wait(never))] = claim
    assert (await worker.fill_slots()).total_seconds() > SECOND
    for task in worker.running:
        task.cancel()


async def wait(event: asyncio.Event) -> None:
    await event.wait()


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (COPIED, ObjectChanged("another ETag")),
        (COPIED, RequestRefused("too much metadata", status=400)),
        (SMALL, RequestRefused("too much metadata", status=400)),
    ],
    indirect=["method"],
)
async def test_a_repeatedly_refused_copy_delays_only_its_own_file(
    resources: Resources, method: Method, answer: Exception
) -> None:
    def refuse() -> None:
        raise answer

    declared = await announce(resources)
    vault = FaultyBucket(resources.vault)
    if method == COPIED:  # a probe copies as well
        vault.only = {key_of(declared.file)}
    vault.before[method.write] = refuse
    faulty = msgspec.structs.replace(resources, vault=vault)
    assert (await put(declared)).status == 200

    async def is_postponed() -> bool:
        return (await read_due(resources))[0] > 0

    async with working(faulty) as worker:
        await until(is_postponed)
        assert not worker.health.is_away
    due_in, attempts, reservations = await read_due(resources)
    assert due_in > 15
    assert attempts <= 2
    assert reservations == 0


async def read_due(resources: Resources) -> tuple[float, int, int]:
    """Return the seconds until the file is due, its attempts and its number of reservations.

    The seconds are 0 unless the file was released and is due in more than 10 s.
    """
    row = await resources.pool.fetchrow(
        """
        SELECT extract(epoch FROM due_at - now())::float8 AS due_in, lease, attempts,
               (SELECT count(*) FROM reservations) AS reservations
        FROM files
        """
    )
    given_back = row["lease"] is None and row["due_in"] > 10
    return row["due_in"] if given_back else 0, row["attempts"], row["reservations"]
