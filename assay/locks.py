"""One process at a time. The lock ends with the process, however it ends."""

import os

from assay.errors import InProgress

try:
    import fcntl
except ImportError:  # Windows: two at once are then the user's own to avoid
    fcntl = None  # type: ignore[assignment]


def lock(descriptor: int, what: str) -> None:
    """Until the descriptor is closed. Raises InProgress."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InProgress(f"{what} is under way in another process") from error
    except OSError:  # a file system without locks
        return


def is_still(descriptor: int, path: str | os.PathLike[str]) -> bool:
    """Whether what was locked is what lies at the path: its last holder may have taken it away."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
