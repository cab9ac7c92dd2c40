"""The parts of the Python client that need no server."""

import errno
import gzip
import io
import os
import threading
import time
from pathlib import Path

import pytest

from assay import Progress
from assay.errors import InProgress, SourceChanged
from assay.journals import Journal, open_journal
from assay.locks import lock
from assay.progress import Meter, Share
from assay.retries import MOST_ATTEMPTS, RetryPolicy
from assay.sources import Source, Stream, open_source
from assay.worker_pools import Stopped, WorkerPool

FIELDS = {"filename": "a.bin", "size": 3}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "a.bin").write_bytes(b"abc")
    opened = open_source(tmp_path / "a.bin")
    assert isinstance(opened, Source)
    return opened


def reopen(path: Path, source: Source, *, restart: bool = False) -> Journal:
    return open_journal(path, "http://api", FIELDS, source=source, restart=restart)


def write_journal(path: Path, source: Source) -> Journal:
    journal = reopen(path, source)
    journal.note_part(1, "11" * 32)
    journal.note_part(2, "22" * 32)
    journal.close()
    return journal


def test_a_journal_is_read_as_it_was_written(tmp_path: Path, source: Source) -> None:
    written = write_journal(tmp_path / "state", source)
    read = reopen(tmp_path / "state", source)
    assert (read.key, read.parts, read.file) == (written.key, {1: "11" * 32, 2: "22" * 32}, None)


def test_a_journal_needs_no_hard_links(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "states").mkdir()
    journal = reopen(tmp_path / "states", source)
    journal.close()
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "states").iterdir()] == [0o600]
    assert reopen(tmp_path / "states", source).key == journal.key


@pytest.mark.parametrize("content", [bytes(8192), b"\xff\xfe", b'{"type": ' * 100_000])
def test_a_damaged_journal_in_the_folder_of_journals_starts_over(
    tmp_path: Path, source: Source, content: bytes
) -> None:
    (tmp_path / "states").mkdir()
    reopen(tmp_path / "states", source).close()
    [path] = (tmp_path / "states").iterdir()
    path.write_bytes(content)
    begun = reopen(tmp_path / "states", source)
    begun.close()
    assert reopen(tmp_path / "states", source).key == begun.key


def test_a_journal_of_nuls_starts_over_but_another_file_is_kept(
    tmp_path: Path, source: Source
) -> None:
    (tmp_path / "state").write_bytes(bytes(4096))
    reopen(tmp_path / "state", source).close()
    assert (tmp_path / "state").read_bytes().startswith(b"{")
    (tmp_path / "other").write_bytes(b"\xff\0 precious")
    with pytest.raises(ValueError, match="not the state"):
        reopen(tmp_path / "other", source)
    assert (tmp_path / "other").read_bytes() == b"\xff\0 precious"


@pytest.mark.parametrize("year", [1600, 2262, 2446, 9999])
def test_a_journal_accepts_any_time_of_change(tmp_path: Path, year: int) -> None:
    (tmp_path / "a.bin").write_bytes(b"a")
    nanoseconds = int((year - 1970) * 365.2425 * 86400) * 10**9
    os.utime(tmp_path / "a.bin", ns=(nanoseconds, nanoseconds))
    opened = open_source(tmp_path / "a.bin")
    assert isinstance(opened, Source)
    journal = reopen(tmp_path / "state", opened)
    journal.close()
    assert reopen(tmp_path / "state", opened).key == journal.key
    opened.close()


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_line_that_a_crash_has_truncated_is_ignored(
    tmp_path: Path, source: Source, cut: int
) -> None:
    written = write_journal(tmp_path / "state", source)
    os.truncate(tmp_path / "state", (tmp_path / "state").stat().st_size - cut)
    read = reopen(tmp_path / "state", source)
    assert read.key == written.key
    assert {number: digest for number, digest in read.parts.items() if number == 1} == {
        1: "11" * 32
    }
    read.note_part(3, "33" * 32)
    read.close()
    assert reopen(tmp_path / "state", source).parts[3] == "33" * 32


def test_a_journal_that_a_crash_has_emptied_starts_over(tmp_path: Path, source: Source) -> None:
    written = write_journal(tmp_path / "state", source)
    os.truncate(tmp_path / "state", 0)
    assert reopen(tmp_path / "state", source).key != written.key


