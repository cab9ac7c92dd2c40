"""Progress bars: one for each file that takes a while, and one for all files."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from service.cli.client.display import show_seconds, show_size

SLOW_SECONDS: Final = 0.5
"""The time after which a file gets a bar. A shorter display could not be read."""
MOST_BARS: Final = 8
REST_WIDTH: Final = 54
"""The width of the other columns and some spare characters.

Without the spare ones, a terminal that echoes `^C` at the end of a line would begin another line.
"""


class Bytes(ProgressColumn):
    """The column for the bytes, such as `12 MiB of 3.0 GiB`."""

    def render(self, task: Task) -> Text:
        done = show_size(task.completed)
        return Text(
            done if task.total is None else f"{done} of {show_size(task.total)}",
            style="progress.download",
        )


class Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{show_size(speed)}/s", style="progress.data.speed")


class Left(ProgressColumn):
    """The column for the time left, or for what the file waits for."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if waiting := task.fields.get("waiting"):
            return Text(waiting, style="progress.remaining")
        left = task.time_remaining
        return Text(
            "" if left is None or task.total is None else f"{show_seconds(left)} left",
            style="progress.remaining",
        )


class Bar:
    """The bar of one file. It is shown only if the file takes longer than SLOW_SECONDS."""

    def __init__(self, bars: "Bars", name: str, size: int | None) -> None:
        self._bars = bars
        self._name = name
        self._size = size
        self._begun = time.monotonic()
        self._done = 0
        self._task: TaskID | None = None

    def move(self, done: int, waiting: str = "") -> None:
        """Set the number of bytes done. `waiting` says what the file waits for if no bytes move."""
        self._bars.add(done - self._done)
        self._done = done
        if self._task is None and time.monotonic() - self._begun > SLOW_SECONDS:
            self._task = self._bars.show(self._name, self._size)
        if self._task is not None:
            self._bars.progress.update(self._task, completed=done, waiting=waiting)

    def end(self, *, complete: bool) -> None:
        """Remove the bar.

        The total counts all bytes of a complete file, even if fewer had to be moved.
        """
        self._bars.finish(
            self._task,
            rest=(self._size or 0) - self._done if complete and self._size else 0,
            counts=complete,
        )


class Bars:
    """The bars of all files, below the one for the total."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._lock = threading.Lock()
        self._shown = 0
        self._files = 0
        self._expected: int | None = None
        self._total: TaskID | None = None

    def write(self, text: str) -> None:
        self.progress.console.print(Text(text), soft_wrap=True, highlight=False)

    def expect(self, *, files: int, size: int) -> None:
        with self._lock:
            self._expected = files
            if files > 1 and self._total is None:
                self._total = self.progress.add_task(self._describe(), total=size, waiting="")
            elif self._total is not None:
                self.progress.update(self._total, total=size, description=self._describe())

    def _describe(self) -> str:
        return (
            f"{self._files:,} of {self._expected:,} files"
            if self._expected
            else f"{self._files:,} files"
        )

    def start(self, name: str, size: int | None) -> Bar:
        return Bar(self, name, size)

    def show(self, name: str, size: int | None) -> TaskID | None:
        """Return a new bar on the screen, or None if MOST_BARS are shown."""
        with self._lock:
            if self._shown >= MOST_BARS:
                return None
            self._shown += 1
        return self.progress.add_task(name, total=size, waiting="")

    def add(self, size: int) -> None:
        if self._total is not None:
            self.progress.advance(self._total, size)

    def count(self, size: int) -> None:
        with self._lock:
            self._files += 1
        if self._total is not None:
            self.progress.update(self._total, advance=size, description=self._describe())

    def finish(self, task: TaskID | None, *, rest: int, counts: bool) -> None:
        if task is not None:
            self.progress.remove_task(task)
            with self._lock:
                self._shown -= 1
        if counts:
            self.count(rest)


@contextmanager
def open_bars() -> Iterator[Bars]:
    """Show bars on standard error, which is a terminal.

    SIGTERM ends the command as Ctrl-C does, so that the hidden cursor is shown again.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(file=sys.stderr)
    room = console.width - REST_WIDTH
    name_width = max(12, min(40, room // 2))
    name = TextColumn(
        "{task.description}",
        markup=False,
        table_column=Column(width=name_width, no_wrap=True, overflow="ellipsis"),
    )
    columns = (
        name,
        BarColumn(bar_width=max(8, min(40, room - name_width))),
        Bytes(),
        Rate(),
        Left(),
    )
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as progress:
        yield Bars(progress)
