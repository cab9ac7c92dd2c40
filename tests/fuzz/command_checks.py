"""The checks of what a command leaves: its exit status, the server's files, and the local files."""

import hashlib
import itertools
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from service.cli.client.exit_codes import Ending
from tests.fuzz.command_cases import Case
from tests.fuzz.command_processes import BOUND_SECONDS, Ended

STATUSES: Final = frozenset({0} | {kind.status for kind in Ending.__subclasses__()})
FORBIDDEN: Final = (b"Traceback", b"unexpected error", b"Exception ignored", b"Fatal Python")
FLAGS: Final = frozenset({b"-r", b"--force", b"--json", b"--quiet"})
"""The options of `put` that have no value."""
KERNEL_FILES: Final = (Path("/proc/version"), Path("/sys/kernel/profiling"))
"""The files of SPECIAL (command_cases.py) whose size is not the number of their bytes."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """A local file as it is on disk."""

    digest: str
    mode: int
    mtime_ns: int


def find_named(case: Case) -> list[bytes]:
    """Return the arguments that are neither options nor, perhaps, values of options."""
    return [
        argument
        for previous, argument in itertools.pairwise(case.arguments)
        if not argument.startswith(b"-")
        and (not previous.startswith(b"-") or previous in FLAGS or b"=" in previous)
    ]


def is_hidden(path: bytes, case: Case) -> bool:
    """Return whether the path has a hidden name that the case did not ask for.

    An argument that contains the name asks for it.
    """
    hidden = [name for name in path.split(b"/") if name.startswith(b".")]
    return not case.has(b"--hidden") and any(
        not any(name in argument for argument in case.arguments) for name in hidden
    )


def check_end(ended: Ended) -> Iterator[str]:
    if ended.status is None:
        yield f"the command did not end within {BOUND_SECONDS} s: {ended.err[-500:]!r}"
    elif ended.status not in STATUSES:
        yield f"the exit status {ended.status} is not documented: {ended.err[-500:]!r}"
    if any(text in ended.err for text in FORBIDDEN):
        yield f"standard error: {ended.err[-2000:].decode(errors='replace')}"


def check_sent(case: Case, new: Collection[Row], before: Mapping[bytes, Entry]) -> Iterator[str]:
    """Check that each new file of the server consists of the bytes of a local one."""
    local = {digest(case.given), digest(b""), *(entry.digest for entry in before.values())}
    local |= {digest(path.read_bytes()) for path in KERNEL_FILES if path.exists()}
    for row in new:
        if row["hash"].hex() not in local:
            yield f"the server has other bytes than any local file: {row}"


def check_all_sent(
    case: Case, ended: Ended, proved: Collection[str], before: Mapping[bytes, Entry]
) -> Iterator[str]:
    """Check that the server has each named file, if `put` ends with 0."""
    if case.command != b"put" or ended.status != 0:
        return
    for argument in find_named(case):
        named = os.path.normpath(argument or b"\xff")
        for path, entry in before.items():
            is_below = named == b"." or path.startswith(named + b"/")
            if (path == named or (is_below and case.has(b"-r"))) and entry.digest not in proved:
                yield f"put ended with 0, but {path!r} was not sent"


def check_kept(
    case: Case,
    before: Mapping[bytes, Entry],
    after: Mapping[bytes, Entry],
    proved: Collection[str],
) -> Iterator[str]:
    """Check that the local files are as they were, unless `get --force` was to replace them."""
    may_replace = case.command == b"get" and case.has(b"--force")
    for path, entry in before.items():
        found = after.get(path)
        if found is None:
            yield f"the local file {path!r} is gone"
        elif found != entry and not (
            may_replace and found.mode == entry.mode and found.digest in proved
        ):
            yield f"the local file {path!r} was changed: {entry}, {found}"


def check_written(case: Case, new: Mapping[bytes, Entry], proved: Collection[str]) -> Iterator[str]:
    """Check the files that were not there before."""
    for path, entry in new.items():
        if path.endswith(b".part"):
            continue  # what an error has left, from which the next run continues
        if case.command != b"get" or entry.digest not in proved:
            yield f"the file {path!r} was written, but is no file of the server"
        if is_hidden(path, case):
            yield f"the hidden file {path!r} was written"


def read_tree(folder: Path) -> dict[bytes, Entry]:
    """Return the regular files below the folder, by their paths."""
    found = {}
    root = os.fsencode(folder)
    for parent, _, names in os.walk(root):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.islink(path):
                continue
            status = os.stat(path)
            with open(path, "rb") as opened:
                body = hashlib.file_digest(opened, "sha256").hexdigest()
            found[os.path.relpath(path, root)] = Entry(body, status.st_mode, status.st_mtime_ns)
    return found


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
