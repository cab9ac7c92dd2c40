"""Tests of the Python client's streams, and of its requests to an API that is unavailable."""

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import pytest

from assay import Client
from assay.errors import (
    DigestMismatch,
    InvalidRequest,
    NotAssay,
    NotFinal,
    ServerUnavailable,
    Unauthorized,
)
from tests.e2e.conftest import Api, Owner
from tests.support.proxies import FaultyProxy, faulty_way, stub_store

SIZE = 3_000_000
BODY = os.urandom(SIZE)


class Pipe(io.RawIOBase):
    """A source that can be read only once, and returns a few bytes at a time."""

    def __init__(self, body: bytes) -> None:
        self.left = memoryview(body)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer)
        size = min(len(target), len(self.left), 70_000)
        target[:size] = self.left[:size]
        self.left = self.left[size:]
        return int(size)


def pipe(body: bytes) -> BinaryIO:
    return cast(BinaryIO, Pipe(body))


@pytest.fixture
def way(api: Api) -> Iterator[tuple[FaultyProxy, str]]:
    with faulty_way(api.url) as opened:
        yield opened


@pytest.fixture
def sender(way: tuple[FaultyProxy, str], owner: Owner) -> Iterator[Client]:
    """Yield a client that connects through the proxy and has short timeouts."""
    with Client(way[1], owner.key, retry_seconds=2, timeout=5) as client:
        client.list()
        yield client


def test_a_stream_is_sent_with_its_metadata(sender: Client) -> None:
    file = sender.upload(
        pipe(BODY), filename="tar.gz", content_type="application/gzip", metadata={"made": "by tar"}
    )
    assert (file.state, file.hash, file.size) == ("ready", hashlib.sha256(BODY).hexdigest(), SIZE)
    assert (file.filename, file.content_type, file.metadata) == (
        "tar.gz",
        "application/gzip",
        {"made": "by tar"},
    )


def test_a_stream_must_match_its_declared_digest(sender: Client) -> None:
    assert (
        sender.upload(pipe(BODY), sha256=hashlib.sha256(BODY).hexdigest()).hash
        == hashlib.sha256(BODY).hexdigest()
    )
    with pytest.raises(DigestMismatch):
        sender.upload(pipe(BODY), sha256="0" * 64)
    assert len(list(sender.list())) == 1


def test_a_stream_waits_for_an_api_that_is_unavailable_at_its_start(
    way: tuple[FaultyProxy, str], sender: Client
) -> None:
    sender.info(sender.upload(b"met"))
    way[0].fail()
    threading.Timer(0.7, way[0].restore).start()
    assert sender.upload(pipe(b"short")).hash == hashlib.sha256(b"short").hexdigest()
    assert len(list(sender.list())) == 2


def test_a_stream_that_is_cut_in_the_middle_fails_and_leaves_nothing(
    way: tuple[FaultyProxy, str], sender: Client
) -> None:
    class Cutting(Pipe):
        def readinto(self, buffer: Any) -> int:
            if len(self.left) < SIZE - 1_500_000:
                way[0].cut()
            return super().readinto(buffer)

    with pytest.raises(
        ServerUnavailable, match="nothing was stored, and the stream cannot be read again"
    ):
        sender.upload(cast(BinaryIO, Cutting(BODY)))
    way[0].restore()
    assert list(sender.list()) == []


def test_a_declaration_whose_response_is_lost_is_not_repeated(
    way: tuple[FaultyProxy, str], owner: Owner
) -> None:
    proxy, url = way
    proxy.silence_after(b"Idempotency-Key")

    def cut_then_restore() -> None:
        proxy.silenced.wait(20)
        proxy.held.wait(1)
        proxy.cut()
        proxy.restore()

    with Client(url, owner.key, timeout=5) as client:
        threading.Thread(target=cut_then_restore).start()
        file = client.upload(BODY)
        assert [found.id for found in client.list()] == [file.id]
    assert proxy.requests.count(b"POST /files HTTP") >= 2


def test_the_list_follows_all_pages(api: Api, owner: Owner) -> None:
    with Client(api.url, owner.key) as client:
        sent = [client.upload(b"x" * size, filename=f"{size}.txt").id for size in range(5)]
        assert [file.id for file in client.list(page=2)] == sent[::-1]
        assert [file.filename for file in client.list(filename="3*")] == ["3.txt"]
        with pytest.raises(InvalidRequest, match="limit"):
            list(client.list(page=0))


def test_a_wait_that_times_out_raises_not_final_with_the_file(api: Api, owner: Owner) -> None:
    with Client(api.url, owner.key) as client:
        declared = client._api.declare(
            {"filename": "a", "size": 1}, idempotency_key="never-sent"
        ).file
        with pytest.raises(NotFinal) as raised:
            client.wait(declared, timeout=1)
        assert raised.value.file.state == "pending"


def test_a_link_works_without_a_key(api: Api, owner: Owner) -> None:
    with Client(api.url, owner.key) as client:
        link = client.share(client.upload(b"shared"), expires_in=60)
    with Client(api.url) as anonymous, pytest.raises(Unauthorized, match="no API key"):
        anonymous.info("01a218d4-c86a-7553-bc7e-6a776d374372")
    assert link.url.startswith(f"{api.url}/l/")


@pytest.mark.parametrize("status", [200, 302, 404])
def test_a_server_that_is_not_assay_is_reported(status: int) -> None:
    with (
        stub_store(status, {"Content-Type": "text/html"}, b"<html>") as stub,
        Client(stub.endpoint, "key") as client,
        pytest.raises(NotAssay, match="check the URL"),
    ):
        client.info("01a218d4-c86a-7553-bc7e-6a776d374372")


def test_a_server_that_does_not_answer_is_reported(api: Api) -> None:
    with (
        Client("http://127.0.0.1:9", "key", retry_seconds=0.5) as client,
        pytest.raises(ServerUnavailable, match="Connection refused"),
    ):
        client.info("01a218d4-c86a-7553-bc7e-6a776d374372")


@pytest.mark.parametrize(
    "wrong", [{"url": "ftp://host"}, {"key": "two words"}, {"key": "a\r\nb"}, {"parallel": 0}]
)
def test_a_client_with_invalid_settings_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Client(**wrong)  # type: ignore[arg-type]  # what a caller without types may pass


def test_a_text_file_is_refused_as_a_source(api: Api, owner: Owner) -> None:
    with Client(api.url, owner.key) as client, pytest.raises(TypeError, match="binary"):
        client.upload(io.StringIO("text"))  # type: ignore[arg-type]  # as a caller without types
