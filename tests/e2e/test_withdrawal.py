"""Tests of running downloads whose file is deleted, or whose key is revoked or expires."""

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from service.auth.principals import digest_key
from service.downloads import permits
from service.queries import keys
from service.queries.downloads import FIND_PERMITTED
from service.resources import Resources, open_resources
from service.settings import Settings
from tests.e2e.conftest import Ways, api_apart
from tests.e2e.jobs import check_all, stream
from tests.e2e.leaks import keep_link_secret
from tests.support.faults import FaultyPool
from tests.support.streams import IN_TIME
from tests.support.trust import TRUSTED
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

MIB = 1024**2
BODY = os.urandom(24 * MIB)
PIECE_SECONDS = 0.02

EXPIRE = "UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE id = $1"


@pytest.fixture
def checked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permits, "CHECK_SECONDS", 0.1)


@pytest.fixture
async def client(
    settings: Settings, checked_often: None, logs: object
) -> AsyncIterator[httpx.AsyncClient]:
    async with api_apart(settings, with_worker=False) as client:
        yield client


@pytest.fixture
async def resources(settings: Settings) -> AsyncIterator[Resources]:
    """Yield the database and the buckets of the server of this module."""
    async with open_resources(settings) as opened:
        yield opened


async def delete_file(client: httpx.AsyncClient, resources: Resources, file_id: str) -> None:
    del resources
    assert (await client.delete(f"/files/{file_id}")).status_code == 204


async def revoke_key(client: httpx.AsyncClient, resources: Resources, file_id: str) -> None:
    del file_id
    assert await keys.revoke_key(resources.pool, await find_key_id(client, resources))


async def expire_key(client: httpx.AsyncClient, resources: Resources, file_id: str) -> None:
    del file_id
    await resources.pool.execute(EXPIRE, await find_key_id(client, resources))


async def find_key_id(client: httpx.AsyncClient, resources: Resources) -> UUID:
    key = client.headers["authorization"].removeprefix("Bearer ")
    grant = await keys.find_grant(resources.pool, digest_key(key))
    assert grant is not None
    return grant.key_id


async def read_slowly(url: str, headers: dict[str, str], act: Callable[[], Awaitable[None]]) -> Any:
    """Act after the first piece of a download. Return the bytes and the error that ended it."""
    received = bytearray()
    async with (
        httpx.AsyncClient(timeout=30, verify=TRUSTED) as reader,
        reader.stream("GET", url, headers=headers) as answer,
    ):
        assert answer.status_code == 200
        try:
            async for piece in answer.aiter_raw(64 * 1024):
                if not received:
                    await act()
                received += piece
                await asyncio.sleep(PIECE_SECONDS)  # a client with a slow line
        except httpx.TransportError as error:
            return bytes(received), error
    return bytes(received), None


@pytest.mark.parametrize("linked", [False, True], ids=["by key", "by link"])
@pytest.mark.parametrize("withdraw", [delete_file, revoke_key, expire_key])
async def test_a_running_download_ends_when_its_right_is_withdrawn(
    client: httpx.AsyncClient,
    resources: Resources,
    withdraw: Callable[[httpx.AsyncClient, Resources, str], Awaitable[None]],
    linked: bool,
) -> None:
    file = await stream(client, BODY)
    path, headers = f"/files/{file['id']}", {"Authorization": client.headers["authorization"]}
    if linked:
        answer = await client.post(f"{path}/links", json={"expires_in": 3600})
        path, headers = answer.json()["url"], {}
        keep_link_secret(path)
    url = str(client.base_url.join(path))
    received, error = await read_slowly(
        url, headers, lambda: withdraw(client, resources, file["id"])
    )
    assert isinstance(error, httpx.RemoteProtocolError | httpx.ReadError)
    assert len(received) < len(BODY)
    assert BODY.startswith(received)
    async with httpx.AsyncClient(verify=TRUSTED) as again:
        assert (await again.get(url, headers=headers)).status_code in (401, 410)
    await check_all(resources)


@contextlib.contextmanager
def paused_download(client: httpx.AsyncClient, path: str) -> Iterator[socket.socket]:
    """Request the file, and read nothing.

    The small buffer and segments keep almost all of it out of the buffers of the kernel.
    """
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        wire.settimeout(IN_TIME)
        wire.connect((client.base_url.host, client.base_url.port))
        key = client.headers["authorization"]
        wire.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n".encode())
        yield wire


def reports_withdrawal(log: Path, object_name: str) -> bool:
    lines = log.read_text().splitlines()
    return any("download withdrawn" in line and object_name in line for line in lines)


def read_to_end(wire: socket.socket) -> bytes:
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := wire.recv(MIB):
            received += piece
    return bytes(received)


async def test_the_server_drops_what_a_paused_client_has_not_read(
    client: httpx.AsyncClient, resources: Resources, logs: Path
) -> None:
    """Pause while the whole file is in the buffer of the server, which could still be sent."""
    body = BODY[: 2 * MIB]
    file = await stream(client, body)

    async def is_withdrawn() -> bool:
        return reports_withdrawal(logs, file["minio_object_name"])

    with paused_download(client, f"/files/{file['id']}") as wire:
        assert await asyncio.to_thread(wire.recv, 15, socket.MSG_PEEK) == b"HTTP/1.1 200 OK"
        await delete_file(client, resources, file["id"])
        await until(is_withdrawn)
        received = await asyncio.to_thread(read_to_end, wire)
    _, _, content = received.partition(b"\r\n\r\n")
    assert len(content) < len(body) / 2
    assert body.startswith(content)


async def test_a_check_that_fails_is_repeated_soon(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the interval be too long for a second regular check."""
    monkeypatch.setattr(permits, "CHECK_SECONDS", 0.1)

    async def fail() -> None:
        monkeypatch.setattr(permits, "CHECK_SECONDS", 300)
        raise ConnectionResetError

    failing = FaultyPool(resources.pool, FIND_PERMITTED, before=fail)
    async with permits.open_permits(msgspec.structs.replace(resources, pool=failing)) as opened:
        permit = opened.issue(uuid4(), uuid4())
        with permit.registered():
            async with asyncio.timeout(IN_TIME):
                await permit.withdrawn.wait()
    assert failing.calls == 1


async def test_a_download_continues_while_its_right_cannot_be_checked(
    ways: Ways, checked_often: None
) -> None:
    async with api_apart(ways.settings, with_worker=False) as client:
        file = await stream(client, BODY)

        async def cut_for_a_while() -> None:
            ways.database.cut()
            asyncio.get_running_loop().call_later(3, ways.database.restore)

        url = str(client.base_url.join(f"/files/{file['id']}"))
        headers = {"Authorization": client.headers["authorization"]}
        received, error = await read_slowly(url, headers, cut_for_a_while)
    assert error is None
    assert hashlib.sha256(received).hexdigest() == file["hash"]
