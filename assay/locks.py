"""Locks between processes. A lock ends with its process, even if the process is killed."""

import os

from assay.errors import InProgress

try:
    import fcntl
except ImportError:  # Windows has no such lock; the user must not run two at the same time
    fcntl = None  # type: ignore[assignment]


def lock(descriptor: int, what: str) -> None:
    """Lock the file until the descriptor is closed. Raises InProgress if it is locked already."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InProgress(f"{what} is already in progress in another process") from error
    except OSError:  # a file system without locks
        return


def is_still(descriptor: int, path: str | os.PathLike[str]) -> bool:
    """Return whether the locked file is still at the path. Its last holder may have moved it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
