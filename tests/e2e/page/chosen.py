"""Files on somebody's disk, to be chosen."""

import hashlib
import os
from pathlib import Path


def write_file(path: Path, size: int) -> Path:
    """Random bytes, a piece at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        while size:
            piece = min(size, 8 * 1024**2)
            file.write(os.urandom(piece))
            size -= piece
    return path


def digest_file(path: Path) -> str:
    """SHA-256, as the page and the API write it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
