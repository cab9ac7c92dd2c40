"""Tests of an owner who uploads objects that are meant to disturb verification.

They run over HTTP, with the real store and its events.
"""

import asyncio

import httpx
import pytest

from service.resources import Resources
from tests.e2e.jobs import (
    announce,
    check_served,
    complete,
    declare,
    find_key,
    put,
    read_metadata,
    upload,
)

pytestmark = pytest.mark.anyio

BODY = b"what was sent" * 1000
MANY_FIELDS = {f"x-amz-meta-a{number}": "" for number in range(130)}


async def test_complete_accepts_more_header_fields_than_http_client_reads(
    client: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await declare(client, BODY)
    assert (await put(declared, BODY, MANY_FIELDS)).status == 200
    assert (await client.post(f"/files/{declared['file']['id']}/complete")).status_code in (
        200,
        202,
    )
    assert (await read_metadata(client, declared, wait=30))["state"] == "ready"
    await check_served(client, resources, declared, BODY)


async def test_healthy_uploads_are_proved_beside_poisoned_ones(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient, resources: Resources
) -> None:
    poisoned = [await declare(intruder, BODY) for _ in range(12)]
    for declared in poisoned:
        assert (await put(declared, BODY, MANY_FIELDS)).status == 200
    healthy = [await upload(client, BODY) for _ in range(5)]
    proved = await asyncio.gather(*(complete(client, declared) for declared in healthy))
    assert {metadata["state"] for metadata in proved} == {"ready"}
    for declared in healthy:
        await check_served(client, resources, declared, BODY)
    for declared in poisoned:
        await announce(client, resources.settings, await find_key(resources, declared))
        assert (await read_metadata(intruder, declared, wait=30))["state"] == "ready"
