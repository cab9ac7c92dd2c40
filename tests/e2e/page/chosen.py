"""Files on disk that the tests choose in the page."""

import hashlib
import os
from pathlib import Path


def write_file(path: Path, size: int) -> Path:
    """Write a file of `size` random bytes, one piece at a time, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        while size:
            piece = min(size, 8 * 1024**2)
            file.write(os.urandom(piece))
            size -= piece
    return path


def digest_file(path: Path) -> str:
    """Return the SHA-256 of the file in hexadecimal, as the page and the API show it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
