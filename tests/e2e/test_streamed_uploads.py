"""Tests of `POST /files/upload` with the real server.

Bodies are forms and plain bytes. An upload that fails must leave nothing.
"""

import asyncio
import base64
import hashlib
import os
import socket
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import msgspec
import pytest

from service.http import request_bodies
from service.resources import Resources
from service.settings import Bytes
from service.uploads.buffers import PART_BYTES
from tests.e2e.conftest import Api, Owner, serving
from tests.e2e.jobs import in_pieces, read_metric
from tests.e2e.nothing_left import check_nothing_left
from tests.support.trust import TRUSTED
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

MIB = 1024**2
BYTES = b"the bytes of a photo"
DIGEST = hashlib.sha256(BYTES).hexdigest()


def repr_digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


async def count_answers(client: httpx.AsyncClient) -> float:
    """Return the number of ended requests, including those that got no response."""
    return await read_metric(client, "assay_requests_total", route="/files/upload", method="POST")


@pytest.mark.parametrize("size", [0, 1, 300_000, 8 * MIB, 8 * MIB + 1, 17 * MIB])
@pytest.mark.parametrize("way", ["whole", "chunked", "form"])
async def test_a_file_of_any_size_is_sent_in_one_request(
    client: httpx.AsyncClient, resources: Resources, size: int, way: str
) -> None:
    content = os.urandom(size)
    parameters, headers = {"filename": "photo.jpg"}, {"Content-Type": "image/jpeg"}
    if way == "form":
        answer = await client.post(
            "/files/upload", files={"file": ("photo.jpg", content, "image/jpeg")}
        )
    elif way == "chunked":
        answer = await client.post(
            "/files/upload", params=parameters, headers=headers, content=in_pieces(content)
        )
    else:
        answer = await client.post(
            "/files/upload", params=parameters, headers=headers, content=content
        )
    assert answer.status_code == 201, answer.text
    file = answer.json()
    assert (file["filename"], file["size"], file["content_type"], file["state"]) == (
        "photo.jpg",
        size,
        "image/jpeg",
        "ready",
    )
    assert file["hash"] == hashlib.sha256(content).hexdigest()
    assert answer.headers["location"] == f"/files/{file['id']}/metadata"
    assert (await client.get(answer.headers["location"])).json() == file
    assert (await client.get(f"/files/{file['id']}")).content == content
    assert (
        await resources.pool.fetch(
            "SELECT 1 FROM reservations WHERE file_id = $1", UUID(file["id"])
        )
        == []
    )


async def test_the_name_comes_from_the_form_the_disposition_or_the_query(
    client: httpx.AsyncClient,
) -> None:
    form = await client.post(
        "/files/upload", params={"filename": "other"}, files={"file": ("f\u20ac.txt", BYTES)}
    )
    assert (form.json()["filename"], form.json()["content_type"]) == ("f\u20ac.txt", "text/plain")
    headers = {"Content-Disposition": "attachment; filename=x; filename*=UTF-8''%E2%82%AC.txt"}
    raw = await client.post("/files/upload", headers=headers, content=BYTES)
    assert (raw.json()["filename"], raw.json()["content_type"]) == (
        "\u20ac.txt",
        "application/octet-stream",
    )
    unnamed = await client.post(
        "/files/upload",
        headers=headers | {"Content-Type": FORM_HEAD},
        params={"filename": "other"},
        content=make_form(b"filename="),
    )
    assert unnamed.json()["filename"] == "\u20ac.txt"
    chunked = await client.put("/upload/chunked.bin", content=in_pieces(BYTES))
    assert (chunked.status_code, chunked.json()["filename"], chunked.json()["hash"]) == (
        201,
        "chunked.bin",
        DIGEST,
    )


FORM_HEAD = "multipart/form-data ;\tboundary=b;"


def make_form(disposition: bytes, *headers: bytes) -> bytes:
    """Return a form with BYTES as its file."""
    lines = [b"--b", b"Content-Disposition: form-data; name=file; " + disposition, *headers]
    return b"\r\n".join([*lines, b"", BYTES, b"--b--", b""])


@pytest.mark.one_store
@pytest.mark.parametrize("in_form", [True, False], ids=["form", "raw"])
@pytest.mark.parametrize(
    "disposition",
    [
        b"filename=\"=?utf-8?B?w6kudHh0?=\"; filename*=utf-8''%C3%A9.txt",
        b"filename*=UTF-8''%C3%A9.txt",
        b'filename="=?utf-8?B?w6kudHh0?="',
        'filename="\xe9.txt"'.encode(),
        'filename="\xe9.txt" ;'.encode("latin-1"),
    ],
)
async def test_a_form_and_a_raw_upload_read_a_name_alike(
    client: httpx.AsyncClient, *, disposition: bytes, in_form: bool
) -> None:
    if in_form:
        headers = {b"Content-Type": FORM_HEAD.encode()}
        content = make_form(disposition)
    else:
        headers, content = {b"Content-Disposition": b"attachment; " + disposition}, BYTES
    answer = await client.post("/files/upload", headers=headers, content=content)
    assert (answer.status_code, answer.json()["filename"], answer.json()["hash"]) == (
        201,
        "\xe9.txt",
        DIGEST,
    )


