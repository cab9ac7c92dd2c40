"""Streamed uploads with an `Idempotency-Key`: a repeat is hashed, and stores no second file."""

import asyncio
import base64
import hashlib
import os
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from service.resources import Resources
from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import in_pieces, until_it_holds
from tests.support.invariants import check_history, list_bucket
from tests.support.trust import TRUSTED

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

SMALL = os.urandom(70_000)
LARGE = os.urandom(9 * 1024**2)  # more than one part
KEY = {"Idempotency-Key": "one"}


async def send(
    client: httpx.AsyncClient, content: bytes, way: str, headers: Mapping[str, str] = KEY
) -> httpx.Response:
    """Send the same file in one of the three ways."""
    if way == "form":
        files = {"file": ("a.txt", content, "text/plain")}
        return await client.post("/files/upload", files=files, headers=headers)
    typed = {"Content-Type": "text/plain", **headers}
    if way == "put":
        return await client.put("/upload/a.txt", content=in_pieces(content), headers=typed)
    return await client.post(
        "/files/upload", params={"filename": "a.txt"}, content=content, headers=typed
    )


def check_problem(answer: httpx.Response, status: int, kind: str) -> None:
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:assay:problem:{kind}")


async def check_only(resources: Resources, owner: Owner, *file_ids: str) -> None:
    """Check that the owner has these files, their objects, and nothing else in the vault."""
    rows = await resources.pool.fetch(
        "SELECT id, minio_object_name FROM files WHERE owner = $1", owner.name
    )
    assert {str(row["id"]) for row in rows} == set(file_ids)
    named = {str(row["minio_object_name"]) for row in rows}

    async def holds_no_other_object() -> None:
        reserved = await resources.pool.fetch(
            "SELECT vault_key, doomed_at FROM reservations"
            " WHERE owner = $1 OR file_id IS NULL AND doomed_at IS NOT NULL",
            owner.name,
        )
        assert all(row["doomed_at"] for row in reserved)
        stored = await list_bucket(resources.vault)
        assert named <= stored
        assert not {str(row["vault_key"]) for row in reserved} & stored

    await until_it_holds(holds_no_other_object)
    await check_history(resources)


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
@pytest.mark.parametrize("way", ["raw", "form", "put"])
async def test_a_repeat_gets_the_first_file_and_stores_nothing(
    client: httpx.AsyncClient, resources: Resources, owner: Owner, *, content: bytes, way: str
) -> None:
    first = await send(client, content, way)
    assert first.status_code == 201, first.text
    assert "idempotency-replayed" not in first.headers
    for again_way in (way, "form", "put", "raw"):
        again = await send(client, content, again_way)
        assert (again.status_code, again.json()) == (200, first.json())
        assert again.headers["idempotency-replayed"] == "true"
        assert again.headers["location"] == first.headers["location"]
    await check_only(resources, owner, first.json()["id"])


async def test_a_repeat_with_other_bytes_or_another_declaration_is_refused(
    client: httpx.AsyncClient, resources: Resources, owner: Owner
) -> None:
    first = await send(client, SMALL, "raw")

    async def repeat(content: bytes = SMALL, **changed: Any) -> httpx.Response:
        parameters = {"filename": "a.txt"} | changed.get("params", {})
        headers = {"Content-Type": "text/plain", **KEY} | changed.get("headers", {})
        return await client.post(
            "/files/upload", params=parameters, content=content, headers=headers
        )

    declared = base64.b64encode(hashlib.sha256(SMALL).digest()).decode()
    for refused in (
        await repeat(SMALL[:-1] + b"x"),
        await repeat(SMALL[:-1]),
        await repeat(LARGE),
        await repeat(params={"filename": "b.txt"}),
        await repeat(params={"metadata": '{"album": "winter"}'}),
        await repeat(headers={"Content-Type": "text/html"}),
        await repeat(headers={"Repr-Digest": f"sha-256=:{declared}:"}),
    ):
        check_problem(refused, 422, "idempotency-mismatch")
    assert (await repeat()).json() == first.json()
    await check_only(resources, owner, first.json()["id"])


