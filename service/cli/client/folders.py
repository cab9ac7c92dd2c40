"""The sources that `put` sends: files by name, folders with their contents, and pipes.

A file of a folder stores its path in `metadata.path`. The path begins with the folder's own name
and has `/` between the names, however the folder was named: `put -r photos`, `put -r ../photos/`
and, within it, `put -r .` all store `photos/2024/a.jpg`. Symbolic links within a folder are not
followed, because they could lead out of it or into a loop. Links that are named on the command line
are followed.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from service.cli.client import STANDARD_STREAM

STANDARD_INPUT: Final = 0
LINK: Final = "a symbolic link is not followed"
SPECIAL: Final = "neither a file nor a folder"


@dataclass(frozen=True, slots=True)
class Source:
    """A file to send.

    `kept` is its path from the named folder on, or None if the file itself was named.
    """

    path: str
    kept: str | None = None


@dataclass(frozen=True, slots=True)
class Pipe:
    """Bytes that can be read only once. If `path` is None, they come from standard input."""

    path: str | None


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry of a folder that is not sent."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A source that cannot be read."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder whose contents are sent, and its path from the named folder on."""

    path: str
    kept: str


def list_sources(
    arguments: list[str], *, recursive: bool
) -> Iterator[Source | Pipe | Skipped | Unreadable]:
    """Yield the sources in the order of the arguments.

    A pipe that is named twice (`put - /dev/stdin`) is sent once. Two readers of one pipe would each
    get a part of its bytes.
    """
    pipes: set[tuple[int, int]] = set()
    for argument in arguments:
        try:
            for source in list_argument(argument, recursive=recursive):
                if isinstance(source, Pipe) and not note_pipe(source, pipes):
                    yield Unreadable(argument, "is the same pipe as another argument")
                else:
                    yield source
        except OSError as error:
            yield Unreadable(argument, error.strerror or str(error))


def note_pipe(pipe: Pipe, known: set[tuple[int, int]]) -> bool:
    """Add the pipe to the known ones. Return False if it was among them. Raises OSError."""
    found = os.fstat(STANDARD_INPUT) if pipe.path is None else os.stat(pipe.path)
    identity = (found.st_dev, found.st_ino)
    is_new = identity not in known
    known.add(identity)
    return is_new


def list_argument(
    argument: str, *, recursive: bool
) -> Iterator[Source | Pipe | Skipped | Unreadable]:
    if argument == STANDARD_STREAM:
        yield Pipe(None)
        return
    mode = os.stat(argument).st_mode
    if stat.S_ISREG(mode):
        yield Source(argument)
    elif not stat.S_ISDIR(mode):
        yield Pipe(argument)
    elif recursive:
        yield from list_folder(argument, os.path.basename(os.path.abspath(argument)))
    else:
        yield Unreadable(argument, "is a folder; use -r to send its contents")


def list_folder(folder: str, kept: str) -> Iterator[Source | Skipped | Unreadable]:
    """Yield the entries of a folder, depth first.

    Only the entries of the open folders are in memory. There is no recursion, because folders can
    be deeper than Python's stack.
    """
    open_folders = [read_folder(Folder(folder, kept))]
    while open_folders:
        entry = next(open_folders[-1], None)
        if entry is None:
            open_folders.pop()
        elif isinstance(entry, Folder):
            open_folders.append(read_folder(entry))
        else:
            yield entry


def read_folder(folder: Folder) -> Iterator[Source | Skipped | Unreadable | Folder]:
    try:
        with os.scandir(folder.path) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield Unreadable(folder.path, error.strerror or str(error))
        return
    for entry in ordered:
        below = f"{folder.kept}/{entry.name}" if folder.kept else entry.name
        try:
            yield classify(entry, below)
        except OSError as error:
            yield Unreadable(entry.path, error.strerror or str(error))


def classify(entry: "os.DirEntry[str]", kept: str) -> Source | Skipped | Folder:
    """Return what the entry is. Raises OSError."""
    if entry.is_symlink():
        return Skipped(entry.path, LINK)
    if entry.is_dir(follow_symlinks=False):
        return Folder(entry.path, kept)
    if entry.is_file(follow_symlinks=False):
        return Source(entry.path, kept)
    return Skipped(entry.path, SPECIAL)
