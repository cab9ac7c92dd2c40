"""Every refusal is a problem document that names the field; nothing is stored."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from service.resources import Resources
from tests.e2e.conftest import Api, Owner

pytestmark = pytest.mark.anyio

GOOD: dict[str, Any] = {"filename": "a.txt", "size": 1}
NO_FILE = "01234567-89ab-7def-8123-456789abcdef"
FIELDS: list[tuple[dict[str, Any], int, str]] = [
    ({"colour": "red"}, 400, "colour"),
    ({"size": "1"}, 400, "size"),
    ({"size": -1}, 400, "size"),
    ({"size": 1.5}, 400, "size"),
    ({"size": True}, 400, "size"),
    ({"size": None}, 400, "size"),
    ({"size": 5 * 1024**3 + 1}, 413, "size"),
    ({"size": 2**70}, 413, "size"),
    ({"filename": ""}, 400, "filename"),
    ({"filename": "a" * 256}, 400, "filename"),
    ({"filename": "ä" * 128}, 400, "filename"),
    ({"filename": "a\x00b"}, 400, "filename"),
    ({"filename": "a\nb"}, 400, "filename"),
    ({"filename": "a/b"}, 400, "filename"),
    ({"filename": "a\\b"}, 400, "filename"),
    ({"filename": ".."}, 400, "filename"),
    ({"filename": 1}, 400, "filename"),
    ({"content_type": "text"}, 400, "content_type"),
    ({"content_type": "text/plain\r\nX-Evil: 1"}, 400, "content_type"),
    ({"sha256": "abc"}, 400, "sha256"),
    ({"sha256": "g" * 64}, 400, "sha256"),
    ({"metadata": {"a": 1}}, 400, "metadata[...]"),
    ({"metadata": {"a": "\x00"}}, 400, "metadata"),
    ({"metadata": {"a": "x" * 5000}}, 400, "metadata"),
    ({"metadata": {str(number): "" for number in range(33)}}, 400, "metadata"),
    ({"metadata": "x"}, 400, "metadata"),
    ({"multipart": True}, 422, "multipart"),
    ({"owner": ""}, 403, "owner"),
    ({"owner": "somebody"}, 403, "owner"),
]
QUERIES = [
    ("limit=0", "limit"),
    ("limit=1001", "limit"),
    ("limit=x", "limit"),
    ("limit=1&limit=2", "limit"),
    ("nope=1", "nope"),
    ("cursor=nope", "cursor"),
    ("cursor=%00", "cursor"),
    ("cursor=ä", "cursor"),
    ("state=unknown", "state"),
    ("filename=a%00", "filename"),
    ("content_type=%00", "content_type"),
    ("hash=abc", "hash"),
    ("created_after=yesterday", "created_after"),
    ("created_after=2026-01-31T00:00:00", "created_after"),
    ("created_after=0001-01-01T00:00:00%2B05:00", "created_after"),
    ("created_before=9999-12-31T23:59:59-05:00", "created_before"),
    ("created_before=10000-01-01T00:00:00Z", "created_before"),
]
BODIES: list[tuple[bytes, int, str]] = [
    (b"", 400, "malformed-body"),
    (b"nope", 400, "malformed-body"),
    (b"{", 400, "malformed-body"),
    (b'{"filename": "\\ud800", "size": 1}', 400, "malformed-body"),
    (b'{"filename": "\xff", "size": 1}', 400, "malformed-body"),
    (b'{"metadata":' + b"[" * 5000, 400, "invalid-request"),
    (b'{"a":' * 5000, 400, "invalid-request"),
    (b"[]", 400, "invalid-request"),
    (b"null", 400, "invalid-request"),
    (b'{"filename": "a", "size": 1, "metadata": {"a": "' + b"x" * 65536 + b'"}}', 413, "body-too-large"),
]


def check_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["type"].startswith("urn:assay:problem:")
    return document


async def count_files(resources: Resources, owner: Owner) -> int:
    count: int = await resources.pool.fetchval("SELECT count(*) FROM files WHERE owner = $1", owner.name)
    return count


@pytest.mark.parametrize(
    ("wrong", "status", "field"), FIELDS, ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else None
)
async def test_a_wrong_field_is_named_and_nothing_is_stored(
    client: httpx.AsyncClient, resources: Resources, owner: Owner, *, wrong: dict[str, Any], status: int, field: str
) -> None:
    problem = check_problem(await client.post("/files", json=GOOD | wrong), status)
    assert [error["field"] for error in problem["errors"]] == [field]
    assert all(error["detail"] for error in problem["errors"])
    assert await count_files(resources, owner) == 0


@pytest.mark.parametrize("missing", ["filename", "size"])
async def test_a_missing_field_is_named(client: httpx.AsyncClient, missing: str) -> None:
    problem = check_problem(await client.post("/files", json={name: value for name, value in GOOD.items() if name != missing}), 400)
    assert problem["errors"] == [{"field": missing, "detail": "is required"}]


@pytest.mark.parametrize(("body", "status", "kind"), BODIES, ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else None)
async def test_a_body_that_is_no_declaration_is_refused(client: httpx.AsyncClient, *, body: bytes, status: int, kind: str) -> None:
    answer = await client.post("/files", content=body, headers={"Content-Type": "application/json"})
    assert check_problem(answer, status)["type"] == f"urn:assay:problem:{kind}"


async def test_a_body_without_a_length_is_bounded_too(client: httpx.AsyncClient) -> None:
    async def endless() -> Any:
        for _ in range(1000):
            yield b"x" * 1024

    answer = await client.post("/files", content=endless(), headers={"Content-Type": "application/json"})
    check_problem(answer, 413)


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_another_media_type_is_refused(client: httpx.AsyncClient, media_type: str) -> None:
    check_problem(await client.post("/files", content=b"{}", headers={"Content-Type": media_type}), 415)


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "tab\there"])
async def test_an_idempotency_key_is_visible_ascii(client: httpx.AsyncClient, key: str) -> None:
    problem = check_problem(await client.post("/files", json=GOOD, headers={"Idempotency-Key": key}), 400)
    assert problem["errors"][0]["field"] == "Idempotency-Key"


@pytest.mark.parametrize(("query", "field"), QUERIES)
async def test_a_wrong_parameter_is_named(client: httpx.AsyncClient, query: str, field: str) -> None:
    problem = check_problem(await client.get(f"/files?{query}"), 400)
    assert problem["errors"][0]["field"] == field


@pytest.mark.parametrize("query", ["filename=%ff", "filename=%ed%a0%80", "filename=*", "filename=", "content_type=x", "owner="])
async def test_an_odd_but_harmless_filter_is_no_error_of_ours(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/files?{query}")).status_code in (200, 400, 403)


async def test_a_cursor_of_other_filters_or_another_owner_is_refused(api: Api, client: httpx.AsyncClient) -> None:
    for name in ("a", "b"):
        await client.post("/files", json=GOOD | {"filename": name})
    cursor = (await client.get("/files?limit=1")).json()["next"]
    assert check_problem(await client.get("/files", params={"cursor": cursor, "state": "ready"}), 400)["type"].endswith("invalid-cursor")
    async with httpx.AsyncClient(base_url=api.url, headers=api.new_owner().headers) as other:
        check_problem(await other.get("/files", params={"cursor": cursor}), 400)


@pytest.mark.parametrize("wait", ["-1", "51", "1.5", "x", "nan"])
async def test_a_wait_outside_its_range_is_refused(client: httpx.AsyncClient, wait: str) -> None:
    for answer in (
        await client.get(f"/files/{NO_FILE}/metadata", params={"wait": wait}),
        await client.post(f"/files/{NO_FILE}/complete", params={"wait": wait}),
    ):
        assert check_problem(answer, 400)["errors"][0]["field"] == "wait"


@pytest.mark.parametrize("file_id", ["nope", "0", "%00", NO_FILE + "0", NO_FILE[:-1]])
async def test_an_id_that_is_no_uuid_names_nothing(client: httpx.AsyncClient, file_id: str) -> None:
    for path in (f"/files/{file_id}", f"/files/{file_id}/metadata"):
        check_problem(await client.get(path), 404)


async def test_an_unknown_route_and_a_wrong_method_are_problems_too(client: httpx.AsyncClient) -> None:
    check_problem(await client.get("/nope"), 404)
    answer = await client.patch("/files")
    check_problem(answer, 405)
    assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))


@pytest.mark.parametrize("name", ["a%00b", "%2e%2e%2fa", "a%5Cb", "%ff", "x" * 256, "a%0Ab", ""])
async def test_a_name_in_the_path_is_checked_like_any(client: httpx.AsyncClient, resources: Resources, owner: Owner, name: str) -> None:
    answer = await client.put(f"/upload/{name}", content=b"x")
    check_problem(answer, answer.status_code)
    assert answer.status_code in (400, 404)
    assert await count_files(resources, owner) == 0


async def test_a_put_that_no_store_takes_in_one_is_refused_before_its_body(api: Api, owner: Owner) -> None:
    head = f"PUT /upload/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {owner.key}\r\nContent-Length: {5 * 1024**3 + 1}\r\n\r\n"
    answer = await exchange(api, head.encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"urn:assay:problem:file-too-large" in answer


async def exchange(api: Api, request: bytes) -> bytes:
    """By hand: what no client library would send."""
    host, _, port = api.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    body = await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()
    return head + body


@pytest.mark.parametrize("digest", ["nope", "sha-256=abc", "sha-256=:AA==:"])
async def test_a_malformed_repr_digest_is_refused(client: httpx.AsyncClient, digest: str) -> None:
    problem = check_problem(await client.put("/upload/a", content=b"x", headers={"Repr-Digest": digest}), 400)
    assert problem["errors"][0]["field"] == "Repr-Digest"


@pytest.mark.parametrize("body", [{"sha256": "x"}, {"digest": "x"}, {"sha256": 1}])
async def test_complete_reads_its_body_as_strictly(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    check_problem(await client.post(f"/files/{NO_FILE}/complete", json=body), 400)
