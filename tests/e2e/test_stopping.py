"""Tests that a client cannot delay the end of a server."""

import socket
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.conftest import Api, Owner, serving
from tests.e2e.jobs import declare, stream

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]
MIB = 1024**2


async def test_a_client_that_has_stopped_reading_does_not_delay_the_end(
    api: Api, owner: Owner, client: httpx.AsyncClient
) -> None:
    """Check that the server's thread ends within END_SECONDS, and that no socket stays open.

    The same test with a separate process is in test_processes.py.
    """
    file = await stream(client, bytes(24 * MIB))
    with serving(api.settings, with_worker=False) as url:
        address = urlsplit(url)
        reader = socket.create_connection((address.hostname, address.port), timeout=30)
        request = (
            f"GET /files/{file['id']} HTTP/1.1\r\nHost: test\r\n"
            f"Authorization: {owner.headers['Authorization']}\r\n\r\n"
        )
        reader.sendall(request.encode())
        assert reader.recv(12) == b"HTTP/1.1 200"
    with reader, pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port), timeout=5)


async def test_a_wait_for_a_file_is_answered_when_the_server_ends(
    api: Api, owner: Owner, client: httpx.AsyncClient
) -> None:
    declared = await declare(client, b"late")
    with serving(api.settings, with_worker=False) as url:
        address = urlsplit(url)
        waiting = socket.create_connection((address.hostname, address.port), timeout=30)
        path = f"/files/{declared['file']['id']}/metadata?wait=50"
        waiting.sendall(
            f"GET {path} HTTP/1.1\r\nHost: test\r\n"
            f"Authorization: {owner.headers['Authorization']}\r\n\r\n".encode()
        )
        # The server has read the first request before it answers the second.
        later = await client.get(f"{url}/files")
        assert later.status_code == 200
    with waiting:
        assert waiting.recv(12) == b"HTTP/1.1 200"
