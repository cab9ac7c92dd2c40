"""Tests of uploads by the Python client to the real server and store."""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from assay import Client, Progress
from assay.errors import NotFound, Unauthorized
from tests.e2e.conftest import Api, Owner


@pytest.fixture
def sender(api: Api, owner: Owner) -> Iterator[Client]:
    with Client(api.url, owner.key) as client:
        yield client


def write(path: Path, size: int) -> str:
    """Write a file of random bytes, and return its SHA-256."""
    body = os.urandom(size)
    path.write_bytes(body)
    return hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_a_path_is_sent_and_proved(sender: Client, tmp_path: Path, size: int) -> None:
    digest = write(tmp_path / "photo.jpg", size)
    seen: list[Progress] = []
    file = sender.upload(
        tmp_path / "photo.jpg",
        content_type="image/jpeg",
        metadata={"album": "winter"},
        progress=seen.append,
    )
    assert (file.state, file.hash, file.size, file.filename) == ("ready", digest, size, "photo.jpg")
    assert (file.content_type, file.metadata, file.declared_sha256) == (
        "image/jpeg",
        {"album": "winter"},
        digest,
    )
    assert [progress.bytes_done for progress in seen] == sorted(
        progress.bytes_done for progress in seen
    )
    assert seen[-1] == Progress(size, size, "done")
    assert sender.info(file) == file
    assert [found.id for found in sender.list()] == [file.id]
    sender.delete(file)
    assert sender.info(file.id).state == "deleted"


def test_bytes_and_file_objects_are_sent_from_their_position(
    sender: Client, tmp_path: Path
) -> None:
    write(tmp_path / "a.bin", 100_000)
    body = (tmp_path / "a.bin").read_bytes()
    with (tmp_path / "a.bin").open("rb") as opened:
        opened.seek(10)
        from_disk = sender.upload(opened)
    in_memory = io.BytesIO(body)
    in_memory.seek(20)
    assert (from_disk.hash, from_disk.filename) == (hashlib.sha256(body[10:]).hexdigest(), "a.bin")
    assert sender.upload(in_memory).hash == hashlib.sha256(body[20:]).hexdigest()
    assert (
        sender.upload(memoryview(body)[30:], filename="m.bin").hash
        == hashlib.sha256(body[30:]).hexdigest()
    )


def test_a_pipe_is_streamed_through_the_api(sender: Client) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"through a pipe")
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        file = sender.upload(pipe, filename="pipe.txt")
    assert (file.state, file.hash) == ("ready", hashlib.sha256(b"through a pipe").hexdigest())


def test_a_wrong_key_and_a_foreign_file_raise_different_errors(api: Api, sender: Client) -> None:
    file = sender.upload(b"mine")
    with Client(api.url, api.new_owner().key) as other, pytest.raises(NotFound) as foreign:
        other.info(file)
    assert foreign.value.problem
    assert foreign.value.problem.status == 404
    with Client(api.url, "wrong") as stranger, pytest.raises(Unauthorized):
        stranger.upload(b"x")
