"""Tests of modification times as metadata: their form, their limits, and journals that hold one."""

import os
from pathlib import Path
from typing import Any

import pytest

from assay.errors import SourceChanged
from assay.journals import Journal, open_journal
from assay.sources import Source, Stream, open_source
from assay.times import (
    MOST_BYTES,
    MOST_PAIRS,
    add_time,
    format_time,
    is_sent_as,
    parse_time,
)
from service.files.validation import MOST_METADATA_BYTES, MOST_METADATA_PAIRS


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0.000000000"),
        (1, "0.000000001"),
        (-1, "-0.000000001"),
        (-1_500_000_000, "-1.500000000"),
        (1_764_412_345_123_456_789, "1764412345.123456789"),
        (15_042_880_000_000_000_000, "15042880000.000000000"),  # in the year 2446
    ],
)
def test_a_time_is_written_in_seconds_and_read_back(nanoseconds: int, text: str) -> None:
    assert format_time(nanoseconds) == text
    assert parse_time(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "nanoseconds"), [("1764412345", 1_764_412_345 * 10**9), ("-1.5", -1_500_000_000)]
)
def test_a_time_with_fewer_digits_is_read(text: str, nanoseconds: int) -> None:
    assert parse_time(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        *["", "x", "1e9", "1.", ".5", "+1", " 1", "1\n", "\u0661", "NaN", "--1"],
        *["9" * 21, "1." + "0" * 10, "2026-11-28T10:00:00Z", "a" * 4000],
    ],
)
def test_any_other_text_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="expected seconds such as") as raised:
        parse_time(text)
    assert len(str(raised.value)) < 150


def test_the_limits_of_metadata_are_those_of_the_server() -> None:
    assert (MOST_PAIRS, MOST_BYTES) == (MOST_METADATA_PAIRS, MOST_METADATA_BYTES)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "a.bin").write_bytes(b"abc")
    os.utime(tmp_path / "a.bin", ns=(0, 1_500_000_000))
    opened = open_source(tmp_path / "a.bin")
    assert isinstance(opened, Source)
    return opened


def test_the_time_of_a_file_is_added_to_its_metadata(source: Source) -> None:
    assert add_time({"a": "b"}, source) == {"a": "b", "mtime": "1.500000000"}


@pytest.mark.parametrize("own", ["", "7", "yesterday"])
def test_an_mtime_of_the_caller_takes_precedence(source: Source, own: str) -> None:
    assert add_time({"mtime": own}, source) == {"mtime": own}


def test_bytes_and_pipes_have_no_time() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        opened = open_source(pipe)
        assert isinstance(opened, Stream)
        assert add_time({}, opened) == {}
    assert add_time({}, open_source(b"abc")) == {}


ADDED_BYTES = len("mtime" + "1.500000000")


@pytest.mark.parametrize(
    ("full", "free"),
    [
        ({str(number): "" for number in range(32)}, {str(number): "" for number in range(31)}),
        ({"k": "ä" * 2040}, {"k": "ä" * ((4096 - ADDED_BYTES) // 2 - 1)}),
    ],
    ids=["pairs", "bytes"],
)
def test_a_time_without_space_in_the_metadata_is_left_out(
    source: Source,
    caplog: pytest.LogCaptureFixture,
    full: dict[str, str],
    free: dict[str, str],
) -> None:
    assert add_time(free, source) == {**free, "mtime": "1.500000000"}
    assert not caplog.messages
    assert add_time(full, source) == full
    [message] = caplog.messages
    assert message.startswith("a.bin: its modification time is not sent")


@pytest.mark.parametrize(
    ("found", "declared", "same"),
    [
        ({}, {}, True),
        ({"mtime": "1.5"}, {}, True),
        ({"mtime": "1.5", "a": "b"}, {"a": "b"}, True),
        ({"mtime": "1.5"}, {"mtime": "1.5"}, True),
        ({"mtime": "1.5"}, {"mtime": "2"}, False),
        ({}, {"mtime": "2"}, False),
        ({"a": "c"}, {"a": "b"}, False),
    ],
)
def test_a_time_in_addition_makes_no_other_metadata(
    found: dict[str, str], declared: dict[str, str], *, same: bool
) -> None:
    assert is_sent_as(found, declared) is same


# Journals


def open_with(path: Path, source: Source, metadata: dict[str, str]) -> Journal:
    fields: dict[str, Any] = {"filename": "a.bin", "size": 3, "metadata": metadata}
    return open_journal(path, "http://api", fields, source=source, restart=False)


def write_journal(path: Path, source: Source, metadata: dict[str, str]) -> None:
    journal = open_with(path, source, metadata)
    journal.note_part(1, "11" * 32)
    journal.close()


def has_parts(journal: Journal) -> bool:
    journal.close()
    return bool(journal.parts)


def test_a_new_time_of_the_source_is_no_other_upload(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_journal(path, source, dict(add_time({}, source)))
    assert has_parts(open_with(path, source, dict(add_time({}, source))))
    os.utime(tmp_path / "a.bin", ns=(0, 2_500_000_000))
    changed = open_source(tmp_path / "a.bin")
    assert isinstance(changed, Source)
    with pytest.raises(SourceChanged, match="has changed since its upload began"):
        open_with(path, changed, dict(add_time({}, changed)))


def test_another_choice_of_the_time_is_another_upload(source: Source, tmp_path: Path) -> None:
    with_time = dict(add_time({}, source))
    for before, after in [(with_time, {}), ({}, with_time), ({"mtime": "x"}, {"mtime": "y"})]:
        path = tmp_path / f"state-{len(before)}-{len(after)}"
        write_journal(path, source, before)
        assert has_parts(open_with(path, source, before))
        assert not has_parts(open_with(path, source, after))
