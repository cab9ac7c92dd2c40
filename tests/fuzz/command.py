"""The command fuzzer. It runs `assay` as separate processes, and checks what they leave.

1. A round has an owner and a home folder of its own, and EXAMPLES cases. Hypothesis draws them from
   the seed and the number of the round. A later case meets the files of the earlier ones.
2. A case creates local files, runs one command with the drawn streams and environment, and waits
   for its end, which is bounded. The exit status is documented, and standard error has no
   traceback.
3. Each new file of the server consists of the bytes of a local file, or of standard input. If `put`
   ends with 0, the server has the bytes of each named file.
4. The command leaves the local files as they were, with their modes and times. Only `get` writes
   new ones, which consist of the bytes of a file of the server and are not hidden unless that was
   asked for.
5. At the end, every object must have its row, and every proved file must consist of the bytes that
   its row describes.
"""

import contextlib
import fcntl
import hashlib
import os
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from hypothesis import HealthCheck, Phase, given, seed, settings

from assay import connections  # noqa: F401  # imported before the commands are forked
from service import cli
from service.auth.principals import make_key
from service.cli.client.exit_codes import Ending
from service.model import make_id
from service.queries.keys import create_key
from tests.e2e.commands import ASSAY, clean_environment
from tests.e2e.hostile_http.site import Site
from tests.fuzz.command_cases import ID, Case, LocalFile, Stream, cases

EXAMPLES: Final = 25
BOUND_SECONDS: Final = 120.0
DELAY_SECONDS: Final = 0.2
"""The time for which the other end of a slow pipe is not ready."""
STATUSES: Final = frozenset({0} | {kind.status for kind in Ending.__subclasses__()})
FORBIDDEN: Final = (b"Traceback", b"unexpected error", b"Exception ignored", b"Fatal Python")
ROWS: Final = """
    SELECT id, filename, state, size, hash FROM files WHERE owner = $1 ORDER BY id
"""


@dataclass(frozen=True)
class Finding:
    """A violation of the rules above, and the case that causes it."""

    number: int
    what: str
    case: Case

    def __str__(self) -> str:
        return f"case {self.number}: {self.what}\n  {self.case}"


@dataclass
class Tally:
    """The counts and the findings of a run. `statuses` counts exit statuses."""

    cases: int = 0
    sent: int = 0
    written: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    commands: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def describe(self) -> str:
        statuses = ", ".join(
            f"{status}: {self.statuses[status]}" for status in sorted(self.statuses)
        )
        commands = ", ".join(f"{name}: {self.commands[name]}" for name in sorted(self.commands))
        return (
            f"{self.cases} cases ({commands}), exit statuses {statuses}, {self.sent} files sent, "
            f"{self.written} files written, {len(self.findings)} findings"
        )


@dataclass(frozen=True)
class Ended:
    """The end of a command. `status` is None if it had to be killed."""

    status: int | None
    out: bytes
    err: bytes


@dataclass(frozen=True)
class Entry:
    """A local file as it is on disk."""

    digest: str
    mode: int
    mtime_ns: int


