"""Somebody at a terminal: the client's commands as processes of their own, with folders of their own."""

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

from tests.e2e.commands import ASSAY, clean_environment
from tests.e2e.leaks import SECRETS_IN_USE
from tests.support.processes import read_peak_bytes

RUN_SECONDS = 120


@dataclass(frozen=True)
class Ended:
    """How a command ended, and the most memory it held, in bytes."""

    status: int
    out: str
    err: str
    most_bytes: int = 0

    @property
    def objects(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Person:
    """`home` holds what the commands keep; `folder` is where they are called."""

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
        command = [*ASSAY, *arguments]
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            env=self.environ(**changes),
        )

    def run(self, *arguments: str, given: bytes | None = None, **changes: str) -> Ended:
        """To its end. An empty value takes a variable away. No secret may be in what it says."""
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
        """As `run`, and its memory; `feed` is its standard input. (The kernel's own account counts what we hold until it starts.)"""
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
        """The command with a terminal of 100 columns for all three streams."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.folder)
            environ = self.environ(TERM="xterm-256color", COLUMNS="100", LINES="24", **changes)
            os.execve(sys.executable, [*ASSAY, *arguments], environ)  # noqa: S606  # our own command, without a shell
        try:
            yield Terminal(pid, terminal)
        finally:
            os.close(terminal)

    def read_state_folder(self) -> Sequence[Path]:
        return sorted((self.home / "assay").rglob("*"))


@dataclass
class Terminal:
    """What a command writes to its terminal, and what is typed there."""

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
        """Its exit status, when all is read."""
        while piece := self._read():
            self.shown += piece
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bytes:
        try:
            return os.read(self.descriptor, 65536)
        except OSError:  # on Linux a terminal whose last user has gone is an error
            return b""


def read_peak(pid: int) -> int:
    """0 when it has ended."""
    try:
        return read_peak_bytes(pid)
    except (OSError, KeyError):
        return 0


def make_person(url: str, key: str, folder: Path) -> Person:
    """With folders of their own below this one."""
    for name in ("home", "here"):
        (folder / name).mkdir()
    return Person(url, key, folder / "home", folder / "here")


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
