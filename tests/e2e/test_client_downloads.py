"""Tests of downloads by the Python client from the real server."""

import hashlib
import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from assay import Client, File, Progress
from assay.errors import Gone, InProgress, NotReady, ServerUnavailable, TargetFailed
from tests.e2e.conftest import Api, Owner
from tests.support.proxies import FaultyProxy, faulty_way

SIZE = 3_000_000
BODY = os.urandom(SIZE)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def sender(api: Api, owner: Owner) -> Iterator[Client]:
    with Client(api.url, owner.key) as client:
        yield client


@pytest.fixture
def sent(sender: Client) -> File:
    return sender.upload(BODY, filename="photo.jpg")


@pytest.fixture
def way(api: Api) -> Iterator[tuple[FaultyProxy, str]]:
    """Yield a proxy in front of the API, and its URL. Only clients use the proxy."""
    with faulty_way(api.url) as opened:
        yield opened


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(".part")]


def test_a_file_is_downloaded_completely(sender: Client, sent: File, tmp_path: Path) -> None:
    seen: list[Progress] = []
    (tmp_path / "copy.jpg").write_bytes(b"what was there before")
    assert sender.download(sent, tmp_path / "copy.jpg", progress=seen.append).hash == DIGEST
    assert (tmp_path / "copy.jpg").read_bytes() == BODY
    assert list(tmp_path.iterdir()) == [tmp_path / "copy.jpg"]
    assert seen[-1] == Progress(SIZE, SIZE, "done")


