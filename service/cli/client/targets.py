"""The target paths of received files. They are below the named folder, and never lead through a
link. No existing file is replaced without `--force`.

1. Each component of the path is a plain name (names.py).
2. From the target folder on, each folder of the path is checked without following links. A link, or
   anything else that is not a folder, is an error, because `get` creates no links. Missing folders
   are created.
3. The last component is a regular file or does not exist. A link is refused even with `--force`,
   because writing would follow it.
4. A regular file with the same bytes is left as it is, and counts as received. One with different
   bytes is kept, unless `--force` is given.
5. Two files of one run never share a path.

The check precedes the writing. A process that can write to the target folder at the same time can
still change it in between. Do not receive files into folders to which others can write.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli.client.display import show
from service.cli.client.exit_codes import Failed

if TYPE_CHECKING:
    from assay import File


class Targets:
    """The targets below one folder. Threads can share them."""

    def __init__(self, root: Path, *, force: bool) -> None:
        self.root = root
        self._force = force
        self._lock = threading.Lock()
        self._taken: set[Path] = set()

    def place(self, names: Sequence[str]) -> Path:
        """Return the path for these components, and create its folders.

        Raises Failed or OSError.
        """
        folder = self.root
        for name in names[:-1]:
            folder = enter(folder / name)
        path = folder / names[-1]
        with self._lock:
            if path in self._taken:
                raise Failed("another file of this run has the same path")
            self._taken.add(path)
        return path

    def is_there(self, path: Path, file: "File") -> bool:
        """Return whether the path already holds the file.

        Raises Failed if it holds something else, or OSError.
        """
        try:
            found = path.lstat()
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode):
            raise Failed(f"{show(str(path))} already exists and is {describe_kind(found.st_mode)}")
        if found.st_size == file.size and digest_of(path) == file.hash:
            return True
        if not self._force:
            raise Failed(
                f"{show(str(path))} exists with different content;"
                " replace it with --force, or name another path with -o"
            )
        return False


def enter(folder: Path) -> Path:
    """Create the folder, or check that it is one and not a link. Raises Failed or OSError."""
    try:
        folder.mkdir()
    except FileExistsError:
        mode = folder.lstat().st_mode
        if not stat.S_ISDIR(mode):
            raise Failed(
                f"{show(str(folder))} already exists and is {describe_kind(mode)}"
            ) from None
    return folder


def describe_kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return (
        "a folder"
        if stat.S_ISDIR(mode)
        else "a file"
        if stat.S_ISREG(mode)
        else "neither a file nor a folder"
    )


def digest_of(path: Path) -> str:
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    )
    with os.fdopen(descriptor, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
