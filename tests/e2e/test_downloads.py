"""Downloads through the real server: answers, headers, clients that pause or leave, a store that cuts."""

import asyncio
import contextlib
import hashlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from service import model
from service.resources import Resources
from service.settings import Url
from tests.e2e.conftest import Api, Owner, serving
from tests.proxies import FaultyProxy, faulty_proxy
from tests.servers import free_port

pytestmark = pytest.mark.anyio

MIB = 1024**2
BYTES = b"0123456789" * 10
LARGE_BYTES = 48 * MIB
"""More than all buffers between two sockets hold."""


async def upload(
    client: httpx.AsyncClient, content: bytes, filename: str = "photo.jpg", content_type: str = "image/jpeg"
) -> dict[str, Any]:
    answer = await client.post("/files/upload", params={"filename": filename}, headers={"Content-Type": content_type}, content=content)
    assert answer.status_code == 201, answer.text
    file: dict[str, Any] = answer.json()
    return file


async def test_a_download_tells_all_about_the_file(client: httpx.AsyncClient) -> None:
    file = await upload(client, BYTES, filename="n\u00e4h\u20acr.jpg")
    answer = await client.get(f"/files/{file['id']}")
    assert answer.status_code == 200
    assert answer.content == BYTES
    headers = answer.headers
    assert headers["etag"] == f'"{file["hash"]}"'
    assert headers["repr-digest"].startswith("sha-256=:")
    assert headers["content-type"] == "image/jpeg"
    assert headers["content-length"] == "100"
    assert headers["accept-ranges"] == "bytes"
    assert headers["content-disposition"] == "attachment; filename=\"nah_r.jpg\"; filename*=UTF-8''n%C3%A4h%E2%82%ACr.jpg"
    assert headers["cache-control"] == "private, no-cache"
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert headers["x-content-type-options"] == "nosniff"
    head = await client.head(f"/files/{file['id']}")
    assert head.status_code == 200
    assert head.content == b""
    changing = {"date", "x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in changing} == {k: v for k, v in headers.items() if k not in changing}


async def test_one_range_is_sent_and_a_conditional_request_answered(client: httpx.AsyncClient) -> None:
    path = f"/files/{(await upload(client, BYTES))['id']}"
    part = await client.get(path, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"0123456789", "bytes 10-19/100")
    last = await client.get(path, headers={"Range": "bytes=-3"})
    assert (last.status_code, last.content, last.headers["content-range"]) == (206, b"789", "bytes 97-99/100")
    several = await client.get(path, headers={"Range": "bytes=0-1,5-6"})
    assert (several.status_code, several.content) == (200, BYTES)
    beyond = await client.get(path, headers={"Range": "bytes=100-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */100")
    head = await client.head(path, headers={"Range": "bytes=0-1"})
    assert (head.status_code, head.headers["content-length"]) == (200, "100")
    known = await client.get(path, headers={"If-None-Match": part.headers["etag"], "Range": "bytes=0-1"})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", part.headers["etag"])
    other = await client.get(path, headers={"If-Match": '"other"'})
    assert (other.status_code, other.json()["type"]) == (412, "urn:assay:problem:precondition-failed")
    stale = await client.get(path, headers={"If-Range": '"other"', "Range": "bytes=0-1"})
    assert (stale.status_code, stale.content) == (200, BYTES)


async def test_an_empty_file_is_downloaded(client: httpx.AsyncClient) -> None:
    path = f"/files/{(await upload(client, b''))['id']}"
    answer = await client.get(path)
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    assert (await client.get(path, headers={"Range": "bytes=0-"})).status_code == 416


async def test_only_harmless_types_are_shown_inline(client: httpx.AsyncClient) -> None:
    for content_type, kind in (("image/png", "inline"), ("text/html", "attachment")):
        file = await upload(client, BYTES, content_type=content_type)
        answer = await client.get(f"/files/{file['id']}", params={"disposition": "inline"})
        assert answer.headers["content-disposition"].startswith(kind)
    assert (await client.get(f"/files/{file['id']}", params={"disposition": "open"})).status_code == 400


async def test_a_file_that_is_not_ready_is_refused_as_its_state_says(client: httpx.AsyncClient, resources: Resources) -> None:
    declared = (await client.post("/files", json={"filename": "a", "size": 5})).json()["file"]["id"]
    pending = await client.get(f"/files/{declared}")
    assert (pending.status_code, pending.json()["type"], pending.json()["state"]) == (409, "urn:assay:problem:not-ready", "pending")
    assert pending.headers["retry-after"] == "1"
    file = (await upload(client, BYTES))["id"]
    await resources.pool.execute("UPDATE files SET state = 'damaged' WHERE id = $1", file)
    assert (await client.get(f"/files/{file}")).json()["type"] == "urn:assay:problem:file-damaged"
    await client.delete(f"/files/{declared}")
    assert (await client.get(f"/files/{declared}")).status_code == 410
    assert (await client.get(f"/files/{model.make_id()}")).status_code == 404
    assert (await client.get("/files/none")).status_code == 404


async def test_nobody_elses_file_is_downloaded(api: Api, client: httpx.AsyncClient, admin: Owner) -> None:
    path = f"/files/{(await upload(client, BYTES))['id']}"
    async with httpx.AsyncClient(base_url=api.url) as other:
        assert (await other.get(path)).status_code == 401
        assert (await other.get(path, headers=api.new_owner().headers)).status_code == 404
        assert (await other.get(path, headers=admin.headers)).content == BYTES


async def test_an_object_that_is_gone_is_an_error_and_a_deleted_file_is_not(client: httpx.AsyncClient, resources: Resources) -> None:
    file = await upload(client, BYTES)
    await resources.vault.delete(file["minio_object_name"])
    answer = await client.get(f"/files/{file['id']}")
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:assay:problem:internal-error")
    await client.delete(f"/files/{file['id']}")
    assert (await client.get(f"/files/{file['id']}")).status_code == 410


# A client that reads by hand


class Reader:
    """One download over a socket of its own, read as slowly as the test likes."""

    def __init__(self, url: str, owner: Owner, file: str) -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname, address.port), timeout=60)
        self.socket.sendall(f"GET /files/{file} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {owner.key}\r\n\r\n".encode())
        self.stream = self.socket.makefile("rb")
        self.status = int(self.stream.readline().split()[1])
        while (line := self.stream.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            if name == b"content-length":
                self.length = int(value)

    def read(self, size: int = -1) -> bytes:
        return self.stream.read(size)

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


@pytest.fixture
def proxied(api: Api) -> Iterator[tuple[str, FaultyProxy]]:
    """A second API over the same database, whose way to the store misbehaves."""
    with faulty_proxy(api.store.address) as proxy:
        port = free_port()
        with serving(msgspec.structs.replace(api.settings, s3_endpoint=Url(proxy.endpoint)), port, with_worker=False):
            yield f"http://127.0.0.1:{port}", proxy


@pytest.fixture
async def large(client: httpx.AsyncClient) -> tuple[str, str]:
    """Id and digest of a file that no buffers swallow."""
    content = os.urandom(MIB) * (LARGE_BYTES // MIB)
    return (await upload(client, content))["id"], hashlib.sha256(content).hexdigest()


def open_connections(port: int) -> int:
    """TCP connections to this port that are still open on our side."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


async def wait_until(holds: Callable[[], bool], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        await asyncio.sleep(0.02)


async def test_a_store_that_cuts_in_mid_stream_is_not_noticed(
    proxied: tuple[str, FaultyProxy], large: tuple[str, str], owner: Owner
) -> None:
    url, proxy = proxied
    proxy.cut_answers_after = 11 * MIB
    answer = await asyncio.to_thread(httpx.get, f"{url}/files/{large[0]}", headers=owner.headers, timeout=60)
    assert hashlib.sha256(answer.content).hexdigest() == large[1]
    assert proxy.connections >= 5
    assert b"if-match" in proxy.requests.lower()


async def test_a_store_that_stays_away_makes_no_short_body_look_complete(
    proxied: tuple[str, FaultyProxy], large: tuple[str, str], owner: Owner
) -> None:
    url, proxy = proxied
    reader = await asyncio.to_thread(Reader, url, owner, large[0])
    with contextlib.closing(reader):
        proxy.close()
        received = len(await asyncio.to_thread(reader.read))
        assert reader.length == LARGE_BYTES
        assert 0 < received < LARGE_BYTES
    refused = await asyncio.to_thread(httpx.get, f"{url}/files/{large[0]}", headers=owner.headers, timeout=60)
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:assay:problem:store-unavailable")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_a_client_that_leaves_frees_the_connection_to_the_store(
    proxied: tuple[str, FaultyProxy], large: tuple[str, str], owner: Owner
) -> None:
    url, proxy = proxied
    reader = await asyncio.to_thread(Reader, url, owner, large[0])
    await asyncio.to_thread(reader.read, MIB)
    port = urlsplit(proxy.endpoint).port or 0
    assert open_connections(port) == 1
    reader.close()
    await wait_until(lambda: open_connections(port) == 0, seconds=3)


async def test_a_reader_may_pause_for_a_minute(api: Api, large: tuple[str, str], owner: Owner) -> None:
    """Longer than the 30 s after which MinIO cuts."""
    if api.store.kind == "embedded":
        pytest.skip("the embedded store cuts nobody")
    reader = await asyncio.to_thread(Reader, api.url, owner, large[0])
    with contextlib.closing(reader):
        first = await asyncio.to_thread(reader.read, MIB)
        await asyncio.sleep(60)  # the pause is the test
        rest = await asyncio.to_thread(reader.read)
    assert hashlib.sha256(first + rest).hexdigest() == large[1]
