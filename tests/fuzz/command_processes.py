"""The process of one command, with the standard streams that the case describes."""

import contextlib
import fcntl
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from assay import connections  # noqa: F401  # imported before the commands are forked
from service import cli
from service.cli.client import get, info, login, ls, put, rm, share  # noqa: F401  # the same
from tests.fuzz.command_cases import ID, Case, Stream
from tests.support.preloaded import ASSAY

BOUND_SECONDS: Final = 120.0
DELAY_SECONDS: Final = 0.2
"""The time for which the other end of a slow pipe is not ready."""


@dataclass(frozen=True)
class Ended:
    """The end of a command. `status` is None if it had to be killed."""

    status: int | None
    out: bytes
    err: bytes


def run_command(
    case: Case, ids: Sequence[UUID], *, folder: Path, environ: Mapping[str, str]
) -> Ended:
    """Run the command, and kill it if it does not end in time."""
    words = [fill(argument, ids) for argument in case.arguments]
    given, feed = open_input(case.streams[0], case.given)
    out, read_out = open_output(case.streams[1])
    err, read_err = open_output(case.streams[2])
    process = start(case, words, folder, environ=environ, descriptors=(given, out, err))
    for descriptor in (given, out, err):
        os.close(descriptor)
    threads = [threading.Thread(target=each) for each in (feed, read_out, read_err)]
    for thread in threads:
        thread.start()
    status = wait_for_end(process)
    for thread in threads:
        thread.join()
    return Ended(status, read_out.body, read_err.body)


def start(
    case: Case,
    words: Sequence[bytes],
    folder: Path,
    *,
    environ: Mapping[str, str],
    descriptors: Sequence[int],
) -> int:
    """Start the command and return its process id.

    The command is forked from this process, which has imported its modules. A new interpreter is
    executed if the case concerns its start, or if this process has other threads or streams.
    """
    execute = (
        case.needs_interpreter
        or threading.active_count() > 1  # a forked process could wait for their locks
        or sys.stdout is not sys.__stdout__  # pytest captures it
    )
    child = os.fork()
    if child:
        return child
    try:
        os.chdir(folder)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, 65536)  # the other ends of the pipes, and what this process has open
        if execute:
            redirections = " ".join(map(redirect, case.streams, range(3)))
            script = ["sh", "-c", f'exec "$@" {redirections}', "sh", *ASSAY]
            command = [*map(os.fsencode, script), *words]
            os.execve("/bin/sh", command, environ)  # noqa: S606  # the script is fixed
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