@pytest.mark.one_store
@pytest.mark.parametrize(
    ("headers", "status", "field"),
    [
        ([b"Content-Transfer-Encoding: base64"], 400, "file: Content-Transfer-Encoding"),
        ([b"Content-Transfer-Encoding: quoted-printable"], 400, "file: Content-Transfer-Encoding"),
        ([b"Content-Encoding: gzip"], 415, "file: Content-Encoding"),
        ([b"Content-Type: a/b", b"Content-Type: c/d"], 400, "file: Content-Type"),
        ([b"Content-Type: a/b; c"], 400, "file: Content-Type"),
    ],
)
async def test_a_part_that_is_not_the_file_itself_is_refused(
    client: httpx.AsyncClient,
    resources: Resources,
    owner: Owner,
    *,
    headers: list[bytes],
    status: int,
    field: str,
) -> None:
    answer = await client.post(
        "/files/upload",
        headers={"Content-Type": FORM_HEAD},
        content=make_form(b"filename=a", *headers),
    )
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)
    await check_nothing_left(resources, owner)


@pytest.mark.one_store
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("text/plain;", "text/plain"),
        ("text/plain \t;\tcharset=utf-8 ;", "text/plain; charset=utf-8"),
        ("", "application/octet-stream"),
    ],
)
@pytest.mark.parametrize("way", ["raw", "form", "path"])
async def test_a_content_type_may_have_white_space_and_empty_parameters(
    client: httpx.AsyncClient, *, header: str, expected: str, way: str
) -> None:
    if way == "form":
        form = make_form(b"filename=a", b"Content-Type: " + header.encode())
        answer = await client.post(
            "/files/upload", headers={"Content-Type": FORM_HEAD}, content=form
        )
    elif way == "path":
        answer = await client.put(
            "/upload/a", headers={"Content-Type": header}, content=in_pieces(BYTES)
        )
    else:
        answer = await client.post(
            "/files/upload?filename=a", headers={"Content-Type": header}, content=BYTES
        )
    assert (answer.status_code, answer.json()["content_type"]) == (201, expected)


async def test_a_body_must_match_its_declared_digest(
    client: httpx.AsyncClient, owner: Owner, resources: Resources
) -> None:
    large = os.urandom(9 * MIB)
    for content in (BYTES, large):
        headers = {"Repr-Digest": repr_digest(b"other bytes")}
        refused = await client.post(
            "/files/upload", params={"filename": "a"}, headers=headers, content=content
        )
        assert (refused.status_code, refused.json()["type"]) == (
            422,
            "urn:assay:problem:digest-mismatch",
        )
    await check_nothing_left(resources, owner)
    for content in (BYTES, large):
        headers = {"Repr-Digest": repr_digest(content)}
        taken = await client.post(
            "/files/upload", params={"filename": "a"}, headers=headers, content=content
        )
        assert (taken.status_code, taken.json()["declared_sha256"]) == (201, taken.json()["hash"])


