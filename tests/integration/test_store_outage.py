"""A long outage of the store.

A file is retried every few seconds, and is proved when the store is available again.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta

import msgspec
import pytest

from service import clock
from service.model import State
from service.resources import Resources, open_resources
from service.settings import Settings, Url
from service.worker.loop import Worker
from service.worker.store_health import PROBE_AFTER
from tests.integration.steps import claim, find, let_settle, send
from tests.support.claims import claim_files
from tests.support.clock import pass_time
from tests.support.invariants import check_nothing_left
from tests.support.proxies import FaultyProxy, faulty_way

pytestmark = [pytest.mark.anyio, pytest.mark.own_deployment]

DUE_IN = "SELECT extract(epoch FROM due_at - now())::float8 FROM files"
OUTAGES: dict[str, Callable[[FaultyProxy], None]] = {
    "dies": FaultyProxy.cut,
    "answers 503": FaultyProxy.fail,
}


@pytest.fixture
def way(settings: Settings) -> Iterator[tuple[FaultyProxy, Settings]]:
    """Yield a proxy for the store, and settings that use it."""
    with faulty_way(settings.s3_endpoint) as (proxy, endpoint):
        yield (
            proxy,
            msgspec.structs.replace(
                settings, s3_endpoint=Url(endpoint), s3_public_endpoint=settings.s3_endpoint
            ),
        )


@pytest.mark.parametrize("outage", OUTAGES)
async def test_verification_continues_within_seconds_of_the_stores_return(
    resources: Resources, way: tuple[FaultyProxy, Settings], outage: str
) -> None:
    proxy, settings = way
    declared = await send(resources)
    async with open_resources(settings) as through_proxy:
        worker = Worker(through_proxy)
        held = await claim(resources, declared.file)
        OUTAGES[outage](proxy)
        for failures in range(1, 9):
            await worker.verify(held, clock.read_seconds())
            assert worker.health.failures >= failures
            # The second consecutive failure of the file causes a probe.
            assert worker.health.is_away == (failures > 1)
            due_in = await resources.pool.fetchval(DUE_IN)
            assert min(2**failures, 10) - 5 < due_in <= 10
            await pass_time(resources.pool, timedelta(minutes=1))
            [held] = await claim_files(resources.pool, 1, lease=resources.settings.lease)
        proxy.restore()
        await worker.verify(held, clock.read_seconds())
        assert not worker.health.is_away
    assert (await find(resources, declared.file)).state == State.READY
    assert await resources.pool.fetchval("SELECT failed_reads FROM files") == 0
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_failures_of_several_files_in_a_row_cause_a_probe(
    resources: Resources, way: tuple[FaultyProxy, Settings]
) -> None:
    proxy, settings = way
    sent = [await send(resources) for _ in range(PROBE_AFTER)]
    async with open_resources(settings) as through_proxy:
        worker = Worker(through_proxy)
        held = [await claim(resources, declared.file) for declared in sent]
        proxy.cut()
        for one in held[:-1]:
            await worker.verify(one, clock.read_seconds())
        assert not worker.health.is_away
        await worker.verify(held[-1], clock.read_seconds())
        assert worker.health.is_away
        proxy.restore()
        assert await worker.health.probe()
        assert not worker.health.is_away
    assert await resources.pool.fetchval("SELECT count(*) FROM reservations") == 0
    for declared in sent:
        assert (await find(resources, declared.file)).state == State.VERIFYING
