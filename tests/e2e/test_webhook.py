"""Tests of the webhook, which accepts every event of the store and refuses only wrong tokens."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from service.resources import Resources
from service.telemetry.metrics import LAST_EVENT
from tests.e2e.conftest import Apart, Api
from tests.e2e.jobs import (
    announce,
    declare,
    find_key,
    look_at,
    make_event,
    read_metadata,
    read_metric,
    upload,
    working,
)
from tests.support.trust import TRUSTED

pytestmark = pytest.mark.anyio

BYTES = b"some"


@pytest.fixture
async def hook(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client that sends the store's token."""
    async with httpx.AsyncClient(
        base_url=api.url,
        headers={"Authorization": f"Bearer {api.settings.webhook_token[0]}"},
        verify=TRUSTED,
    ) as client:
        yield client


def event(api: Api, key: str, **about: Any) -> dict[str, Any]:
    return make_event(api.settings.incoming_bucket, key, **about)


async def count_arrivals(resources: Resources, declared: Mapping[str, Any]) -> int:
    count: int = (await look_at(resources, declared)).row["arrivals"]
    return count


async def test_an_event_is_only_an_arrival_report(
    api: Api, client: httpx.AsyncClient, hook: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await declare(client, BYTES)
    answer = await hook.post(
        "/webhooks/minio", json=event(api, await find_key(resources, declared))
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert await count_arrivals(resources, declared) == 1
    metadata = await read_metadata(client, declared, wait=2)
    # The event is forged. There is no object, so the file cannot become final.
    assert metadata["state"] in ("pending", "verifying")
    assert metadata["hash"] is None


@pytest.mark.parametrize("name", ["s3:ObjectCreated:PutTagging", "s3:ObjectRemoved:Delete"])
async def test_other_events_are_not_arrival_reports(
    api: Api, client: httpx.AsyncClient, hook: httpx.AsyncClient, resources: Resources, *, name: str
) -> None:
    declared = await declare(client, BYTES)
    answer = await hook.post(
        "/webhooks/minio", json=event(api, await find_key(resources, declared), name=name)
    )
    assert answer.status_code == 204
    assert await count_arrivals(resources, declared) == 0


async def test_an_event_for_a_final_file_changes_nothing(
    api: Api, client: httpx.AsyncClient, hook: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await declare(client, BYTES)
    key = await find_key(resources, declared)
    await client.delete(f"/files/{declared['file']['id']}")
    assert (await hook.post("/webhooks/minio", json=event(api, key))).status_code == 204
    assert (await read_metadata(client, declared))["state"] == "deleted"


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"Records": [{"s3": 1}]}'],
    ids=lambda body: repr(body[:9]),
)
async def test_a_malformed_event_gets_204(hook: httpx.AsyncClient, content: bytes) -> None:
    assert (await hook.post("/webhooks/minio", content=content)).status_code == 204


async def test_an_event_for_an_unknown_key_gets_204(api: Api, hook: httpx.AsyncClient) -> None:
    for key in ("0" * 32, "%00", "a/b", "ä", "x" * 2000):
        assert (await hook.post("/webhooks/minio", json=event(api, key))).status_code == 204


async def test_an_event_that_is_too_large_is_read_and_ignored(
    api: Api, client: httpx.AsyncClient, hook: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await declare(client, BYTES)
    large = event(api, await find_key(resources, declared)) | {"padding": "x" * 2 * 1024**2}
    assert (await hook.post("/webhooks/minio", json=large)).status_code == 204
    assert await count_arrivals(resources, declared) == 0
    # The connection can be used again.
    assert (await hook.post("/webhooks/minio", content=b"x")).status_code == 204


@pytest.mark.parametrize("header", [None, "", "Bearer wrong", "Basic abc"])
async def test_a_wrong_token_is_refused_and_its_event_ignored(
    api: Api,
    client: httpx.AsyncClient,
    anonymous: httpx.AsyncClient,
    resources: Resources,
    *,
    header: str | None,
) -> None:
    declared = await declare(client, BYTES)
    headers = {} if header is None else {"Authorization": header}
    answer = await anonymous.post(
        f"{api.url}/webhooks/minio",
        json=event(api, await find_key(resources, declared)),
        headers=headers,
    )
    assert answer.status_code == 401
    assert await count_arrivals(resources, declared) == 0


async def test_an_api_key_is_not_accepted_as_a_webhook_token(client: httpx.AsyncClient) -> None:
    assert (await client.post("/webhooks/minio", json={})).status_code == 401


async def test_a_head_request_gets_204_without_a_token(
    api: Api, anonymous: httpx.AsyncClient
) -> None:
    assert (await anonymous.head(f"{api.url}/webhooks/minio")).status_code == 204


async def test_the_last_event_is_in_the_metrics(api: Api, hook: httpx.AsyncClient) -> None:
    LAST_EVENT.set(0)
    await hook.post("/webhooks/minio", json=event(api, "0" * 32))
    assert 0 <= await read_metric(hook, "assay_last_event_age_seconds") < 30
    assert await read_metric(hook, "assay_last_event_timestamp_seconds") > 0


async def test_each_arrival_is_counted_by_its_source(apart: Apart) -> None:
    """Check the count of each source of arrivals.

    Any one of the three sources suffices, so only these counts show that one of them has failed.
    """

    async def count(source: str) -> float:
        return await read_metric(apart.client, "assay_arrivals_total", source=source)

    announced, completed, found = [await upload(apart.client, BYTES) for _ in range(3)]
    before = {source: await count(source) for source in ("event", "complete", "sweep")}
    # Events of other tests' files may be counted meanwhile, but not as many as these.
    repeats = 20
    for _ in range(repeats):
        key = await find_key(apart.resources, announced)
        assert (await announce(apart.client, apart.resources.settings, key)).status_code == 204
    assert await count("event") >= before["event"] + repeats
    assert await count("complete") == before["complete"]
    await apart.client.post(f"/files/{completed['file']['id']}/complete")
    assert await count("complete") == before["complete"] + 1
    await apart.resources.pool.execute(
        "UPDATE files SET due_at = now() WHERE id = $1", found["file"]["id"]
    )
    async with working(apart.resources):
        for declared in (announced, completed, found):
            assert (await read_metadata(apart.client, declared, wait=20))["state"] == "ready"
    assert await count("sweep") >= before["sweep"] + 1
    assert await count("complete") == before["complete"] + 1
