"""The end of a process is not a client's to put off."""

import socket

import httpx
import pytest

from tests.e2e.conftest import Api, Owner, serving
from tests.servers import free_port

pytestmark = pytest.mark.anyio
MIB = 1024**2


async def test_a_reader_that_has_stopped_reading_does_not_keep_the_server(api: Api, owner: Owner, client: httpx.AsyncClient) -> None:
    uploaded = await client.post("/files/upload?filename=large", content=bytes(24 * MIB), headers={"Content-Type": "text/plain"})
    port = free_port()
    with serving(api.settings, port, with_worker=False):
        reader = socket.create_connection(("127.0.0.1", port), timeout=30)
        path = f"/files/{uploaded.json()['id']}"
        reader.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nAuthorization: {owner.headers['Authorization']}\r\n\r\n".encode())
        assert reader.recv(12) == b"HTTP/1.1 200"
    with reader, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


async def test_who_waits_for_a_file_is_answered_when_the_server_ends(api: Api, owner: Owner, client: httpx.AsyncClient) -> None:
    declared = await client.post("/files", json={"filename": "late", "size": 1})
    port = free_port()
    with serving(api.settings, port, with_worker=False):
        waiting = socket.create_connection(("127.0.0.1", port), timeout=30)
        path = f"/files/{declared.json()['file']['id']}/metadata?wait=50"
        waiting.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nAuthorization: {owner.headers['Authorization']}\r\n\r\n".encode())
        later = await client.get(f"http://127.0.0.1:{port}/files")  # the server has read the first one before it answers the second
        assert later.status_code == 200
    with waiting:
        assert waiting.recv(12) == b"HTTP/1.1 200"
