"""Tests of running downloads whose file is deleted, or whose key is revoked or expires."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.auth.principals import digest_key
from service.downloads import permits
from service.queries import keys
from service.resources import Resources, open_resources
from service.settings import Settings
from tests.e2e.conftest import Ways, api_apart
from tests.e2e.jobs import check_all, stream
from tests.e2e.leaks import keep_link_secret

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
        httpx.AsyncClient(timeout=30) as reader,
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
    async with httpx.AsyncClient() as again:
        assert (await again.get(url, headers=headers)).status_code in (401, 410)
    await check_all(resources)


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