@pytest.mark.parametrize(
    ("parameters", "headers", "status", "problem"),
    [
        ({}, {}, 400, "invalid-request"),
        ({"filename": "a/b"}, {}, 400, "invalid-request"),
        ({"filename": "a\x00"}, {}, 400, "invalid-request"),
        ({"filename": "\u20ac" * 86}, {}, 400, "invalid-request"),
        ({}, {"Content-Disposition": "attachment; filename*=x"}, 400, "invalid-request"),
        ({"filename": "a"}, {"Content-Type": "nonsense"}, 400, "invalid-request"),
        ({"filename": "a"}, {"Repr-Digest": "sha-256=abc"}, 400, "invalid-request"),
        ({"filename": "a"}, {"Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
        ({"filename": "a"}, {"Content-Type": "multipart/form-data"}, 400, "malformed-body"),
        (
            {"filename": "a"},
            {"Content-Type": "multipart/form-data; boundary=b"},
            400,
            "incomplete-body",
        ),
    ],
)
async def test_an_invalid_upload_is_refused_and_leaves_nothing(
    client: httpx.AsyncClient,
    resources: Resources,
    owner: Owner,
    *,
    parameters: dict[str, str],
    headers: dict[str, str],
    status: int,
    problem: str,
) -> None:
    answer = await client.post("/files/upload", params=parameters, headers=headers, content=BYTES)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:assay:problem:{problem}")
    await check_nothing_left(resources, owner)


@pytest.mark.parametrize("size", [10, 9 * MIB])
async def test_a_form_with_another_field_or_without_an_end_leaves_nothing(
    client: httpx.AsyncClient, resources: Resources, owner: Owner, size: int
) -> None:
    content = os.urandom(size)
    answer = await client.post(
        "/files/upload", files=[("file", ("a", content)), ("album", ("b", b"x"))]
    )
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:assay:problem:malformed-body")
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + content
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    cut = await client.post("/files/upload", headers=headers, content=body)
    assert (cut.status_code, cut.json()["type"]) == (400, "urn:assay:problem:incomplete-body")
    await check_nothing_left(resources, owner)


@pytest.mark.parametrize("size", [100, 9 * MIB])
async def test_a_client_that_disconnects_leaves_nothing(
    api: Api, client: httpx.AsyncClient, resources: Resources, owner: Owner, size: int
) -> None:
    address, before = urlsplit(api.url), await count_answers(client)
    head = (
        "POST /files/upload?filename=a HTTP/1.1\r\nHost: test\r\n"
        f"Authorization: Bearer {owner.key}\r\nContent-Length: {10 * MIB}\r\n\r\n"
    )

    def send_and_leave() -> None:
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall(head.encode() + bytes(size))

    async def was_given_up() -> bool:
        return await count_answers(client) > before

    await asyncio.to_thread(send_and_leave)
    await until(was_given_up)
    begun = await resources.pool.fetch(
        "SELECT upload_id FROM reservations WHERE owner = $1 AND doomed_at IS NOT NULL", owner.name
    )
    assert [bool(row["upload_id"]) for row in begun] == ([True] if size > PART_BYTES else [])
    await check_nothing_left(resources, owner)


async def test_an_upload_that_is_too_large_or_too_slow_is_refused(
    api: Api, owner: Owner, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_bodies, "WINDOW_SECONDS", 0.5)
    settings = msgspec.structs.replace(
        api.settings, max_file_bytes=Bytes(9 * MIB), min_upload_rate=Bytes(10_000)
    )

    with serving(settings, with_worker=False) as url:
        async with httpx.AsyncClient(
            base_url=url, headers=owner.headers, timeout=60, verify=TRUSTED
        ) as client:
            content = bytes(9 * MIB + 1)
            for answer in (
                await client.post("/files/upload", params={"filename": "a"}, content=content),
                await client.post(
                    "/files/upload", params={"filename": "a"}, content=in_pieces(content)
                ),
                await client.post("/files/upload", files={"file": ("a", content)}),
            ):
                assert (answer.status_code, answer.json()["type"]) == (
                    413,
                    "urn:assay:problem:file-too-large",
                )
                assert answer.json()["limit"] == 9 * MIB
        assert await asyncio.to_thread(send_slowly, url, owner) == 408
    await check_nothing_left(resources, owner)


def send_slowly(url: str, owner: Owner) -> int:
    """Send only the first bytes of a body, and return the status of the response."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        head = (
            "POST /files/upload?filename=a HTTP/1.1\r\nHost: test\r\n"
            f"Authorization: Bearer {owner.key}\r\nContent-Length: 1000000\r\n\r\n"
        )
        connection.sendall(head.encode() + b"a few")
        return int(connection.makefile("rb").readline().split()[1])


async def test_a_key_that_may_only_read_cannot_upload(api: Api, resources: Resources) -> None:
    reader = api.new_owner(scopes=("read",))
    async with httpx.AsyncClient(
        base_url=api.url, headers=reader.headers, verify=TRUSTED
    ) as client:
        assert (
            await client.post("/files/upload", params={"filename": "a"}, content=BYTES)
        ).status_code == 403
    await check_nothing_left(resources, reader)


@pytest.mark.parametrize("way", ["whole", "form"])
async def test_metadata_is_sent_in_the_query(client: httpx.AsyncClient, way: str) -> None:
    pairs = {"path": "photos/ä b.jpg", "album": "winter & snow"}
    parameters = {"filename": "photo.jpg", "metadata": msgspec.json.encode(pairs).decode()}
    body: dict[str, Any] = (
        {"files": {"file": ("photo.jpg", BYTES)}} if way == "form" else {"content": BYTES}
    )
    answer = await client.post("/files/upload", params=parameters, **body)
    assert (answer.status_code, answer.json()["metadata"]) == (201, pairs)
    assert (await client.get(answer.headers["location"])).json()["metadata"] == pairs


@pytest.mark.parametrize(
    "metadata",
    ["", "{", "[]", '{"a": 1}', '"a"', '{"a": "\\u0000"}', '{"a": "' + "x" * 4096 + '"}'],
)
async def test_invalid_metadata_is_refused(
    client: httpx.AsyncClient, resources: Resources, owner: Owner, metadata: str
) -> None:
    answer = await client.post(
        "/files/upload", params={"filename": "a.txt", "metadata": metadata}, content=BYTES
    )
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "metadata")
    await check_nothing_left(resources, owner)