async def test_a_repeat_is_checked_like_any_other_request(
    client: httpx.AsyncClient, resources: Resources, owner: Owner
) -> None:
    first = await send(client, SMALL, "raw")
    wrong = base64.b64encode(bytes(16)).decode()
    for way in ("raw", "form"):
        check_problem(
            await send(client, SMALL, way, KEY | {"Content-MD5": wrong}), 422, "digest-mismatch"
        )
    cut = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' + SMALL
    form = {"Content-Type": "multipart/form-data; boundary=b", **KEY}
    check_problem(
        await client.post("/files/upload", content=cut, headers=form), 400, "incomplete-body"
    )
    await check_only(resources, owner, first.json()["id"])


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_concurrent_repeats_end_with_one_file(
    client: httpx.AsyncClient, resources: Resources, owner: Owner, content: bytes
) -> None:
    answers = await asyncio.gather(
        *(send(client, content, way) for way in ("raw", "form", "put", "raw"))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    await check_only(resources, owner, answers[0].json()["id"])


async def test_of_concurrent_requests_for_two_files_one_is_refused(
    client: httpx.AsyncClient, resources: Resources, owner: Owner
) -> None:
    answers = await asyncio.gather(send(client, SMALL, "raw"), send(client, LARGE, "raw"))
    assert sorted(answer.status_code for answer in answers) == [201, 422]
    [taken] = [answer for answer in answers if answer.status_code == 201]
    await check_only(resources, owner, taken.json()["id"])


async def test_a_failed_upload_does_not_use_its_key(
    client: httpx.AsyncClient, resources: Resources, owner: Owner
) -> None:
    wrong = base64.b64encode(bytes(16)).decode()
    refused = await send(client, SMALL, "raw", KEY | {"Content-MD5": wrong})
    check_problem(refused, 422, "digest-mismatch")
    taken = await send(client, LARGE, "raw")
    assert taken.status_code == 201
    await check_only(resources, owner, taken.json()["id"])


async def test_a_key_of_a_declaration_is_used_for_another_request(
    client: httpx.AsyncClient, resources: Resources, owner: Owner
) -> None:
    """Refuse it even if the declaration describes the same file, which has no bytes yet."""
    sha256 = hashlib.sha256(SMALL).hexdigest()
    declaration = {
        "filename": "a.txt",
        "size": len(SMALL),
        "content_type": "text/plain",
        "sha256": sha256,
    }
    declared = await client.post("/files", json=declaration, headers=KEY)
    stated = {"Digest": f"SHA-256={base64.b64encode(bytes.fromhex(sha256)).decode()}"}
    for headers in (KEY, KEY | stated):
        check_problem(await send(client, SMALL, "raw", headers), 422, "idempotency-mismatch")
    other = {"Idempotency-Key": "two"}
    assert (await send(client, SMALL, "raw", other | stated)).status_code == 201
    check_problem(
        await client.post("/files", json=declaration, headers=other), 422, "idempotency-mismatch"
    )
    assert declared.json()["file"]["state"] == "pending"
    assert (
        await resources.pool.fetchval("SELECT count(*) FROM files WHERE owner = $1", owner.name)
        == 2
    )


async def test_a_repeat_gets_a_deleted_file_as_deleted(client: httpx.AsyncClient) -> None:
    first = (await send(client, SMALL, "raw")).json()
    assert (await client.delete(f"/files/{first['id']}")).status_code == 204
    again = await send(client, SMALL, "raw")
    assert (again.status_code, again.json()["id"], again.json()["state"]) == (
        200,
        first["id"],
        "deleted",
    )


async def test_owners_can_use_the_same_key_for_different_uploads(
    client: httpx.AsyncClient, api: Api
) -> None:
    first = await send(client, SMALL, "raw")
    async with httpx.AsyncClient(
        base_url=api.url, headers=api.new_owner().headers, verify=TRUSTED
    ) as other:
        second = await send(other, SMALL, "raw")
    assert second.status_code == 201
    assert second.json()["id"] != first.json()["id"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
@pytest.mark.parametrize("way", ["raw", "form", "put"])
async def test_a_malformed_key_is_refused(client: httpx.AsyncClient, key: str, way: str) -> None:
    answer = await send(client, SMALL, way, {"Idempotency-Key": key})
    check_problem(answer, 400, "invalid-request")
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_a_redirect_refuses_a_key(
    client: httpx.AsyncClient, resources: Resources, owner: Owner
) -> None:
    answer = await client.put("/upload/a.txt", content=SMALL, headers=KEY)
    check_problem(answer, 400, "invalid-request")
    [error] = answer.json()["errors"]
    assert error["field"] == "Idempotency-Key"
    assert "send the body chunked, or declare the file with POST /files" in error["detail"]
    await check_only(resources, owner)
