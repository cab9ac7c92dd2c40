"""Tests of downloads from the real server.

They cover responses and headers, clients that pause or disconnect, and a store that closes
connections.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from service import model
from service.resources import Resources
from service.settings import Url
from tests.e2e.conftest import Api, Owner, serving
from tests.e2e.jobs import stream
from tests.support.damage import make_damaged
from tests.support.proxies import FaultyProxy, faulty_proxy
from tests.support.trust import TRUSTED
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

MIB = 1024**2
BYTES = b"0123456789" * 10
LARGE_BYTES = 48 * MIB
"""More than all buffers between two sockets can hold."""


async def test_the_headers_of_a_download_describe_the_file(client: httpx.AsyncClient) -> None:
    file = await stream(client, BYTES, "n\u00e4h\u20acr.jpg", content_type="image/jpeg")
    answer = await client.get(f"/files/{file['id']}")
    assert answer.status_code == 200
    assert answer.content == BYTES
    headers = answer.headers
    assert headers["etag"] == f'"{file["hash"]}"'
    assert headers["repr-digest"].startswith("sha-256=:")
    assert headers["content-type"] == "image/jpeg"
    assert headers["content-length"] == "100"
    assert headers["accept-ranges"] == "bytes"
    assert (
        headers["content-disposition"]
        == "attachment; filename=\"nah_r.jpg\"; filename*=UTF-8''n%C3%A4h%E2%82%ACr.jpg"
    )
    assert headers["cache-control"] == "private, no-cache, no-transform"
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert headers["x-content-type-options"] == "nosniff"
    head = await client.head(f"/files/{file['id']}")
    assert head.status_code == 200
    assert head.content == b""
    changing = {"date", "x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in headers.items() if k not in changing
    }


async def test_single_ranges_and_conditional_requests_are_honoured(
    client: httpx.AsyncClient,
) -> None:
    path = f"/files/{(await stream(client, BYTES, 'photo.jpg'))['id']}"
    part = await client.get(path, headers={"Range": "bytes=10-19"})
    assert part.headers["cache-control"].endswith("no-transform")
    assert (part.status_code, part.content, part.headers["content-range"]) == (
        206,
        b"0123456789",
        "bytes 10-19/100",
    )
    last = await client.get(path, headers={"Range": "bytes=-3"})
    assert (last.status_code, last.content, last.headers["content-range"]) == (
        206,
        b"789",
        "bytes 97-99/100",
    )
    several = await client.get(path, headers={"Range": "bytes=0-1,5-6"})
    assert (several.status_code, several.content) == (200, BYTES)
    beyond = await client.get(path, headers={"Range": "bytes=100-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */100")
    head = await client.head(path, headers={"Range": "bytes=0-1"})
    assert (head.status_code, head.headers["content-length"]) == (200, "100")
    known = await client.get(
        path, headers={"If-None-Match": part.headers["etag"], "Range": "bytes=0-1"}
    )
    assert (known.status_code, known.content, known.headers["etag"]) == (
        304,
        b"",
        part.headers["etag"],
    )
    other = await client.get(path, headers={"If-Match": '"other"'})
    assert (other.status_code, other.json()["type"]) == (
        412,
        "urn:assay:problem:precondition-failed",
    )
    stale = await client.get(path, headers={"If-Range": '"other"', "Range": "bytes=0-1"})
    assert (stale.status_code, stale.content) == (200, BYTES)


async def test_an_empty_file_is_downloaded(client: httpx.AsyncClient) -> None:
    path = f"/files/{(await stream(client, b''))['id']}"
    answer = await client.get(path)
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    assert (await client.get(path, headers={"Range": "bytes=0-"})).status_code == 416


async def test_only_harmless_types_are_shown_inline(client: httpx.AsyncClient) -> None:
    for content_type, kind in (("image/png", "inline"), ("text/html", "attachment")):
        file = await stream(client, BYTES, content_type=content_type)
        answer = await client.get(f"/files/{file['id']}", params={"disposition": "inline"})
        assert answer.headers["content-disposition"].startswith(kind)
    assert (
        await client.get(f"/files/{file['id']}", params={"disposition": "open"})
    ).status_code == 400


async def test_a_file_that_is_not_ready_is_refused_according_to_its_state(
    client: httpx.AsyncClient, resources: Resources
) -> None:
    declared = (await client.post("/files", json={"filename": "a", "size": 5})).json()["file"]["id"]
    pending = await client.get(f"/files/{declared}")
    assert (pending.status_code, pending.json()["type"], pending.json()["state"]) == (
        409,
        "urn:assay:problem:not-ready",
        "pending",
    )
    assert pending.headers["retry-after"] == "1"
    file = (await stream(client, BYTES))["id"]
    await make_damaged(resources.pool, file)
    damaged = await client.get(f"/files/{file}")
    assert (damaged.status_code, damaged.json()["type"], damaged.json()["state"]) == (
        502,
        "urn:assay:problem:file-damaged",
        "damaged",
    )
    await client.delete(f"/files/{declared}")
    assert (await client.get(f"/files/{declared}")).status_code == 410
    assert (await client.get(f"/files/{model.make_id()}")).status_code == 404
    assert (await client.get("/files/none")).status_code == 404


async def test_a_file_is_downloaded_only_by_its_owner_or_an_admin(
    api: Api, client: httpx.AsyncClient, admin: Owner
) -> None:
    path = f"/files/{(await stream(client, BYTES, 'photo.jpg'))['id']}"
    async with httpx.AsyncClient(base_url=api.url, verify=TRUSTED) as other:
        assert (await other.get(path)).status_code == 401
        assert (await other.get(path, headers=api.new_owner().headers)).status_code == 404
        assert (await other.get(path, headers=admin.headers)).content == BYTES


DUE = "SELECT state, checked_at = 'epoch' AS is_due FROM files WHERE id = $1"


async def test_a_missing_object_is_an_error_and_a_deleted_file_is_not(
    client: httpx.AsyncClient, resources: Resources
) -> None:
    file = await stream(client, BYTES)
    await resources.vault.delete(file["minio_object_name"])
    answer = await client.get(f"/files/{file['id']}")
    assert (answer.status_code, answer.json()["type"], answer.json()["state"]) == (
        502,
        "urn:assay:problem:file-damaged",
        "ready",
    )
    row = await resources.pool.fetchrow(DUE, file["id"])
    assert tuple(row) == ("ready", True), "the scrub decides, and reads this file next"
    await client.delete(f"/files/{file['id']}")
    assert (await client.get(f"/files/{file['id']}")).status_code == 410


async def test_a_file_that_is_deleted_while_its_object_is_requested_gets_410(
    proxied: tuple[str, FaultyProxy], client: httpx.AsyncClient, owner: Owner, resources: Resources
) -> None:
    """Check that the API reads the row again when the object is missing.

    The new row shows that the file was deleted, so the missing object is not an error.
    """
    url, proxy = proxied
    file = await stream(client, BYTES)
    proxy.silence()
    async with httpx.AsyncClient(
        base_url=url, headers=owner.headers, timeout=30, verify=TRUSTED
    ) as other:
        asking = asyncio.create_task(other.get(f"/files/{file['id']}"))
        assert await asyncio.to_thread(proxy.held.wait, 10)
        assert (await client.delete(f"/files/{file['id']}")).status_code == 204
        await resources.vault.delete(file["minio_object_name"])
        proxy.restore()
        answer = await asking
    assert (answer.status_code, answer.json()["type"], answer.json()["state"]) == (
        410,
        "urn:assay:problem:gone",
        "deleted",
    )


# A client that controls when it reads


class Reader:
    """A download over a separate socket, from which the test reads as slowly as it requires."""

    def __init__(self, url: str, owner: Owner, file: str) -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname, address.port), timeout=60)
        self.socket.sendall(
            f"GET /files/{file} HTTP/1.1\r\nHost: test\r\n"
            f"Authorization: Bearer {owner.key}\r\nConnection: close\r\n\r\n".encode()
        )
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
    """Run a second API over the same database, which reaches the store through a faulty proxy."""
    with faulty_proxy(api.store.address) as proxy:
        settings = msgspec.structs.replace(api.settings, s3_endpoint=Url(proxy.endpoint))
        with serving(settings, with_worker=False) as url:
            yield url, proxy


@pytest.fixture
async def large(client: httpx.AsyncClient) -> tuple[str, str]:
    """Return the id and digest of a file that is larger than the buffers of the connections."""
    content = os.urandom(MIB) * (LARGE_BYTES // MIB)
    return (await stream(client, content))["id"], hashlib.sha256(content).hexdigest()


def open_connections(port: int) -> int:
    """Return the number of established TCP connections to this port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


