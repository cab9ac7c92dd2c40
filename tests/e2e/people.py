"""A person who uses the client's commands, which run as separate processes in separate folders."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tests.e2e.commands import clean_environment
from tests.e2e.leaks import SECRETS_IN_USE
from tests.support.preloaded import ASSAY, open_command
from tests.support.processes import read_peak_bytes

RUN_SECONDS = 120


@dataclass(frozen=True)
class Ended:
    """The exit status and outputs of a command, and its peak memory in bytes."""

    status: int
    out: str
    err: str
    most_bytes: int = 0

    @property
    def objects(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Person:
    """The settings of one person's commands.

    `home` has the files that the commands keep. `folder` is their working directory.
    """

    url: str
    key: str = field(repr=False)
    home: Path
    folder: Path

    def environ(self, **changes: str) -> dict[str, str]:
        own = {
            "ASSAY_URL": self.url,
            "ASSAY_KEY": self.key,
            "XDG_STATE_HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home),
        }
        return {
            name: value
            for name, value in {**clean_environment(), **own, **changes}.items()
            if value
        }

    def start(
        self, *arguments: str, stdin: Any = subprocess.DEVNULL, **changes: str
    ) -> subprocess.Popen[bytes]:
        return open_command(
            arguments,
            environ=self.environ(**changes),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
        )

    def run(self, *arguments: str, given: bytes | None = None, **changes: str) -> Ended:
        """Run the command until it ends, and fail if its output contains a secret or a traceback.

        `changes` set environment variables. An empty value removes the variable.
        """
        process = self.start(
            *arguments, stdin=subprocess.DEVNULL if given is None else subprocess.PIPE, **changes
        )
        out, err = process.communicate(given, RUN_SECONDS)
        ended = Ended(process.returncode, out.decode(), err.decode())
        assert "Traceback" not in ended.err, ended.err
        assert not [secret[:4] for secret in SECRETS_IN_USE if secret in ended.out + ended.err]
        return ended

    def succeed(self, *arguments: str, given: bytes | None = None, **changes: str) -> Ended:
        ended = self.run(*arguments, given=given, **changes)
        assert ended.status == 0, ended.err
        return ended

    def measure(self, *arguments: str, feed: Iterable[bytes] = ()) -> Ended:
        """Run the command with `feed` as its standard input, and measure its peak memory.

        The peak is sampled while the command runs. The kernel's account of an ended child would
        include the memory of this process before the child executes the command.
        """
        with TemporaryFile() as out, TemporaryFile() as err:
            process = subprocess.Popen(
                [*ASSAY, *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                cwd=self.folder,
                env=self.environ(),
            )
            assert process.stdin is not None
            with process.stdin:
                process.stdin.writelines(feed)
            most = 0
            while process.poll() is None:
                most = max(most, read_peak(process.pid))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.01)
            for stream in (out, err):
                stream.seek(0)
            return Ended(process.returncode, out.read().decode(), err.read().decode(), most)

    @contextmanager
    def at_terminal(self, *arguments: str, **changes: str) -> Iterator["Terminal"]:
        """Run the command with a terminal of 100 columns as its three standard streams."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.folder)
            environ = self.environ(TERM="xterm-256color", COLUMNS="100", LINES="24", **changes)
            command = [*ASSAY, *arguments]
            os.execve(sys.executable, command, environ)  # noqa: S606  # Assay itself, no shell
        try:
            yield Terminal(pid, terminal)
        finally:
            os.close(terminal)

    def read_state_folder(self) -> Sequence[Path]:
        return sorted((self.home / "assay").rglob("*"))


@dataclass
class Terminal:
    """The terminal of a running command."""

    pid: int
    descriptor: int
    shown: bytes = b""

    def read_until(self, text: bytes, *, seconds: float = RUN_SECONDS) -> None:
        ends = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < ends, self.shown
            self.shown += self._read()

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def finish(self) -> int:
        """Read the output until its end, and return the command's exit status."""
        while piece := self._read():
            self.shown += piece
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bytes:
        try:
            return os.read(self.descriptor, 65536)
        except OSError:  # on Linux, the read fails after the last process has closed the terminal
            return b""


def read_peak(pid: int) -> int:
    """Return the peak memory of the process in bytes, or 0 if it has ended."""
    try:
        return read_peak_bytes(pid)
    except (OSError, KeyError):
        return 0


def make_person(url: str, key: str, folder: Path) -> Person:
    """Return a person whose folders are created in `folder`."""
    for name in ("home", "here"):
        (folder / name).mkdir()
    return Person(url, key, folder / "home", folder / "here")


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
