"""Streams that are not ready, and files whose size is not the number of their bytes."""

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from assay.downloads import copy_rights, write_all
from assay.errors import SourceUnreadable
from assay.sources import Source, Stream, open_source
from assay.streams import read_full
from assay.waiting import flush_when_ready

LYING = Path("/proc/version")
PAGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
BODY = os.urandom(300_000)


class Hesitant(io.RawIOBase):
    """A raw stream without a descriptor, of which every other call returns None."""

    def __init__(self, body: bytes = b"") -> None:
        self.left = memoryview(body)
        self.got = b""
        self.calls = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.calls += 1
        if self.calls % 2:
            return None
        size = min(len(buffer), len(self.left), 100_000)
        buffer[:size], self.left = self.left[:size], self.left[size:]
        return int(size)

    def write(self, data: Any) -> int | None:
        self.calls += 1
        if self.calls % 2:
            return None
        self.got += bytes(data[:100_000])
        return len(data[:100_000])


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Yield both ends of a non-blocking pipe."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # the test has closed it


def read_to_end(opened: Source | Stream) -> bytes:
    assert isinstance(opened, Stream)
    pieces = []
    while piece := opened.read(65536):
        pieces.append(piece)
    opened.close()
    return b"".join(pieces)


def test_a_raw_source_that_is_not_ready_is_waited_for() -> None:
    stream = open_source(cast(BinaryIO, Hesitant(BODY)))
    assert isinstance(stream, Stream)
    assert read_full(stream.read) + read_to_end(stream) == BODY


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_non_blocking_pipe_is_read_to_its_end(pipe: tuple[int, int], buffering: int) -> None:
    def feed() -> None:
        os.set_blocking(pipe[1], True)
        with os.fdopen(pipe[1], "wb") as writing:
            writing.write(BODY)

    with os.fdopen(pipe[0], "rb", buffering=buffering) as reading:
        assert reading.read(1) is None or buffering
        thread = threading.Timer(0.1, feed)
        thread.start()
        assert read_to_end(open_source(reading)) == BODY
        thread.join()


def test_a_source_without_descriptor_must_return_bytes() -> None:
    class Odd:
        def read(self, _size: int) -> None:
            return None

    stream = open_source(cast(BinaryIO, Odd()))
    assert isinstance(stream, Stream)
    with pytest.raises(SourceUnreadable, match="returned None"):
        stream.read(10)


def test_a_raw_target_that_is_not_ready_is_waited_for() -> None:
    target = Hesitant()
    write_all(cast(BinaryIO, target), BODY)
    assert target.got == BODY


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_full_non_blocking_pipe_is_waited_for(pipe: tuple[int, int], buffering: int) -> None:
    got: list[bytes] = []

    def drain() -> None:
        os.set_blocking(pipe[0], True)
        with os.fdopen(pipe[0], "rb") as reading:
            got.append(reading.read())

    thread = threading.Timer(0.1, drain)
    thread.start()
    writing = os.fdopen(pipe[1], "wb", buffering=buffering)
    write_all(writing, BODY)
    flush_when_ready(writing)
    writing.close()
    thread.join()
    assert got == [BODY]


def test_a_target_whose_write_returns_nothing_has_written_all() -> None:
    class Plain:
        got = b""

        def write(self, data: memoryview) -> None:
            self.got += bytes(data)

    target = Plain()
    write_all(cast(BinaryIO, target), BODY)
    assert target.got == BODY


# Sizes


@pytest.mark.parametrize("path", [LYING, PAGE])
def test_a_file_with_another_size_than_its_bytes_is_read_to_its_end(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"this system has no {path}")
    body = path.read_bytes()
    assert len(body) != path.stat().st_size
    assert read_to_end(open_source(path)) == body
    with path.open("rb") as buffered:
        assert read_to_end(open_source(buffered)) == body
    with path.open("rb", buffering=0) as raw:
        assert read_to_end(open_source(cast(BinaryIO, raw))) == body
    with path.open("rb") as advanced:
        assert advanced.read(5) == body[:5]
        assert read_to_end(open_source(advanced)) == body[5:]


@pytest.mark.parametrize("size", [0, 1, 4096, 5000])
def test_a_file_of_its_stated_size_can_be_read_from_any_offset(tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(bytes(size))
    opened = open_source(tmp_path / "a")
    assert isinstance(opened, Source)
    assert opened.size == size
    opened.close()
    with (tmp_path / "a").open("rb") as file:
        whole = open_source(file)
        assert isinstance(whole, Source)
        assert whole.size == size
        file.seek(3)
        rest = open_source(file)
        assert isinstance(rest, Source)
        assert rest.size == max(size - 3, 0)


def test_a_folder_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match="directory"):
        open_source(tmp_path)


# Modes


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    (tmp_path / "old").chmod(0o640)
    with (tmp_path / "new").open("wb") as new:
        copy_rights(tmp_path / "old", new.fileno(), and_mode=0o600)
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
        (tmp_path / "old").chmod(0o400)
        copy_rights(tmp_path / "old", new.fileno())
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o400
        copy_rights(tmp_path / "missing", new.fileno())
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o400
