"""The three standard streams of a command, in any state in which they can be passed to it.

1. A closed descriptor is occupied at once. Otherwise the next file that the command opens would get
   its number, and would receive the command's output.
2. A non-blocking stream is waited for.
3. If standard output cannot be written (it is closed, the disk is full, its reader has ended), the
   first write raises OutputLost, and later ones discard their bytes. The command either ends, or
   does the work that was asked for without reporting it. In both cases the exit status is not 0.
4. If standard error cannot be written, its bytes are discarded, because nothing can be reported.

There is no buffer below the text. A thread that waits for a full pipe would hold its lock, and the
interpreter would abort when the process ends.

`assay.waiting` has the same waits for the file objects of the client. It is not used here, because
its package takes 50 ms to import.
"""

import contextlib
import errno
import io
import os
import select
import sys
import time
from typing import Any, Final, TextIO, cast

FAILED: Final = 1
PAUSE_SECONDS: Final = 0.02


class OutputLost(Exception):
    """The first write to standard output that failed. `StandardStreams.end` prints the reason."""


def print_result(text: str) -> None:
    """Print a result of work that goes on even if the output is lost."""
    with contextlib.suppress(OutputLost):
        print(text, flush=True)


class Input(io.RawIOBase):
    """A descriptor that is read, and waited for if it is non-blocking."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def readinto(self, buffer: Any) -> int:
        try:
            piece = read_when_ready(self._descriptor, len(buffer))
        except OSError as error:
            raise OSError(error.errno, describe(error), "standard input") from error
        buffer[: len(piece)] = piece
        return len(piece)


class Output(io.RawIOBase):
    """A descriptor to which each call writes all bytes, or discards them after an error."""

    def __init__(self, descriptor: int, *, must_arrive: bool) -> None:
        self.error: OSError | None = None
        self._descriptor = descriptor
        self.must_arrive = must_arrive

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.error is None:
            try:
                write_when_ready(self._descriptor, view)
            except OSError as error:
                self.error = error
                if self.must_arrive:
                    raise OutputLost from error
        return len(view)


class StandardStreams:
    """The streams in `sys`, as far as `open` has replaced them."""

    def __init__(self, output: Output | None) -> None:
        self._output = output

    @classmethod
    def open(cls) -> "StandardStreams":
        """Replace the streams in `sys`.

        Streams that a test or another program has set there already are left as they are.
        """
        occupy_closed()
        if sys.stdin is sys.__stdin__:
            sys.stdin = open_input(0, sys.__stdin__)
        if sys.stderr is sys.__stderr__:
            sys.stderr = open_output(Output(2, must_arrive=False), sys.__stderr__)
        if sys.stdout is not sys.__stdout__:
            return cls(None)
        output = Output(1, must_arrive=True)
        sys.stdout = open_output(output, sys.__stdout__)
        return cls(output)

    def end(self, status: int) -> int:
        """Write what is still pending, and return the exit status.

        If results were lost, print the reason, unless the reader of a pipe did not want them.
        """
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OutputLost):
                stream.flush()
        if self._output is None or self._output.error is None:
            return status
        if self._output.error.errno != errno.EPIPE:
            print(f"standard output: {describe(self._output.error)}", file=sys.stderr, flush=True)
        return status or FAILED


def describe(error: OSError) -> str:
    return "it is closed" if error.errno == errno.EBADF else error.strerror or str(error)


def occupy_closed() -> None:
    """Open the null device in place of each closed stream, so that using it is still an error."""
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened == descriptor:
                os.set_inheritable(descriptor, True)
                continue
            os.dup2(opened, descriptor)
            os.close(opened)


def open_input(descriptor: int, former: TextIO | None) -> TextIO:
    encoding = former.encoding if former else None
    errors = former.errors if former else None
    return io.TextIOWrapper(io.BufferedReader(Input(descriptor)), encoding=encoding, errors=errors)


def open_output(output: Output, former: TextIO | None) -> TextIO:
    """Return a text stream that escapes what its encoding lacks. Such a name is no error."""
    return io.TextIOWrapper(
        cast("Any", output),
        encoding=former.encoding if former else None,
        errors="backslashreplace",
        line_buffering=output.isatty() or not output.must_arrive,
        write_through=getattr(former, "write_through", False),
    )


def read_when_ready(descriptor: int, size: int) -> bytes:
    """Return at most `size` bytes, and b"" at the end. Raises OSError."""
    while True:
        try:
            return os.read(descriptor, size)
        except BlockingIOError:
            wait_until_ready(descriptor, writing=False)


def write_when_ready(descriptor: int, view: memoryview) -> None:
    """Write all bytes. Raises OSError."""
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            wait_until_ready(descriptor, writing=True)


def wait_until_ready(descriptor: int, *, writing: bool, seconds: float | None = None) -> None:
    """Wait until the descriptor can be read or written, or `seconds` have passed."""
    if not hasattr(select, "poll"):  # Windows
        time.sleep(PAUSE_SECONDS)
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if writing else select.POLLIN)
    poll.poll(None if seconds is None else seconds * 1000)
