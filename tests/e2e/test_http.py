"""Tests of the routes in the order of a client: declare, send, complete, wait, read, delete."""

import asyncio
import re
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import msgspec
import pytest

from service.model import GONE
from service.object_store import ObjectMissing
from service.resources import Resources
from service.routes import requests
from tests.e2e.conftest import Apart, Api, Owner
from tests.e2e.jobs import complete, declare, digest, prove, put, upload, working
from tests.support.waiting import until
from tests.support.wire import Wire

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

BYTES = b"the bytes of a photo" * 50
LARGE = BYTES * 1100  # above 1 MiB
DIGEST = digest(BYTES)
PHOTO: dict[str, Any] = {"filename": "photo.jpg", "size": len(BYTES), "content_type": "image/jpeg"}
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def test_a_declared_file_is_sent_completed_and_proved(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/files", json=PHOTO | {"sha256": DIGEST.upper(), "metadata": {"album": "winter"}}
    )
    assert answer.status_code == 201
    declared = answer.json()
    assert answer.headers["location"] == f"/files/{declared['file']['id']}/metadata"
    assert declared["file"] | {"id": "", "created_at": "", "expires_at": ""} == {
        "id": "",
        "filename": "photo.jpg",
        "size": len(BYTES),
        "content_type": "image/jpeg",
        "hash": None,
        "upload_date": None,
        "minio_object_name": None,
        "state": "pending",
        "declared_sha256": DIGEST,
        "metadata": {"album": "winter"},
        "created_at": "",
        "expires_at": "",
        "rejection": None,
    }
    assert {name.lower() for name in declared["upload"]["headers"]}.isdisjoint(
        {"host", "content-length", "authorization"}
    )
    assert (await put(declared, BYTES)).status == 200
    proved = (
        await client.post(f"/files/{declared['file']['id']}/complete", params={"wait": 20})
    ).json()
    assert proved["state"] == "ready"
    assert proved["hash"] == DIGEST
    assert str(UUID(proved["minio_object_name"])) == proved["minio_object_name"]
    assert all(
        RFC_3339.fullmatch(proved[name]) for name in ("created_at", "expires_at", "upload_date")
    )


@pytest.mark.parametrize(
    "path", ["/files", "/files/{id}/complete", "/files/{id}/links", "/files/{id}/parts"]
)
async def test_a_json_body_that_does_not_end_is_refused_in_time(
    api: Api, owner: Owner, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    declared = await declare(client, BYTES)
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.3)
    target = path.replace("{id}", declared["file"]["id"])
    head = (
        f"POST {target} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {owner.key}\r\n"
        "Content-Type: application/json\r\n"
    )
    with Wire(api.url) as wire:
        wire.send(head.encode() + b"Content-Length: 100\r\n\r\n{")
        answer = await asyncio.to_thread(wire.read_answer)
    assert (answer.status, msgspec.json.decode(answer.body)["type"]) == (
        408,
        "urn:assay:problem:slow-sender",
    )


async def test_the_event_alone_proves_a_file(client: httpx.AsyncClient) -> None:
    declared = await declare(client, BYTES)
    await put(declared, BYTES)
    answer = await client.get(f"/files/{declared['file']['id']}/metadata", params={"wait": 20})
    assert answer.json()["state"] == "ready"


async def test_a_file_without_a_declared_type_is_an_octet_stream(client: httpx.AsyncClient) -> None:
    proved = await prove(client, BYTES, content_type=None)
    assert proved["content_type"] == "application/octet-stream"


async def test_an_empty_file_is_proved(client: httpx.AsyncClient) -> None:
    assert (await prove(client, b""))["hash"] == digest(b"")


@pytest.mark.parametrize("body", [BYTES, LARGE], ids=["small", "large"])
async def test_bytes_that_differ_from_the_declaration_are_rejected(
    apart: Apart, body: bytes
) -> None:
    """`complete` proves a small file itself. A large one is left to a worker."""
    declared = await upload(apart.client, body)
    answer = await apart.client.post(
        f"/files/{declared['file']['id']}/complete", json={"sha256": "0" * 64}
    )
    status, state = (200, "rejected") if body == BYTES else (202, "verifying")
    assert (answer.status_code, answer.json()["state"]) == (status, state)
    assert answer.json()["declared_sha256"] == "0" * 64
    async with working(apart.resources):
        rejected = await complete(apart.client, declared)
    assert (rejected["state"], rejected["rejection"]["reason"], rejected["hash"]) == (
        "rejected",
        "digest-mismatch",
        None,
    )


