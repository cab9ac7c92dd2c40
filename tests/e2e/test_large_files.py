"""Tests of a file of 6 GiB and of 10,000 tiny files, which run only on request.

A file of 6 GiB is too large for a single PUT and a single copy. The tests take minutes. Run them
with:

    ASSAY_TEST_LARGE=1 .venv/bin/pytest tests/e2e/test_large_files.py
"""

import filecmp
import hashlib
import os
from pathlib import Path

import pytest

from assay import Client
from service.model import GIB, LARGEST_PUT_BYTES, MIB
from service.worker.copying import PART_BYTES
from tests.e2e.conftest import Api, Owner
from tests.e2e.people import Person, write_files

SIZE = 6 * GIB + 1
TINY_FILES = 10_000
MOST_BYTES = 100 * MIB
pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        "ASSAY_TEST_LARGE" not in os.environ, reason="only on request: set ASSAY_TEST_LARGE=1"
    ),
]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Write a sparse file in which each part of the copy has different bytes."""
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        for place in range(0, SIZE, PART_BYTES):
            file.seek(place)
            file.write(place.to_bytes(8))
        file.truncate(SIZE)
    return path


def test_a_file_of_6_gib_is_uploaded_and_downloaded(
    api: Api, owner: Owner, large: Path, tmp_path: Path
) -> None:
    assert large.stat().st_size > LARGEST_PUT_BYTES
    with Client(api.url, owner.key) as client, large.open("rb") as file:
        sent = client.upload(large)
        received = client.download(sent.id, tmp_path / "received.bin")
        assert (sent.state, sent.size) == ("ready", SIZE)
        assert sent.hash == received.hash == hashlib.file_digest(file, "sha256").hexdigest()
        client.delete(sent.id)
    assert (tmp_path / "received.bin").stat().st_size == SIZE


def test_ten_thousand_tiny_files_are_sent_and_fetched_in_little_memory(person: Person) -> None:
    write_files(
        person.folder,
        {f"tiny/{number % 100}/{number}": b"%d" % number for number in range(TINY_FILES)},
    )
    sent = person.measure("put", "-r", "tiny", "--quiet")
    assert (sent.status, sent.err) == (0, "")
    received = person.measure("get", "-r", "tiny", "-o", "back", "--quiet")
    assert (received.status, received.err) == (0, "")
    assert max(sent.most_bytes, received.most_bytes) < MOST_BYTES
    assert filecmp.cmpfiles(
        person.folder / "tiny", person.folder / "back" / "tiny", ["0/0", "99/9999"]
    )[0] == ["0/0", "99/9999"]
    assert sum(1 for path in (person.folder / "back").rglob("*") if path.is_file()) == TINY_FILES
