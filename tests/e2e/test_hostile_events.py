"""Tests of events that are suppressed, forged, repeated or reordered.

Events are only hints. The outcome of a file must depend on its bytes alone.
"""

import asyncio
import random
from typing import Any

import httpx
import pytest

from service.resources import Resources
from tests.e2e.jobs import (
    TEXT,
    announce,
    check_all,
    check_served,
    complete,
    declare,
    digest,
    find_key,
    look_at,
    open_upload,
    put,
    read_metadata,
    upload,
    upload_silently,
)
from tests.support.presigned import OPEN
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

BODY = b"what was sent" * 1000
OTHER = BODY.upper()


async def suppress_event(
    client: httpx.AsyncClient, resources: Resources, server: str
) -> dict[str, Any]:
    """Upload a file, with a URL that forbids no header, so that the store sends no event.

    Skip the test if the store refuses the headers.
    """
    declared, status = await upload_silently(client, BODY, unbound=resources)
    assert status in OPEN["forged time and ETag"][server]
    if status != 200:
        pytest.skip("a client of this store cannot suppress an event")
    return declared


async def test_an_upload_whose_event_was_suppressed_is_found_by_complete(
    client: httpx.AsyncClient, resources: Resources, server: str
) -> None:
    declared = await suppress_event(client, resources, server)
    assert (await complete(client, declared))["state"] == "ready"
    await check_served(client, resources, declared, BODY)


async def test_an_upload_whose_event_was_suppressed_is_found_by_the_schedule(
    client: httpx.AsyncClient, resources: Resources, server: str
) -> None:
    declared = await suppress_event(client, resources, server)
    announced = await upload(client, BODY)
    assert (await read_metadata(client, announced, wait=20))["state"] == "ready"
    row = (await look_at(resources, declared)).row
    assert (row["state"], row["arrivals"], row["attempts"]) == ("pending", 0, 0)
    await resources.pool.execute(
        "UPDATE files SET due_at = now() WHERE id = $1", declared["file"]["id"]
    )
    assert (await read_metadata(client, declared, wait=20))["state"] == "ready"
    await check_served(client, resources, declared, BODY)


async def test_a_forged_event_without_an_object_leaves_the_file_pending(
    client: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await declare(client, BODY)
    key = await find_key(resources, declared)
    lies = {
        "size": len(BODY),
        "eTag": "0" * 32,
        "contentType": TEXT,
        "userMetadata": {"hash": digest(OTHER), "state": "ready"},
    }
    assert (await announce(client, resources.settings, key, **lies)).status_code == 204

    async def looked() -> bool:
        row = (await look_at(resources, declared)).row
        return bool(row["attempts"] and row["lease"] is None)

    await until(looked)
    traces = await look_at(resources, declared)
    assert (traces.row["state"], traces.row["hash"], traces.reservations) == ("pending", None, 0)
    assert (await put(declared, BODY)).status == 200
    assert (await read_metadata(client, declared, wait=20))["state"] == "ready"
    await check_served(client, resources, declared, BODY)


async def test_each_file_is_proved_regardless_of_its_events(
    client: httpx.AsyncClient, resources: Resources, server: str
) -> None:
    may_suppress = OPEN["suppressed event"][server] == {200}
    order = random.Random(7)  # noqa: S311  # determines an order, not a secret
    bodies = [b"%d " % number + BODY for number in range(12)]
    declared = [await declare(client, body) for body in bodies]
    keys = [await find_key(resources, one) for one in declared]

    async def send_events() -> None:
        for key in order.sample(keys * 6, len(keys) * 6):
            assert (
                await announce(client, resources.settings, key, size=order.randrange(99))
            ).status_code == 204

    async def send_bodies() -> None:
        for one, body in order.sample(list(zip(declared, bodies, strict=True)), len(bodies)):
            if may_suppress and order.random() < 0.5:
                silently = {"x-minio-source-replication-request": "true"}
                assert (await put(await open_upload(resources, one), body, silently)).status == 200
            else:
                assert (await put(one, body)).status == 200

    await asyncio.gather(send_events(), send_events(), send_bodies())
    for one, body in zip(declared, bodies, strict=True):
        await complete(client, one)
        await check_served(client, resources, one, body)
    await check_all(resources)
