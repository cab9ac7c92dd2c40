"""The store's events: hints that are never refused, but for a wrong token."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from service.resources import Resources
from tests.e2e.conftest import Api

pytestmark = pytest.mark.anyio

FILE: dict[str, Any] = {"filename": "a.txt", "size": 1}


@pytest.fixture
async def hook(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    """The store's place."""
    async with httpx.AsyncClient(base_url=api.url, headers={"Authorization": f"Bearer {api.settings.webhook_token[0]}"}) as client:
        yield client


def event(api: Api, key: str, *, name: str = "s3:ObjectCreated:Put") -> dict[str, Any]:
    record = {"eventName": name, "s3": {"bucket": {"name": api.settings.incoming_bucket}, "object": {"key": key, "size": 1}}}
    return {"EventName": name, "Key": f"{api.settings.incoming_bucket}/{key}", "Records": [record]}


async def declare(client: httpx.AsyncClient) -> str:
    return str((await client.post("/files", json=FILE)).json()["file"]["id"])


async def find_key(resources: Resources, file_id: str) -> str:
    key: str = await resources.pool.fetchval("SELECT incoming_key FROM files WHERE id = $1", file_id)
    return key


async def count_notices(resources: Resources, file_id: str) -> int:
    count: int = await resources.pool.fetchval("SELECT notices FROM files WHERE id = $1", file_id)
    return count


async def test_an_event_is_a_notice_and_no_more(api: Api, client: httpx.AsyncClient, hook: httpx.AsyncClient, resources: Resources) -> None:
    file_id = await declare(client)
    answer = await hook.post("/webhooks/minio", json=event(api, await find_key(resources, file_id)))
    assert (answer.status_code, answer.content) == (204, b"")
    assert await count_notices(resources, file_id) == 1
    metadata = (await client.get(f"/files/{file_id}/metadata", params={"wait": 2})).json()
    assert metadata["state"] in ("pending", "verifying")  # forged: nothing lies there, so nothing becomes of it
    assert metadata["hash"] is None


@pytest.mark.parametrize("name", ["s3:ObjectCreated:PutTagging", "s3:ObjectRemoved:Delete"])
async def test_other_events_are_no_notice(
    api: Api, client: httpx.AsyncClient, hook: httpx.AsyncClient, resources: Resources, *, name: str
) -> None:
    file_id = await declare(client)
    answer = await hook.post("/webhooks/minio", json=event(api, await find_key(resources, file_id), name=name))
    assert answer.status_code == 204
    assert await count_notices(resources, file_id) == 0


async def test_an_event_for_a_final_file_changes_nothing(
    api: Api, client: httpx.AsyncClient, hook: httpx.AsyncClient, resources: Resources
) -> None:
    file_id = await declare(client)
    key = await find_key(resources, file_id)
    await client.delete(f"/files/{file_id}")
    assert (await hook.post("/webhooks/minio", json=event(api, key))).status_code == 204
    assert (await client.get(f"/files/{file_id}/metadata")).json()["state"] == "deleted"


@pytest.mark.parametrize(
    "content", [b"", b"x", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"Records": [{"s3": 1}]}'], ids=lambda body: repr(body[:9])
)
async def test_what_cannot_be_read_is_taken_all_the_same(hook: httpx.AsyncClient, content: bytes) -> None:
    assert (await hook.post("/webhooks/minio", content=content)).status_code == 204


async def test_an_unknown_key_is_taken_all_the_same(api: Api, hook: httpx.AsyncClient) -> None:
    for key in ("0" * 32, "%00", "a/b", "ä", "x" * 2000):
        assert (await hook.post("/webhooks/minio", json=event(api, key))).status_code == 204


async def test_an_event_that_is_too_large_is_drained_and_forgotten(
    api: Api, client: httpx.AsyncClient, hook: httpx.AsyncClient, resources: Resources
) -> None:
    file_id = await declare(client)
    large = event(api, await find_key(resources, file_id)) | {"padding": "x" * 2 * 1024**2}
    assert (await hook.post("/webhooks/minio", json=large)).status_code == 204
    assert await count_notices(resources, file_id) == 0
    assert (await hook.post("/webhooks/minio", content=b"x")).status_code == 204  # on the same connection


@pytest.mark.parametrize("header", [None, "", "Bearer wrong", "Basic abc"])
async def test_a_wrong_token_is_refused_before_the_body_counts(
    api: Api, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, resources: Resources, *, header: str | None
) -> None:
    file_id = await declare(client)
    headers = {} if header is None else {"Authorization": header}
    answer = await anonymous.post(f"{api.url}/webhooks/minio", json=event(api, await find_key(resources, file_id)), headers=headers)
    assert answer.status_code == 401
    assert await count_notices(resources, file_id) == 0


async def test_an_api_key_is_no_webhook_token(client: httpx.AsyncClient) -> None:
    assert (await client.post("/webhooks/minio", json={})).status_code == 401


async def test_the_store_may_ask_whether_somebody_is_there(api: Api, anonymous: httpx.AsyncClient) -> None:
    assert (await anonymous.head(f"{api.url}/webhooks/minio")).status_code == 204


async def test_the_last_event_is_in_the_metrics(api: Api, hook: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    await hook.post("/webhooks/minio", json=event(api, "0" * 32))
    metrics = (await anonymous.get(f"{api.url}/metrics")).text
    age = next(line for line in metrics.splitlines() if line.startswith("assay_last_event_age_seconds"))
    assert 0 <= float(age.split()[1]) < 30
