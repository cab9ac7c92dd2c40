"""What a command says while it works: bars on a terminal, plain lines elsewhere, one JSON object a line, or nothing.

Results go to standard output, complaints and bars to standard error: a pipe gets results alone.
"""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.cli.client.display import show

if TYPE_CHECKING:
    from service.cli.client.bars import Bar, Bars


@dataclass(frozen=True)
class Form:
    """How a command was asked to speak."""

    json: bool
    quiet: bool


class Report:
    """Safe to call from every thread."""

    def __init__(self, form: Form, bars: "Bars | None") -> None:
        self._form = form
        self._bars = bars
        self._lock = threading.Lock()

    @property
    def has_bars(self) -> bool:
        return self._bars is not None

    def say(self, text: str, about: dict[str, Any]) -> None:
        """A result: a line for people, or the object."""
        if self._form.json:
            self._write(json.dumps(about), errors=False)
        elif not self._form.quiet:
            self._write(text, errors=False)

    def complain(self, name: str, message: str, about: dict[str, Any]) -> None:
        """What went wrong with one of several. It is said also when nothing else is."""
        self._write(f"{show(name)}: {show(message)}" if name else show(message), errors=True)
        if self._form.json:
            self._write(json.dumps(about | {"error": message}), errors=False)

    def note(self, text: str) -> None:
        """What people may want to know, and programs not."""
        if not self._form.quiet and not self._form.json:
            self._write(text, errors=True)

    def _write(self, text: str, *, errors: bool) -> None:
        stream = sys.stderr if errors else sys.stdout
        with self._lock:
            if self._bars is not None and stream.isatty():
                self._bars.write(text)
            else:
                print(text, file=stream, flush=True)

    def expect(self, *, files: int, size: int) -> None:
        """How much there is to do in all, when that is known."""
        if self._bars is not None:
            self._bars.expect(files=files, size=size)

    def start(self, name: str, size: int | None) -> "Bar | None":
        """A bar for one file, where there are bars."""
        return None if self._bars is None else self._bars.start(show(name), size)

    def count(self, size: int) -> None:
        """A file that is done without a bar."""
        if self._bars is not None:
            self._bars.count(size)


@contextmanager
def open_report(form: Form) -> Iterator[Report]:
    """Bars live as long as this; the cursor and the screen are as before when it ends, however it ends."""
    if form.json or form.quiet or not sys.stderr.isatty():
        yield Report(form, None)
        return
    from service.cli.client.bars import open_bars  # rich takes as long to import as all else

    with open_bars() as bars:
        yield Report(form, bars)