async def test_a_download_survives_a_store_that_cuts_its_connections(
    proxied: tuple[str, FaultyProxy], large: tuple[str, str], owner: Owner
) -> None:
    url, proxy = proxied
    proxy.cut_answers_after = 11 * MIB
    answer = await asyncio.to_thread(
        httpx.get, f"{url}/files/{large[0]}", headers=owner.headers, timeout=60
    )
    assert hashlib.sha256(answer.content).hexdigest() == large[1]
    assert proxy.connections >= 5
    assert b"if-match" in proxy.requests.lower()


@pytest.mark.one_store
@pytest.mark.parametrize("resumed", [True, False], ids=["back in time", "away for longer"])
async def test_a_store_that_answers_503_during_a_download_is_retried(
    proxied: tuple[str, FaultyProxy], large: tuple[str, str], owner: Owner, *, resumed: bool
) -> None:
    url, proxy = proxied
    reader = await asyncio.to_thread(Reader, url, owner, large[0])
    with contextlib.closing(reader):
        first = await asyncio.to_thread(reader.read, MIB)
        before = proxy.connections
        proxy.fail()
        rest = asyncio.create_task(asyncio.to_thread(reader.read))

        async def was_asked_again() -> bool:
            return proxy.connections >= before + 2

        await until(was_asked_again)
        assert not rest.done()
        if resumed:
            proxy.restore()
            assert hashlib.sha256(first + await rest).hexdigest() == large[1]
        else:
            assert MIB + len(await rest) < LARGE_BYTES == reader.length


