"""A store that is away for long, as one file sees it: asked for ever more seldom, but each minute, and proved at its return."""

import time
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from service.model import State
from service.queries import claims
from service.resources import Resources
from service.worker import Worker
from tests.clock import pass_time
from tests.faults import FaultyBucket, lose_answer
from tests.integration.steps import claim, find, let_settle, send
from tests.invariants import check_nothing_left

pytestmark = pytest.mark.anyio

DUE_IN = "SELECT extract(epoch FROM due_at - now())::float8 FROM files"


@pytest.mark.parametrize(("bucket", "call"), [("incoming", "head"), ("vault", "copy_from"), ("vault", "open")])
async def test_verification_goes_on_within_a_minute_of_the_stores_return(resources: Resources, bucket: str, call: str) -> None:
    declared = await send(resources)
    faulty = FaultyBucket(getattr(resources, bucket))
    faulty.before[call] = lose_answer
    changed: dict[str, Any] = {bucket: faulty}
    worker = Worker(msgspec.structs.replace(resources, **changed))
    held = await claim(resources, declared.file)
    for errors in range(1, 9):
        await worker.verify(held, time.monotonic())
        assert worker.errors == errors
        due_in = await resources.pool.fetchval(DUE_IN)
        assert min(2 ** (errors - 1), 60) - 5 < due_in <= 60
        await pass_time(resources.pool, timedelta(minutes=1))
        [held] = await claims.claim_small(resources.pool, 1, resources.settings.lease)
    faulty.before.clear()
    await worker.verify(held, time.monotonic())
    assert worker.errors == 0
    assert (await find(resources, declared.file)).state == State.READY
    await let_settle(resources)
    await check_nothing_left(resources)
