"""The routes, as a client meets them: declare, send, complete, list, look, delete."""

import asyncio
import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest

from service.model import GONE
from service.object_store import ObjectMissing
from service.resources import Resources
from tests.e2e.conftest import Api, Owner

pytestmark = pytest.mark.anyio

BYTES = b"the bytes of a photo" * 50
DIGEST = hashlib.sha256(BYTES).hexdigest()
PHOTO: dict[str, Any] = {"filename": "photo.jpg", "size": len(BYTES), "content_type": "image/jpeg"}
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def declare(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/files", json=PHOTO | fields)
    assert answer.status_code == 201, answer.text
    declared: dict[str, Any] = answer.json()
    return declared


async def send(anonymous: httpx.AsyncClient, upload: Mapping[str, Any], content: bytes = BYTES) -> httpx.Response:
    return await anonymous.request(upload["method"], upload["url"], headers=upload["headers"], content=content)


async def prove(client: httpx.AsyncClient, anonymous: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    declared = await declare(client, **fields)
    assert (await send(anonymous, declared["upload"])).status_code == 200
    answer = await client.post(f"/files/{declared['file']['id']}/complete", params={"wait": 20})
    assert answer.status_code == 200, answer.text
    proved: dict[str, Any] = answer.json()
    return proved


async def test_a_declared_file_is_sent_completed_and_proved(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    answer = await client.post("/files", json=PHOTO | {"sha256": DIGEST.upper(), "metadata": {"album": "winter"}})
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
    assert {name.lower() for name in declared["upload"]["headers"]}.isdisjoint({"host", "content-length", "authorization"})
    assert (await send(anonymous, declared["upload"])).status_code == 200
    proved = (await client.post(f"/files/{declared['file']['id']}/complete", params={"wait": 20})).json()
    assert proved["state"] == "ready"
    assert proved["hash"] == DIGEST
    assert str(UUID(proved["minio_object_name"])) == proved["minio_object_name"]
    assert all(RFC_3339.fullmatch(proved[name]) for name in ("created_at", "expires_at", "upload_date"))


async def test_the_event_alone_proves_a_file(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    declared = await declare(client)
    await send(anonymous, declared["upload"])
    answer = await client.get(f"/files/{declared['file']['id']}/metadata", params={"wait": 20})
    assert answer.json()["state"] == "ready"


async def test_without_a_type_the_file_is_only_bytes(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    proved = await prove(client, anonymous, content_type=None)
    assert proved["content_type"] == "application/octet-stream"


async def test_an_empty_file_is_a_file(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    declared = await declare(client, size=0)
    assert (await send(anonymous, declared["upload"], b"")).status_code == 200
    answer = await client.post(f"/files/{declared['file']['id']}/complete", params={"wait": 20})
    assert answer.json()["hash"] == hashlib.sha256(b"").hexdigest()


async def test_other_bytes_than_declared_are_rejected_with_their_reason(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    declared = await declare(client)
    await send(anonymous, declared["upload"])
    answer = await client.post(f"/files/{declared['file']['id']}/complete", params={"wait": 20}, json={"sha256": "0" * 64})
    if answer.json()["state"] == "rejected":
        assert answer.json()["rejection"]["reason"] == "digest-mismatch"
        assert answer.json()["hash"] is None
    else:  # the event was faster, and the digest came too late
        assert answer.status_code == 409


async def test_complete_before_the_bytes_changes_nothing(client: httpx.AsyncClient) -> None:
    declared = await declare(client)
    answer = await client.post(f"/files/{declared['file']['id']}/complete")
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:assay:problem:not-uploaded"
    assert (await client.get(f"/files/{declared['file']['id']}/metadata")).json()["state"] == "pending"


async def test_complete_again_answers_with_the_proved_file(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    proved = await prove(client, anonymous)
    again = await client.post(f"/files/{proved['id']}/complete", json={"sha256": DIGEST})
    assert again.status_code == 200
    assert again.json() == proved


async def test_another_digest_than_the_proved_one_is_a_conflict(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    proved = await prove(client, anonymous)
    answer = await client.post(f"/files/{proved['id']}/complete", json={"sha256": "0" * 64})
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:assay:problem:digest-conflict"
    assert (await client.get(f"/files/{proved['id']}/metadata")).json() == proved


async def test_a_fresh_url_writes_to_the_same_key(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    declared = await declare(client)
    renewed = (await client.post(f"/files/{declared['file']['id']}/upload")).json()
    assert urlsplit(renewed["upload"]["url"]).path == urlsplit(declared["upload"]["url"]).path
    assert (await send(anonymous, renewed["upload"])).status_code == 200


async def test_a_fresh_url_for_bytes_that_are_there_is_a_notice_and_a_conflict(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    proved = await prove(client, anonymous)
    answer = await client.post(f"/files/{proved['id']}/upload")
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:assay:problem:already-uploaded"
    assert answer.json()["state"] == "ready"


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


async def test_repeats_at_the_same_moment_declare_one_file(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(client.post("/files", json=PHOTO, headers={"Idempotency-Key": "many"}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["file"]["id"] for answer in answers}) == 1


async def test_another_body_under_the_same_key_is_refused(client: httpx.AsyncClient) -> None:
    await client.post("/files", json=PHOTO, headers={"Idempotency-Key": "one"})
    answer = await client.post("/files", json=PHOTO | {"size": 1}, headers={"Idempotency-Key": "one"})
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:assay:problem:idempotency-mismatch"


async def test_a_key_is_its_owners_own(client: httpx.AsyncClient, api: Api) -> None:
    first = await client.post("/files", json=PHOTO, headers={"Idempotency-Key": "one"})
    async with httpx.AsyncClient(base_url=api.url, headers=api.new_owner().headers) as other:
        second = await other.post("/files", json=PHOTO, headers={"Idempotency-Key": "one"})
    assert second.status_code == 201
    assert second.json()["file"]["id"] != first.json()["file"]["id"]


async def test_a_repeat_after_the_proof_needs_no_url(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    first = (await client.post("/files", json=PHOTO, headers={"Idempotency-Key": "one"})).json()
    await send(anonymous, first["upload"])
    await client.post(f"/files/{first['file']['id']}/complete", params={"wait": 20})
    again = (await client.post("/files", json=PHOTO, headers={"Idempotency-Key": "one"})).json()
    assert again["upload"] is None
    assert again["file"]["state"] == "ready"


async def test_pages_lead_from_the_newest_file_to_the_oldest(client: httpx.AsyncClient) -> None:
    declared = [(await declare(client, filename=f"{number}.txt"))["file"]["id"] for number in range(5)]
    found: list[str] = []
    path = "/files?limit=2"
    pages = 0
    while path:
        answer = await client.get(path)
        pages += 1
        found += [file["id"] for file in answer.json()["files"]]
        assert (answer.json()["next"] is None) is ("link" not in answer.headers)
        link = re.fullmatch(r'<(/files\?[^>]*)>; rel="next"', answer.headers.get("link", ""))
        path = link[1] if link else ""
    assert found == declared[::-1]
    assert pages == 3


async def test_filters_find_what_they_name(client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    proved = await prove(client, anonymous, filename="a1.jpg")
    other = (await declare(client, filename="a2.txt", content_type="text/plain"))["file"]
    await declare(client, filename="b.txt", content_type="text/plain")

    async def find(**filters: Any) -> list[str]:
        answer = await client.get("/files", params=filters)
        assert answer.status_code == 200, answer.text
        return [file["filename"] for file in answer.json()["files"]]

    assert await find(state="ready") == ["a1.jpg"]
    assert await find(state=["ready", "pending"]) == ["b.txt", "a2.txt", "a1.jpg"]
    assert await find(hash=DIGEST.upper()) == ["a1.jpg"]
    assert await find(filename="a*") == ["a2.txt", "a1.jpg"]
    assert await find(filename="a2.txt") == ["a2.txt"]
    assert await find(filename="a2") == []
    assert await find(content_type="text/plain", filename="a*") == ["a2.txt"]
    assert await find(created_after=proved["created_at"], created_before=other["created_at"]) == []
    assert await find(created_after=other["created_at"]) == ["b.txt"]


async def test_deleted_files_are_listed_only_when_asked_for(client: httpx.AsyncClient) -> None:
    declared = (await declare(client))["file"]["id"]
    await client.delete(f"/files/{declared}")
    assert (await client.get("/files")).json()["files"] == []
    listed = (await client.get("/files", params={"state": "deleted"})).json()["files"]
    assert [file["id"] for file in listed] == [declared]


@pytest.mark.parametrize("proved", [False, True], ids=["pending", "ready"])
async def test_deletion_takes_the_file_and_its_objects_away(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, resources: Resources, *, proved: bool
) -> None:
    file = await prove(client, anonymous) if proved else (await declare(client))["file"]
    path = f"/files/{file['id']}"
    assert (await client.delete(path)).status_code == 204
    assert (await client.delete(path)).status_code == 204
    metadata = (await client.get(f"{path}/metadata")).json()
    assert metadata["state"] == "deleted"
    for answer in (await client.get(path), await client.post(f"{path}/complete"), await client.post(f"{path}/upload")):
        assert answer.status_code == 410
        assert answer.json()["state"] in GONE
    if proved:
        await until_missing(resources, file["minio_object_name"])


async def until_missing(resources: Resources, key: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await resources.vault.head(key)
            except ObjectMissing:
                return
            await asyncio.sleep(0.1)


async def test_waiting_ends_with_the_deletion(client: httpx.AsyncClient) -> None:
    path = f"/files/{(await declare(client))['file']['id']}"
    waiting = asyncio.create_task(client.get(f"{path}/metadata", params={"wait": 25}))
    await asyncio.wait({waiting}, timeout=0.5)
    assert not waiting.done()
    await client.delete(path)
    async with asyncio.timeout(5):
        assert (await waiting).json()["state"] == "deleted"


async def test_waiting_ends_when_its_time_is_over(client: httpx.AsyncClient) -> None:
    path = f"/files/{(await declare(client))['file']['id']}"
    answer = await client.get(f"{path}/metadata", params={"wait": 1})
    assert answer.json()["state"] == "pending"
    assert answer.elapsed.total_seconds() > 0.9


@pytest.mark.parametrize("name", ["photo.jpg", "ä b.txt", "100%.txt", "a;b?c#d.txt"])
async def test_one_put_is_redirected_to_the_store(client: httpx.AsyncClient, anonymous: httpx.AsyncClient, name: str) -> None:
    path = "/upload/" + httpx.URL("http://x", params={"n": name}).raw_path.partition(b"n=")[2].decode().replace("+", "%20")
    answer = await client.put(path, content=BYTES)
    assert answer.status_code == 307
    assert answer.content == b""
    metadata = re.fullmatch(r'<(/files/[0-9a-f-]{36}/metadata)>; rel="describedby"', answer.headers["link"])
    assert metadata
    assert "content-type" not in urlsplit(answer.headers["location"]).query.lower()
    assert (await anonymous.put(answer.headers["location"], content=BYTES)).status_code == 200
    file = (await client.get(metadata[1], params={"wait": 20})).json()
    assert (file["state"], file["filename"], file["hash"]) == ("ready", name, DIGEST)


async def test_a_put_without_a_length_is_streamed(client: httpx.AsyncClient) -> None:
    async def pieces() -> Any:
        yield BYTES[:10]
        yield BYTES[10:]

    answer = await client.put("/upload/photo.jpg", content=pieces(), headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["hash"] == DIGEST
    assert answer.headers["location"] == f"/files/{answer.json()['id']}/metadata"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the very command, where there is curl")
async def test_stock_curl_uploads_with_one_command(api: Api, owner: Owner, client: httpx.AsyncClient, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(BYTES * 2000)  # above the size from which curl sends `Expect: 100-continue`
    command = ["curl", "-sS", "-LT", str(photo), "-H", f"Authorization: Bearer {owner.key}", "-w", "%{http_code}", f"{api.url}/upload/"]
    curl = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    output, errors = await curl.communicate()
    assert (output, errors) == (b"200", b"")
    listed = (await client.get("/files", params={"limit": 1})).json()["files"]
    file = (await client.get(f"/files/{listed[0]['id']}/metadata", params={"wait": 20})).json()
    assert (file["filename"], file["hash"]) == ("photo.jpg", hashlib.sha256(BYTES * 2000).hexdigest())


async def test_a_request_keeps_its_id_and_json_is_not_stored(client: httpx.AsyncClient) -> None:
    answer = await client.get("/files", headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await client.get("/files")).headers["x-request-id"] != "mine-1"


async def test_health_and_metrics_need_no_key(api: Api, client: httpx.AsyncClient, anonymous: httpx.AsyncClient) -> None:
    await declare(client)
    assert (await anonymous.get(f"{api.url}/health/live")).json()["status"] == "live"
    ready = await anonymous.get(f"{api.url}/health/ready", params={"full": 1})
    assert (ready.status_code, ready.json()["status"], ready.json()["away"]) == (200, "ready", [])
    metrics = (await anonymous.get(f"{api.url}/metrics")).text
    assert 'assay_requests_total{method="POST",route="/files",status="201"}' in metrics
    for name in ("assay_notices_total", "assay_overdue_files", "assay_verifying_oldest_seconds", "assay_copies", "assay_database_up 1.0"):
        assert name in metrics