@pytest.mark.one_store
async def test_an_incomplete_body_is_detectable_if_the_store_stays_unavailable(
    proxied: tuple[str, FaultyProxy], large: tuple[str, str], owner: Owner
) -> None:
    url, proxy = proxied
    reader = await asyncio.to_thread(Reader, url, owner, large[0])
    with contextlib.closing(reader):
        proxy.cut()
        received = len(await asyncio.to_thread(reader.read))
        assert reader.length == LARGE_BYTES
        assert 0 < received < LARGE_BYTES
    refused = await asyncio.to_thread(
        httpx.get, f"{url}/files/{large[0]}", headers=owner.headers, timeout=60
    )
    assert (refused.status_code, refused.json()["type"]) == (
        503,
        "urn:assay:problem:store-unavailable",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_client_that_disconnects_frees_the_connection_to_the_store(
    proxied: tuple[str, FaultyProxy], large: tuple[str, str], owner: Owner
) -> None:
    url, proxy = proxied
    port = urlsplit(proxy.endpoint).port or 0

    async def has_read_marker() -> bool:
        return open_connections(port) == 1  # which stays open

    await until(has_read_marker)
    reader = await asyncio.to_thread(Reader, url, owner, large[0])
    await asyncio.to_thread(reader.read, MIB)
    assert open_connections(port) == 2
    reader.close()

    async def is_free() -> bool:
        return open_connections(port) < 2

    await until(is_free, seconds=30)


@pytest.mark.slow
async def test_a_reader_may_pause_for_a_minute(
    api: Api, large: tuple[str, str], owner: Owner
) -> None:
    """Pause for longer than the 30 s after which MinIO closes an unread connection."""
    if api.store.kind == "embedded":
        pytest.skip("the embedded store does not close unread connections")
    reader = await asyncio.to_thread(Reader, api.url, owner, large[0])
    with contextlib.closing(reader):
        first = await asyncio.to_thread(reader.read, MIB)
        await asyncio.sleep(60)  # the test is about this pause
        rest = await asyncio.to_thread(reader.read)
    assert hashlib.sha256(first + rest).hexdigest() == large[1]