async def test_complete_before_the_bytes_changes_nothing(client: httpx.AsyncClient) -> None:
    declared = await declare(client, BYTES)
    answer = await client.post(f"/files/{declared['file']['id']}/complete")
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:assay:problem:not-uploaded"
    assert (await client.get(f"/files/{declared['file']['id']}/metadata")).json()[
        "state"
    ] == "pending"


async def test_complete_again_answers_with_the_proved_file(client: httpx.AsyncClient) -> None:
    proved = await prove(client, BYTES)
    again = await client.post(f"/files/{proved['id']}/complete", json={"sha256": DIGEST})
    assert again.status_code == 200
    assert again.json() == proved


async def test_a_digest_other_than_the_proved_one_is_a_conflict(client: httpx.AsyncClient) -> None:
    proved = await prove(client, BYTES)
    answer = await client.post(f"/files/{proved['id']}/complete", json={"sha256": "0" * 64})
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:assay:problem:digest-conflict"
    assert (await client.get(f"/files/{proved['id']}/metadata")).json() == proved


async def test_a_fresh_url_writes_to_the_same_key(client: httpx.AsyncClient) -> None:
    declared = await declare(client, BYTES)
    renewed = (await client.post(f"/files/{declared['file']['id']}/upload")).json()
    assert urlsplit(renewed["upload"]["url"]).path == urlsplit(declared["upload"]["url"]).path
    assert (await put(renewed, BYTES)).status == 200


async def test_a_fresh_url_for_an_uploaded_file_is_a_conflict(
    client: httpx.AsyncClient,
) -> None:
    proved = await prove(client, BYTES)
    answer = await client.post(f"/files/{proved['id']}/upload")
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:assay:problem:already-uploaded"
    assert answer.json()["state"] == "ready"


@pytest.mark.parametrize("proved", [False, True], ids=["pending", "ready"])
async def test_deletion_removes_the_file_and_its_objects(
    client: httpx.AsyncClient, resources: Resources, *, proved: bool
) -> None:
    file = await prove(client, BYTES) if proved else (await declare(client, BYTES))["file"]
    path = f"/files/{file['id']}"
    assert (await client.delete(path)).status_code == 204
    assert (await client.delete(path)).status_code == 204
    metadata = (await client.get(f"{path}/metadata")).json()
    assert metadata["state"] == "deleted"
    for answer in (
        await client.get(path),
        await client.post(f"{path}/complete"),
        await client.post(f"{path}/upload"),
    ):
        assert answer.status_code == 410
        assert answer.json()["state"] in GONE
    if proved:

        async def is_missing() -> bool:
            try:
                await resources.vault.head(file["minio_object_name"])
            except ObjectMissing:
                return True
            return False

        await until(is_missing)


async def test_a_wait_ends_with_the_deletion(client: httpx.AsyncClient) -> None:
    path = f"/files/{(await declare(client, BYTES))['file']['id']}"
    waiting = asyncio.create_task(client.get(f"{path}/metadata", params={"wait": 25}))
    await asyncio.wait({waiting}, timeout=0.5)
    assert not waiting.done()
    await client.delete(path)
    async with asyncio.timeout(5):
        assert (await waiting).json()["state"] == "deleted"


async def test_a_wait_ends_after_its_timeout(client: httpx.AsyncClient) -> None:
    path = f"/files/{(await declare(client, BYTES))['file']['id']}"
    answer = await client.get(f"{path}/metadata", params={"wait": 1})
    assert answer.json()["state"] == "pending"
    assert answer.elapsed.total_seconds() > 0.9


async def test_a_response_has_the_request_id_and_forbids_caching(client: httpx.AsyncClient) -> None:
    answer = await client.get("/files", headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await client.get("/files")).headers["x-request-id"] != "mine-1"


async def test_health_and_metrics_need_no_key(
    api: Api, client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    await declare(client, BYTES)
    assert (await anonymous.get(f"{api.url}/health/live")).json()["status"] == "live"
    ready = await anonymous.get(f"{api.url}/health/ready", params={"full": 1})
    assert (ready.status_code, ready.json()["status"], ready.json()["away"]) == (200, "ready", [])
    metrics = (await anonymous.get(f"{api.url}/metrics")).text
    assert 'assay_requests_total{method="POST",route="/files",status="201"}' in metrics
    for name in (
        "assay_arrivals_total",
        "assay_overdue_files",
        "assay_verifying_oldest_seconds",
        "assay_reservations",
        "assay_database_up 1.0",
    ):
        assert name in metrics
