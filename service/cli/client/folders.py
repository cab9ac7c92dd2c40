"""What `put` is asked to send: files by name, folders with all that is in them, pipes.

A file of a folder keeps its path as `metadata.path`: from the folder's own name on, with `/` between the names, wherever the folder was
named from (`put -r photos`, `put -r ../photos/` and, within it, `put -r .` all keep `photos/2024/a.jpg`). Symbolic links within a folder
are not followed: they could lead out of it, or round in circles. Those that are named on the command line are.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from service.cli.client import STANDARD_STREAM

LINK: Final = "a symbolic link is not followed"
SPECIAL: Final = "neither a file nor a folder"


@dataclass(frozen=True, slots=True)
class Source:
    """A file to send. `kept` is its path below the folder that was named; None: it was named itself."""

    path: str
    kept: str | None = None


@dataclass(frozen=True, slots=True)
class Pipe:
    """Bytes that come once. `path` None: standard input."""

    path: str | None


@dataclass(frozen=True, slots=True)
class Skipped:
    """What is in a folder and is not sent."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What should be sent and can't be."""

    path: str
    why: str


def list_sources(
    arguments: list[str], *, recursive: bool
) -> Iterator[Source | Pipe | Skipped | Unreadable]:
    """In the order of the arguments, each folder's in the order of names."""
    for argument in arguments:
        try:
            yield from list_argument(argument, recursive=recursive)
        except OSError as error:
            yield Unreadable(argument, error.strerror or str(error))


def list_argument(
    argument: str, *, recursive: bool
) -> Iterator[Source | Pipe | Skipped | Unreadable]:
    """Raises OSError."""
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
        yield Unreadable(argument, "is a folder: give -r to send what is in it")


def list_folder(folder: str, kept: str) -> Iterator[Source | Skipped | Unreadable]:
    """Depth first; no more in memory than the names of the folders that are open."""
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield Unreadable(folder, error.strerror or str(error))
        return
    for entry in ordered:
        below = f"{kept}/{entry.name}" if kept else entry.name
        if entry.is_symlink():
            yield Skipped(entry.path, LINK)
        elif entry.is_dir(follow_symlinks=False):
            yield from list_folder(entry.path, below)
        elif entry.is_file(follow_symlinks=False):
            yield Source(entry.path, below)
        else:
            yield Skipped(entry.path, SPECIAL)