def test_a_journal_is_used_by_one_process_at_a_time(tmp_path: Path, source: Source) -> None:
    first = reopen(tmp_path / "state", source)
    with pytest.raises(InProgress, match="another process"):
        reopen(tmp_path / "state", source)
    first.remove()
    second = reopen(tmp_path / "state", source)  # a new journal, because the locked one is gone
    assert second.key != first.key


def test_a_journal_of_a_changed_source_is_kept(tmp_path: Path, source: Source) -> None:
    written = write_journal(tmp_path / "state", source)
    os.utime(tmp_path / "a.bin", ns=(1, 1))
    with pytest.raises(SourceChanged) as raised:
        reopen(tmp_path / "state", open_file(tmp_path / "a.bin"))
    assert raised.value.state == tmp_path / "state"
    assert (
        reopen(tmp_path / "state", open_file(tmp_path / "a.bin"), restart=True).key != written.key
    )


def open_file(path: Path) -> Source:
    opened = open_source(path)
    assert isinstance(opened, Source)
    return opened


def test_a_lock_ends_with_its_descriptor(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    first, second = (os.open(tmp_path / "a", os.O_RDWR) for _ in range(2))
    lock(first, "it")
    with pytest.raises(InProgress):
        lock(second, "it")
    os.close(first)
    lock(second, "it")
    os.close(second)


def test_progress_never_decreases_and_ends_at_the_total() -> None:
    seen: list[Progress] = []
    meter = Meter(seen.append, 100)
    share = Share(meter)
    for _ in range(3):
        for _ in share.watch([memoryview(bytes(30)), memoryview(bytes(30))]):
            time.sleep(0.06)
    meter.enter("done")
    done = [progress.bytes_done for progress in seen]
    assert done == sorted(done)
    assert max(done[:-1]) == 60
    assert seen[-1] == Progress(100, 100, "done")


def test_a_retry_policy_ends_by_time_by_attempts_and_on_request() -> None:
    assert not RetryPolicy(0).wait()
    stop = threading.Event()
    stop.set()
    assert not RetryPolicy(60, stop).wait()
    short = RetryPolicy(0.3)
    begun = time.monotonic()
    while short.wait():
        pass
    assert 0.3 <= time.monotonic() - begun < 30
    tried = RetryPolicy(1e9)
    tried._attempts = MOST_ATTEMPTS
    assert not tried.wait()


def test_the_first_failure_ends_a_worker_pool() -> None:
    pool, working = WorkerPool(), threading.Barrier(3)

    def work() -> None:
        if working.wait(5) == 0:
            raise ValueError("first")
        while True:
            pool.check()
            time.sleep(0.01)

    with pytest.raises(ValueError, match="first"):
        pool.run([work] * 3)
    with pytest.raises(Stopped):
        pool.check()


def test_a_file_object_that_decodes_is_read_through_its_decoder(
    tmp_path: Path,
) -> None:
    """Check that the client does not read from the descriptor, which has the encoded bytes."""
    with gzip.open(tmp_path / "a.gz", "wb") as packed:
        packed.write(b"unpacked" * 1000)
    with gzip.open(tmp_path / "a.gz", "rb") as unpacked:
        opened = open_source(unpacked)  # type: ignore[arg-type]  # any file object is accepted
        assert isinstance(opened, Source)
        assert opened.size == 8000
        buffer = memoryview(bytearray(8))
        assert opened.read_into(buffer, 16) == 8
        assert bytes(buffer) == b"unpacked"


def test_a_source_that_cannot_be_read_twice_is_a_stream(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    keep = os.open(tmp_path / "fifo", os.O_RDWR)
    opened = open_source(tmp_path / "fifo")
    assert isinstance(opened, Stream)
    opened.close()
    os.close(keep)
    assert isinstance(open_source(io.BytesIO(b"abc")), Source)


def test_a_changed_source_is_detected(source: Source, tmp_path: Path) -> None:
    source.check_unchanged()
    (tmp_path / "a.bin").write_bytes(b"abcd")
    with pytest.raises(SourceChanged, match="while it was sent"):
        source.check_unchanged()
    os.truncate(tmp_path / "a.bin", 0)
    with pytest.raises(SourceChanged, match="shorter"):
        source.read_into(memoryview(bytearray(1)), 0)
