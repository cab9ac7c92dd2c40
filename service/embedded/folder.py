"""The data folder: which folder may be used, which users can read it, and which process uses it.

For root, `FOLDER` has mode 0711, so that PostgreSQL, which then runs as `nobody`, can reach
`FOLDER/postgres`. Otherwise it has mode 0700.
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
MARKER_TEXT = "Data of `assay dev`. Remove the whole folder to start again.\n"
SECONDS_FOR_ORPHANS = 10.0
SECONDS_FOR_HOLDER = 1.0


def prepare_folder(folder: Path) -> Path:
    """Create the data folder, or use an earlier one. Return its absolute path.

    Raises EmbeddedError for a folder with other contents, whose mode would be changed.
    """
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = os.listdir(folder)
        owner = folder.stat().st_uid
    except OSError as error:
        raise EmbeddedError(
            f"The data folder {folder} cannot be used: {error.strerror}. Choose another one."
        ) from error
    if owner != os.geteuid():
        raise EmbeddedError(
            f"The data folder {folder} belongs to user {owner}, but this process runs as user"
            f" {os.geteuid()}. Choose another folder."
        )
    if names and MARKER not in names:
        raise EmbeddedError(
            f"The folder {folder} contains files that are not Assay's."
            " Choose a new or empty folder."
        )
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    (folder / MARKER).write_text(MARKER_TEXT)
    (folder / MARKER).chmod(0o600)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock file, and yield its descriptor, which the server inherits.

    The lock therefore ends with the last process of the server, and not with this process. After a
    kill -9, the next start waits until the server has exited.
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
                    f"The data folder {path.parent} is in use (by process {holder})."
                    " Stop that process, or choose another folder."
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
    """Return the secret in the file (0600).

    If there is no file, create the secret and write it atomically.
    """
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
    """Return the topmost folder on the path to `folder` whose mode denies access to other users, or
    None.
    """
    for parent in [*reversed(folder.resolve().parents), folder.resolve()]:
        if not parent.stat().st_mode & stat.S_IXOTH:
            return parent
    return None
