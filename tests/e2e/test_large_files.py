"""6 GiB, which no single PUT and no single copy can carry: by the client, through both buckets and back. Only on request: it takes minutes.

ASSAY_TEST_LARGE=1 .venv/bin/pytest tests/e2e/test_large_files.py
"""

import hashlib
import os
from pathlib import Path

import pytest

from assay import Client
from service.copying import PART_BYTES
from service.model import GIB, LARGEST_PUT_BYTES
from tests.e2e.conftest import Api, Owner

SIZE = 6 * GIB + 1
pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif("ASSAY_TEST_LARGE" not in os.environ, reason="6 GiB only on request: set ASSAY_TEST_LARGE=1"),
]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Holes for the most part, and something of its own in each part of the copy."""
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        for place in range(0, SIZE, PART_BYTES):
            file.seek(place)
            file.write(place.to_bytes(8))
        file.truncate(SIZE)
    return path


def test_a_file_of_6_gib_comes_back_as_it_was(api: Api, owner: Owner, large: Path, tmp_path: Path) -> None:
    assert large.stat().st_size > LARGEST_PUT_BYTES
    with Client(api.url, owner.key) as client, large.open("rb") as file:
        sent = client.upload(large)
        received = client.download(sent.id, tmp_path / "received.bin")
        assert (sent.state, sent.size) == ("ready", SIZE)
        assert sent.hash == received.hash == hashlib.file_digest(file, "sha256").hexdigest()
        client.delete(sent.id)
    assert (tmp_path / "received.bin").stat().st_size == SIZE
