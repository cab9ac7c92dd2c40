"""The data folder: which one we may take, who can read it, who is using it.

`FOLDER` is 0711 for root, so that PostgreSQL, which then runs as `nobody`, can reach `FOLDER/postgres`; else 0700.
"""

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.embedded.errors import EmbeddedError

MARKER = "assay-data"
MARKER_TEXT = "Data of `assay dev`. Remove the whole folder to start anew.\n"
SECONDS_FOR_ORPHANS = 10.0
SECONDS_FOR_HOLDER = 1.0


def prepare_folder(folder: Path) -> Path:
    """Make the data folder, or take one that was made here before; returns its absolute path.

    A folder that has other things in it is refused: its mode would be changed.
    """
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = os.listdir(folder)
        owner = folder.stat().st_uid
    except OSError as error:
        raise EmbeddedError(
            f"The data folder {folder} can't be used: {error.strerror}. Choose another one."
        ) from error
    if owner != os.geteuid():
        raise EmbeddedError(
            f"The data folder {folder} belongs to user {owner}, this runs as {os.geteuid()}. Choose another one."
        )
    if names and MARKER not in names:
        raise EmbeddedError(
            f"The folder {folder} has things in it that are not Assay's. Choose a new or an empty one."
        )
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    (folder / MARKER).write_text(MARKER_TEXT)
    (folder / MARKER).chmod(0o600)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock file; yields its descriptor, which the server inherits.

    So the lock ends with the last process of the server, not with us: after a kill -9 of ours the next start waits for
    what is still dying.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        take_lock(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def take_lock(descriptor: int, path: Path) -> None:
    started = time.monotonic()
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode() or "unknown"
            longest = SECONDS_FOR_HOLDER if is_alive(holder) else SECONDS_FOR_ORPHANS
            if time.monotonic() - started > longest:
                raise EmbeddedError(
                    f"The data folder {path.parent} is in use (by process {holder}). Stop that one, or choose another folder."
                ) from None
        time.sleep(0.02)


def is_alive(process_id: str) -> bool:
    try:
        os.kill(int(process_id), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def keep_secret(path: Path, make: Callable[[], str]) -> str:
    """The secret kept in that file (0600); made and written down, whole or not at all, the first time."""
    if path.exists():
        return path.read_text()
    secret = make()
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret)
        file.flush()
        os.fsync(descriptor)
    unfinished.replace(path)
    return secret


def closed_parent(folder: Path) -> Path | None:
    """The topmost folder on the way to `folder` that others may not enter, judging by its mode."""
    for parent in [*reversed(folder.resolve().parents), folder.resolve()]:
        if not parent.stat().st_mode & stat.S_IXOTH:
            return parent
    return None
