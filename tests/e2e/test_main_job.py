"""Tests of the usual sequence over each store, and of clients that repeat requests.

The sequence is: declare, PUT, the store's event, verification, download.
"""

import asyncio
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service.resources import Resources
from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import (
    check_all,
    check_served,
    complete,
    declare,
    digest,
    download,
    look_at,
    put,
    read_metadata,
    sweep_incoming,
    upload,
)
from tests.support.presigned import Answers
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

BODY = b"what was sent" * 1000
OTHER = BODY.upper()
MIB = 1024**2
needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None, reason="the test runs the README's commands with curl"
)


async def test_a_file_is_proved_and_served_after_the_event_alone(
    api: Api, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await upload(client, BODY, filename="ä b.txt", metadata={"album": "winter"})
    assert (await read_metadata(client, declared, wait=20))["state"] == "ready"
    await check_served(client, resources, declared, BODY)
    answer = await download(client, declared)
    assert answer.headers["etag"] == f'"{digest(BODY)}"'
    assert answer.headers["content-length"] == str(len(BODY))
    assert answer.headers["content-type"].startswith("text/plain")
    assert "filename*=UTF-8''%C3%A4%20b.txt" in answer.headers["content-disposition"]
    await sweep_incoming(resources, declared)
    url = f"{api.url}/files/{declared['file']['id']}"
    assert (await anonymous.get(url)).status_code == 401
    assert (await anonymous.get(url, headers=api.new_owner().headers)).status_code == 404
    await check_all(resources)


async def test_complete_waits_until_the_file_is_proved(
    client: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await upload(client, BODY)
    assert (await complete(client, declared))["state"] == "ready"
    await check_served(client, resources, declared, BODY)


async def test_all_waiting_requests_are_answered_after_the_event(client: httpx.AsyncClient) -> None:
    declared = await declare(client, BODY)
    waiting = [asyncio.create_task(read_metadata(client, declared, wait=30)) for _ in range(10)]
    await asyncio.wait(waiting, timeout=0.3)
    assert not any(task.done() for task in waiting)
    await put(declared, BODY)
    async with asyncio.timeout(15):
        answers = await asyncio.gather(*waiting)
    assert {answer["hash"] for answer in answers} == {digest(BODY)}


async def test_a_client_that_repeats_every_request_gets_one_file(
    client: httpx.AsyncClient, resources: Resources, expected: Answers
) -> None:
    request: dict[str, Any] = {
        "json": {"filename": "a.txt", "size": len(BODY)},
        "headers": {"Idempotency-Key": "once"},
    }
    first, again = [await client.post("/files", **request) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 200)
    declared = again.json()
    assert (await put(first.json(), BODY)).status == 200
    assert (await put(declared, BODY)).status in expected["if-none-match, key exists"]
    for _ in range(3):
        assert (await complete(client, declared))["hash"] == digest(BODY)
    await check_served(client, resources, declared, BODY)
    files = (await client.get("/files")).json()["files"]
    assert [file["id"] for file in files] == [first.json()["file"]["id"]]
    await sweep_incoming(resources, declared)
    await check_all(resources)


async def test_a_declared_digest_is_bound_into_the_url(
    client: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await declare(client, BODY, sha256=digest(BODY))
    assert (await put(declared, OTHER)).status == 400
    traces = await look_at(resources, declared)
    assert (traces.row["state"], traces.incoming) == ("pending", None)
    assert (await put(declared, BODY)).status == 200
    assert (await complete(client, declared))["declared_sha256"] == digest(BODY)
    await check_served(client, resources, declared, BODY)


@pytest.mark.parametrize("size", [0, 1, 5 * MIB + 1], ids=["nothing", "1 B", "5 MiB + 1 B"])
async def test_a_file_of_any_size_is_uploaded_and_downloaded(
    client: httpx.AsyncClient, resources: Resources, *, size: int
) -> None:
    body = make_body(size)
    declared = await upload(client, body)
    await complete(client, declared)
    await check_served(client, resources, declared, body)
    assert (await read_metadata(client, declared))["hash"] == digest(body)


async def test_100_mib_are_uploaded_and_downloaded(client: httpx.AsyncClient) -> None:
    body = make_body(100 * MIB)
    declared = await upload(client, body, multipart=False)
    assert (await complete(client, declared))["hash"] == digest(body)
    received = hashlib.sha256()
    async with client.stream("GET", f"/files/{declared['file']['id']}") as answer:
        assert answer.headers["content-length"] == str(len(body))
        async for chunk in answer.aiter_bytes():
            received.update(chunk)
    assert received.hexdigest() == digest(body)


async def test_a_deleted_file_is_removed_from_both_buckets(
    client: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await upload(client, BODY)
    await complete(client, declared)
    assert (await client.delete(f"/files/{declared['file']['id']}")).status_code == 204
    assert (await download(client, declared)).status_code == 410

    async def gone() -> bool:
        traces = await look_at(resources, declared)
        return traces.incoming is traces.vault is None

    await until(gone)
    await check_all(resources)


@needs_curl
@pytest.mark.parametrize("waits", [True, False], ids=["after Expect: 100-continue", "sent at once"])
@pytest.mark.parametrize("size", [1000, 20 * MIB], ids=["1 kB", "20 MiB"])
async def test_curl_sends_bytes_only_to_the_store_and_the_key_only_to_the_api(
    api: Api,
    owner: Owner,
    client: httpx.AsyncClient,
    resources: Resources,
    tmp_path: Path,
    *,
    size: int,
    waits: bool,
) -> None:
    body = make_body(size)
    (tmp_path / "photo.jpg").write_bytes(body)
    key, expect = (
        f"Authorization: Bearer {owner.key}",
        "Expect: 100-continue" if waits else "Expect:",
    )
    curl = await run_curl(
        "-v", "-LT", str(tmp_path / "photo.jpg"), "-H", key, "-H", expect, f"{api.url}/upload/"
    )
    ours, theirs = [hop.splitlines() for hop in curl.stderr.split("> PUT ")[1:]]
    assert f"> Host: {urlsplit(api.url).netloc}" in ours
    assert f"> Host: {urlsplit(api.store.endpoint).netloc}" in theirs
    assert any("Authorization" in line for line in ours)
    assert not any("Authorization" in line or owner.key in line for line in theirs)
    assert ("> Expect: 100-continue" in ours) is waits
    assert not any(line.startswith("< HTTP/1.1 100") for line in ours), (
        "the API requested a body that it does not read"
    )
    link = next(line for line in ours if line.lower().startswith("< link: "))
    file_id = link.partition("</files/")[2].partition("/metadata>")[0]
    declared = {"file": {"id": file_id}}
    assert (await read_metadata(client, declared, wait=20))["filename"] == "photo.jpg"
    await check_served(client, resources, declared, body)


@needs_curl
async def test_curl_resumes_a_download(
    api: Api, owner: Owner, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    body = make_body(3 * MIB)
    declared = await upload(client, body)
    await complete(client, declared)
    half = tmp_path / "half"
    half.write_bytes(body[: len(body) // 2])
    curl = await run_curl(
        "-v",
        "-C",
        "-",
        "-o",
        str(half),
        "-H",
        f"Authorization: Bearer {owner.key}",
        f"{api.url}/files/{declared['file']['id']}",
    )
    assert "< HTTP/1.1 206" in curl.stderr
    assert half.read_bytes() == body


def make_body(size: int) -> bytes:
    """Return `size` bytes, in which no two megabytes are equal."""
    block = hashlib.shake_256(b"assay").digest(min(size, MIB))
    pieces = [number.to_bytes(4, "big") + block[4:] for number in range(size // MIB)]
    return b"".join(pieces) + block[: size % MIB]


async def run_curl(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run curl, and check that its exit status is 0."""
    curl = await asyncio.to_thread(
        subprocess.run,
        ["curl", "-sS", "--fail", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert curl.returncode == 0, curl.stderr[-300:]
    return curl
