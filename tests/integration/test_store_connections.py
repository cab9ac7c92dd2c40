"""Connections to the store: their reuse, the time limits of bodies, and waits at shutdown."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from service.object_store import Bucket, ObjectStore, StoreError, StoreUnavailable, transport
from tests.support.objects import put_object, read_all
from tests.support.stores import open_store

pytestmark = [pytest.mark.anyio, pytest.mark.own_deployment]

BODY = bytes(8 * 1024 * 1024)


@contextlib.contextmanager
def slow_server(release: threading.Event, reached: threading.Event | None = None) -> Iterator[str]:
    """Run a server that reads the start of one request, and the rest when it is released.

    It then answers as a store does after a successful PUT.
    """

    def serve() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as client:
            client.recv(1024)
            if reached:
                reached.set()
            release.wait(10)
            client.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while client.recv(1 << 20):
                    pass
            client.sendall(b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n')

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        release.set()
    thread.join()


@contextlib.contextmanager
def opened(endpoint: str) -> Iterator[ObjectStore]:
    with open_store(endpoint, "key", secret_key="secret") as store:
        yield store


async def test_a_connection_is_usable_after_an_unread_empty_object(vault: Bucket) -> None:
    put_object(vault, "empty", b"")
    with vault.open("empty", etag=None) as reader:
        assert reader.content_length == 0
    put_object(vault, "k", b"written over the same connection")
    assert read_all(vault, "k") == b"written over the same connection"


async def test_a_connection_is_usable_after_an_empty_object_was_read(
    vault: Bucket,
) -> None:
    put_object(vault, "empty", b"")
    assert read_all(vault, "empty") == b""
    put_object(vault, "k", b"written over the same connection")


async def test_a_body_may_take_longer_than_a_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.2)
    release = threading.Event()
    # This is longer than a connection attempt may take.
    timer = threading.Timer(0.6, release.set)
    with slow_server(release) as endpoint, opened(endpoint) as store:
        timer.start()
        put_object(store.bucket("vault"), "k", BODY)


async def test_a_body_may_not_take_longer_than_its_call() -> None:
    release = threading.Event()
    with (
        slow_server(release) as endpoint,
        opened(endpoint) as store,
        pytest.raises(StoreUnavailable),
    ):
        store.bucket("vault").put_now(
            "k", BODY, content_type="text/plain", metadata={}, tags={}, timeout_seconds=0.3
        )


async def test_a_waiting_request_ends_when_the_store_is_closed() -> None:
    release, reached = threading.Event(), threading.Event()
    with slow_server(release, reached) as endpoint, opened(endpoint) as store:
        waiting = asyncio.create_task(store.bucket("vault").head("k", timeout_seconds=60))
        assert await asyncio.to_thread(reached.wait, 20)
        store.close()
        with pytest.raises(StoreError):
            await asyncio.wait_for(waiting, 5)