class Round:
    """One round: an owner, the owner's key, and a folder."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.folder = folder
        self.home = folder / "home"
        self.here = folder / "here"
        self.home.mkdir(parents=True)
        self.owner = f"fuzz-{make_id().hex}"
        self.key = self.make_key()

    def make_key(self) -> str:
        text, secret = make_key()
        self.site.runner.run(
            create_key(
                self.site.resources.pool,
                key_id=make_id(),
                owner=self.owner,
                name="fuzz",
                secret=secret,
                scopes=["read", "write"],
                expires_at=None,
            )
        )
        return text

    def read_rows(self) -> dict[UUID, dict[str, Any]]:
        rows = self.site.runner.run(self.site.resources.pool.fetch(ROWS, self.owner))
        return {row["id"]: dict(row) for row in rows}

    def environ(self, case: Case) -> dict[str, str]:
        plain = {
            name: value
            for name, value in clean_environment().items()
            if not name.startswith(("XDG_", "PYTHON"))
        }
        own = {"ASSAY_URL": self.site.url, "ASSAY_KEY": self.key, "HOME": str(self.home)}
        return plain | own | dict(case.environ)


class CommandFuzzer:
    """A run against one server, with its cases in `folder`."""

    def __init__(self, site: Site, number: int, folder: Path) -> None:
        self.site = site
        self.seed = number
        self.folder = folder
        self.tally = Tally()

    def run(self, rounds: Iterator[int], *, seconds: float) -> Tally:
        deadline = time.monotonic() + seconds
        for number in rounds:
            if time.monotonic() > deadline:
                break
            self.run_round(number, deadline)
        self.site.check_buckets()
        return self.tally

    def run_round(self, number: int, deadline: float) -> None:
        numbers = iter(range(number * EXAMPLES, (number + 1) * EXAMPLES * 100))
        folder = self.folder / f"round-{number}"
        playing = Round(self.site, folder)

        @seed(self.seed * 1_000_003 + number)
        @settings(
            max_examples=EXAMPLES,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(cases())
        def play(case: Case) -> None:
            if time.monotonic() < deadline:
                self.try_case(next(numbers), case, playing)

        play()
        shutil.rmtree(folder)

    def try_case(self, number: int, case: Case, playing: Round) -> None:
        rows = playing.read_rows()
        if playing.here.exists():
            shutil.rmtree(playing.here)
        playing.here.mkdir()
        make_files(playing.here, case.files)
        before = read_tree(playing.here)
        ended = run_command(case, list(rows), playing)
        self.tally.cases += 1
        name = case.command.decode() or "(none)"
        self.tally.commands[name] = self.tally.commands.get(name, 0) + 1
        if ended.status is not None:
            self.tally.statuses[ended.status] = self.tally.statuses.get(ended.status, 0) + 1
        found = [
            *check_end(ended),
            *self.check_rows(case, ended, playing, before=before, known=rows),
            *self.check_tree(case, playing, before=before, known=rows),
        ]
        self.tally.findings += [Finding(number, what, case) for what in found]

    def check_rows(
        self,
        case: Case,
        ended: Ended,
        playing: Round,
        *,
        before: Mapping[bytes, Entry],
        known: Mapping[UUID, Any],
    ) -> Iterator[str]:
        rows = playing.read_rows()
        new = [row for key, row in rows.items() if key not in known and row["state"] == "ready"]
        self.tally.sent += len(new)
        version = Path("/proc/version").read_bytes()
        bodies = {digest(case.given), digest(b""), digest(version)}
        profiling = Path("/sys/kernel/profiling")
        if profiling.exists():
            bodies.add(digest(profiling.read_bytes()))
        allowed = bodies | {entry.digest for entry in before.values()}
        for row in new:
            if row["hash"].hex() not in allowed:
                yield f"the server has other bytes than any local file: {row}"
        if case.command == b"put" and ended.status == 0 and not case.has(b"--help"):
            proved = {row["hash"].hex() for row in rows.values() if row["state"] == "ready"}
            for argument in case.arguments[1:]:
                entry = before.get(argument)
                if (
                    entry is not None
                    and not is_value(case, argument)
                    and entry.digest not in proved
                ):
                    yield f"put ended with 0, but {argument!r} was not sent"

    def check_tree(
        self,
        case: Case,
        playing: Round,
        *,
        before: Mapping[bytes, Entry],
        known: Mapping[UUID, Any],
    ) -> Iterator[str]:
        after = read_tree(playing.here)
        proved = {row["hash"].hex() for row in known.values() if row["hash"] is not None}
        for path, entry in before.items():
            found = after.get(path)
            if found is None:
                yield f"the local file {path!r} is gone"
            elif found != entry and (
                case.command != b"get"
                or not case.has(b"--force")
                or found.mode != entry.mode
                or found.digest not in proved
            ):
                yield f"the local file {path!r} was changed: {entry}, {found}"
        for path in after.keys() - before.keys():
            self.tally.written += 1
            if path.endswith(b".part"):
                continue  # what an error has left, from which the next run continues
            if case.command != b"get" or after[path].digest not in proved:
                yield f"the file {path!r} was written, but is no file of the server"
            if is_hidden(path, case):
                yield f"the hidden file {path!r} was written"
        for kept in playing.home.iterdir():
            if kept.name not in (".local", ".config"):
                yield f"{kept} was written in the home folder"


def is_value(case: Case, argument: bytes) -> bool:
    """Return whether the argument may be the value of an option."""
    at = case.arguments.index(argument)
    return case.arguments.count(argument) > 1 or case.arguments[at - 1].startswith(b"-")


def is_hidden(path: bytes, case: Case) -> bool:
    """Return whether no argument permits this hidden name. One that has it in some form does."""
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


# Files


def make_files(folder: Path, files: Sequence[LocalFile]) -> None:
    """Create the files, as far as their paths agree, and three links."""
    for file in files:
        path = os.path.join(os.fsencode(folder), file.path)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as opened:
                opened.write(file.content())
            os.utime(path, (file.seconds, file.seconds))
            os.chmod(path, file.mode)
        except OSError:
            continue  # another file has the name of this one's folder, or the path is too long
    for name, target in (("link", "a"), ("loop", "loop"), ("gone", "nowhere")):
        with contextlib.suppress(OSError):
            (folder / name).symlink_to(target)


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


# Processes


def run_command(case: Case, ids: Sequence[UUID], playing: Round) -> Ended:
    """Run the command, and kill it if it does not end in time."""
    words = [fill(argument, ids) for argument in case.arguments]
    given, feed = open_input(case.streams[0], case.given)
    out, read_out = open_output(case.streams[1])
    err, read_err = open_output(case.streams[2])
    process = start(case, words, playing, descriptors=(given, out, err))
    for descriptor in (given, out, err):
        os.close(descriptor)
    threads = [threading.Thread(target=each) for each in (feed, read_out, read_err)]
    for thread in threads:
        thread.start()
    status = wait_for_end(process)
    for thread in threads:
        thread.join()
    return Ended(status, read_out.body, read_err.body)


def start(case: Case, words: Sequence[bytes], playing: Round, *, descriptors: Sequence[int]) -> int:
    """Start the command and return its process id.

    The command is forked from this process, which has imported its modules, unless the case
    concerns the start of the interpreter.
    """
    environ = playing.environ(case)
    child = os.fork()
    if child:
        return child
    try:
        os.chdir(playing.here)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, 65536)  # the other ends of the pipes, and what this process has open
        if case.needs_interpreter:
            redirections = " ".join(map(redirect, case.streams, range(3)))
            script = ["sh", "-c", f'exec "$@" {redirections}', "sh", *ASSAY]
            os.execve("/bin/sh", [*map(os.fsencode, script), *words], environ)  # noqa: S606  # the words are arguments
        os.environ.clear()
        os.environ.update(environ)
        sys.argv = ["assay", *map(os.fsdecode, words)]
        cli.main()
    except SystemExit as ending:
        os._exit(ending.code if isinstance(ending.code, int) else 99)
    except BaseException:
        traceback.print_exc()
    os._exit(99)


def wait_for_end(process: int) -> int | None:
    """Return the exit status, or None if the process had to be killed."""
    watching = os.pidfd_open(process)
    try:
        poll = select.poll()
        poll.register(watching, select.POLLIN)
        ended = poll.poll(BOUND_SECONDS * 1000)
    finally:
        os.close(watching)
    if not ended:
        os.kill(process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return status if ended else None


def fill(argument: bytes, ids: Sequence[UUID]) -> bytes:
    """Replace a placeholder by the id of a file, and the NULs of other arguments by nothing."""
    for number in range(6):
        if argument == ID % number:
            return str(ids[number % len(ids)]).encode() if ids else b"0198f1c2"
    return argument.replace(b"\0", b"")


def redirect(stream: Stream, number: int) -> str:
    sign = "<" if number == 0 else ">"
    if stream is Stream.CLOSED:
        return f"{number}{sign}&-"
    return f"{number}>/dev/full" if stream is Stream.FULL and number else ""


class Reading:
    """A thread's function that reads a pipe to its end. `body` has the bytes afterwards."""

    def __init__(self, descriptor: int, *, delay: float, ended: bool) -> None:
        self.body = b""
        self._descriptor = descriptor
        self._delay = delay
        self._ended = ended

    def __call__(self) -> None:
        if self._ended:
            os.close(self._descriptor)
            return
        time.sleep(self._delay)  # the command meets a full pipe
        with os.fdopen(self._descriptor, "rb") as pipe:
            self.body = pipe.read()


class Feeding:
    """A thread's function that writes to a pipe and closes it."""

    def __init__(self, descriptor: int, body: bytes, *, delay: float) -> None:
        self._descriptor = descriptor
        self._body = body
        self._delay = delay

    def __call__(self) -> None:
        time.sleep(self._delay)  # the command meets an empty pipe
        with contextlib.suppress(BrokenPipeError), os.fdopen(self._descriptor, "wb") as pipe:
            pipe.write(self._body)


def open_output(stream: Stream) -> tuple[int, Reading]:
    reading, writing = os.pipe()
    slow = stream is Stream.SLOW
    if slow:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(writing, False)
    return writing, Reading(
        reading, delay=DELAY_SECONDS if slow else 0, ended=stream is Stream.ENDED
    )


def open_input(stream: Stream, body: bytes) -> tuple[int, Feeding]:
    reading, writing = os.pipe()
    slow = stream is Stream.SLOW
    os.set_blocking(reading, not slow)
    return reading, Feeding(
        writing, b"" if stream is Stream.ENDED else body, delay=DELAY_SECONDS if slow else 0
    )
