"""Where received files go: never outside the folder that was named, never over something else, never through a link.

1. Each component of the path is a plain name (names.py).
2. From the target folder on, each folder on the way is looked at without following links: a link, or anything that is no folder, is in the
   way. What is missing is made. [A link that lies there was made by somebody else: `get` makes none.]
3. What lies at the end is a regular file or nothing: a link is refused also with `--force`, because writing would follow it.
4. A regular file with the same bytes is the file: nothing to do. With other bytes it is kept, unless `--force` says otherwise.
5. Two files of one run never share a path.

The check comes before the writing: whoever may write in the target folder at that very moment can still play tricks. Don't receive into
folders that others can write to.
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
    """Below one folder. Safe to use from every thread."""

    def __init__(self, root: Path, *, force: bool) -> None:
        self.root = root
        self._force = force
        self._lock = threading.Lock()
        self._taken: set[Path] = set()

    def place(self, names: Sequence[str]) -> Path:
        """The path for these components, its folders made. Raises Failed, OSError."""
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
        """Whether the file lies there already. Raises Failed when something else does, OSError."""
        try:
            found = path.lstat()
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode):
            raise Failed(f"{show(str(path))} is in the way: it is {describe_kind(found.st_mode)}")
        if found.st_size == file.size and digest_of(path) == file.hash:
            return True
        if not self._force:
            raise Failed(
                f"{show(str(path))} exists and is another: --force replaces it, -o names another path"
            )
        return False


def enter(folder: Path) -> Path:
    """Raises Failed, OSError."""
    try:
        folder.mkdir()
    except FileExistsError:
        mode = folder.lstat().st_mode
        if not stat.S_ISDIR(mode):
            raise Failed(
                f"{show(str(folder))} is in the way: it is {describe_kind(mode)}"
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