def test_an_empty_file_is_downloaded(sender: Client, tmp_path: Path) -> None:
    sender.download(sender.upload(b""), tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_file_is_downloaded_into_a_file_object(sender: Client, sent: File) -> None:
    target = io.BytesIO()
    sender.download(str(sent.id), target)
    assert target.getvalue() == BODY


def test_a_device_is_written_into_and_not_replaced(
    sender: Client, sent: File, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen(
        ["sha256sum", tmp_path / "fifo"], stdout=subprocess.PIPE, text=True
    ) as reader:
        sender.download(sent, tmp_path / "fifo")
        said, _ = reader.communicate(timeout=30)
    assert said.startswith(DIGEST)
    assert (tmp_path / "fifo").is_fifo()


def test_a_link_to_a_file_stays_a_link(sender: Client, sent: File, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    sender.download(sent, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == BODY


def test_a_download_resumes_after_its_connection_is_cut(
    owner: Owner, sent: File, tmp_path: Path, way: tuple[FaultyProxy, str]
) -> None:
    """Check that only bytes in flight are sent twice, for a path and for a file object."""
    proxy, url = way
    proxy.cut_answers_after = 1_000_000
    target = io.BytesIO()
    with Client(url, owner.key) as client:
        client.download(sent, tmp_path / "copy.jpg")
        client.download(sent, target)
    assert (tmp_path / "copy.jpg").read_bytes() == target.getvalue() == BODY
    assert proxy.requests.count(b"Range: bytes=") >= 6
    assert b"If-Match" in proxy.requests


def test_a_download_resumes_from_the_partial_file_of_a_killed_run(
    api: Api, owner: Owner, sent: File, tmp_path: Path, way: tuple[FaultyProxy, str]
) -> None:
    proxy, url = way
    program = (
        f"from assay import Client; Client({url!r}, {owner.key!r})"
        f".download({str(sent.id)!r}, {str(tmp_path / 'copy.jpg')!r})"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        while not any(path.stat().st_size for path in partials(tmp_path)):
            time.sleep(0.001)
        proxy.silence()
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "copy.jpg").exists()
    [left] = partials(tmp_path)
    size = left.stat().st_size
    if size == SIZE:
        os.truncate(left, size := 2_000_000)
    with faulty_way(api.url) as (second, again), Client(again, owner.key) as client:
        client.download(sent, tmp_path / "copy.jpg")
        assert f"Range: bytes={size}-".encode() in second.requests
        assert b"If-Range" in second.requests
    assert (tmp_path / "copy.jpg").read_bytes() == BODY
    assert partials(tmp_path) == []


def test_a_partial_file_with_different_bytes_is_not_used(
    sender: Client, sent: File, tmp_path: Path
) -> None:
    for left in (b"x" * 1000, b"x" * SIZE, b"x" * (SIZE + 1)):
        (tmp_path / f".copy.jpg.{sent.id.hex}.part").write_bytes(left)
        sender.download(sent, tmp_path / "copy.jpg")
        assert (tmp_path / "copy.jpg").read_bytes() == BODY
        assert partials(tmp_path) == []


@pytest.mark.parametrize("limit", [1_500_000])
def test_a_full_disk_is_reported_and_leaves_no_file_of_the_name(
    api: Api, owner: Owner, sent: File, tmp_path: Path, limit: int
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from assay import Client
from assay.errors import TargetFailed
try:
    Client({api.url!r}, {owner.key!r}).download({str(sent.id)!r}, {str(tmp_path / "copy.jpg")!r})
except TargetFailed as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert "cannot be written" in done.stdout
    assert "File too large" in done.stdout
    assert not (tmp_path / "copy.jpg").exists()
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
    with Client(api.url, owner.key) as client:  # this process has no file size limit
        client.download(sent, tmp_path / "copy.jpg")
    assert (tmp_path / "copy.jpg").read_bytes() == BODY


def test_a_folder_is_refused_as_a_target(sender: Client, sent: File, tmp_path: Path) -> None:
    with pytest.raises(TargetFailed, match="is a folder"):
        sender.download(sent, tmp_path)
    with pytest.raises(TargetFailed, match="No such file"):
        sender.download(sent, tmp_path / "nowhere" / "copy.jpg")


def test_two_downloads_to_one_name_do_not_mix(sender: Client, sent: File, tmp_path: Path) -> None:
    errors: list[Exception] = []

    def start_another(_: Progress) -> None:
        try:
            sender.download(sent, tmp_path / "copy.jpg")
        except InProgress as error:
            errors.append(error)

    sender.download(
        sent,
        tmp_path / "copy.jpg",
        progress=lambda progress: start_another(progress) if progress.phase != "done" else None,
    )
    assert errors
    assert (tmp_path / "copy.jpg").read_bytes() == BODY


def test_a_file_deleted_during_its_download_is_reported_as_gone(
    sender: Client, owner: Owner, sent: File, tmp_path: Path, way: tuple[FaultyProxy, str]
) -> None:
    proxy, url = way
    proxy.cut_answers_after = 1_000_000
    with Client(url, owner.key) as client, pytest.raises(Gone):
        client.download(
            sent,
            tmp_path / "copy.jpg",
            progress=lambda now: sender.delete(sent) if now.bytes_done else None,
        )
    assert not (tmp_path / "copy.jpg").exists()


def test_a_file_that_is_not_ready_is_refused(sender: Client, tmp_path: Path) -> None:
    declared = sender._api.declare({"filename": "a", "size": 1}, idempotency_key="never-sent").file
    with pytest.raises(NotReady, match="pending"):
        sender.download(declared, tmp_path / "a")
    sender.delete(declared)
    with pytest.raises(Gone):
        sender.download(declared, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_stays_unavailable_is_reported(
    owner: Owner, sent: File, tmp_path: Path, way: tuple[FaultyProxy, str]
) -> None:
    proxy, url = way
    proxy.cut_answers_after = 1_000_000
    with (
        Client(url, owner.key, retry_seconds=1) as client,
        pytest.raises(ServerUnavailable, match="interrupted after"),
    ):
        client.download(
            sent,
            tmp_path / "copy.jpg",
            progress=lambda now: proxy.cut() if now.bytes_done else None,
        )
    assert not (tmp_path / "copy.jpg").exists()
