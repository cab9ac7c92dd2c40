"""Tests of `Idempotency-Key`, with which a repeated request declares no second file."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Api
from tests.e2e.jobs import complete, put
from tests.support.trust import TRUSTED

pytestmark = pytest.mark.anyio

BYTES = b"the bytes of a photo" * 50
PHOTO: dict[str, Any] = {"filename": "photo.jpg", "size": len(BYTES), "content_type": "image/jpeg"}


async def test_a_repeat_with_the_same_key_gets_the_same_file(client: httpx.AsyncClient) -> None:
    first = await client.post("/files", json=PHOTO, headers={"Idempotency-Key": "one"})
    again = await client.post(
        "/files",
        content=b'{"size": %d, "filename": "photo.jpg", "content_type": "image/jpeg"}' % len(BYTES),
        headers={"Idempotency-Key": "one", "Content-Type": "application/json"},
    )
    assert (first.status_code, again.status_code) == (201, 200)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["file"] == first.json()["file"]
    assert again.json()["upload"] is not None


async def test_concurrent_repeats_declare_one_file(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(client.post("/files", json=PHOTO, headers={"Idempotency-Key": "many"}) for _ in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["file"]["id"] for answer in answers}) == 1


async def test_another_body_with_the_same_key_is_refused(client: httpx.AsyncClient) -> None:
    await client.post("/files", json=PHOTO, headers={"Idempotency-Key": "one"})
    answer = await client.post(
        "/files", json=PHOTO | {"size": 1}, headers={"Idempotency-Key": "one"}
    )
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:assay:problem:idempotency-mismatch"


async def test_owners_can_use_the_same_key_for_different_files(
    client: httpx.AsyncClient, api: Api
) -> None:
    first = await client.post("/files", json=PHOTO, headers={"Idempotency-Key": "one"})
    async with httpx.AsyncClient(
        base_url=api.url, headers=api.new_owner().headers, verify=TRUSTED
    ) as other:
        second = await other.post("/files", json=PHOTO, headers={"Idempotency-Key": "one"})
    assert second.status_code == 201
    assert second.json()["file"]["id"] != first.json()["file"]["id"]


async def test_a_repeat_for_a_proved_file_gets_no_url(client: httpx.AsyncClient) -> None:
    first = (await client.post("/files", json=PHOTO, headers={"Idempotency-Key": "one"})).json()
    await put(first, BYTES)
    await complete(client, first)
    again = (await client.post("/files", json=PHOTO, headers={"Idempotency-Key": "one"})).json()
    assert again["upload"] is None
    assert again["file"]["state"] == "ready"
