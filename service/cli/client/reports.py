"""The output of a command: bars on a terminal, plain lines elsewhere, one JSON object per line, or
nothing.

Results go to standard output, and errors and bars to standard error, so that a pipe gets only
results.
"""

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.cli.client.display import show
from service.cli.standard_streams import OutputLost

if TYPE_CHECKING:
    from service.cli.client.bars import Bar, Bars


@dataclass(frozen=True)
class Form:
    """The form of the output that the options select."""

    json: bool
    quiet: bool


class Report:
    """The output of one command, which threads can share."""

    def __init__(self, form: Form, bars: "Bars | None") -> None:
        self._form = form
        self._bars = bars
        self._lock = threading.Lock()

    @property
    def has_bars(self) -> bool:
        return self._bars is not None

    def say(self, text: str, about: dict[str, Any]) -> None:
        if self._form.json:
            self._write(json.dumps(about), errors=False)
        elif not self._form.quiet:
            self._write(text, errors=False)

    def complain(self, name: str, message: str, about: dict[str, Any]) -> None:
        """Print the failure of one file, even with `--quiet`."""
        self._write(f"{show(name)}: {show(message)}" if name else show(message), errors=True)
        if self._form.json:
            self._write(json.dumps(about | {"error": message}), errors=False)

    def note(self, text: str) -> None:
        """Print a remark, but not with `--json` or `--quiet`."""
        if not self._form.quiet and not self._form.json:
            self._write(text, errors=True)

    def _write(self, text: str, *, errors: bool) -> None:
        """Print a line. If it is lost, the command goes on with its files, and main() reports it at
        the end.
        """
        stream = sys.stderr if errors else sys.stdout
        with self._lock, contextlib.suppress(OutputLost):
            if self._bars is not None and stream.isatty():
                self._bars.write(text)
            else:
                print(text, file=stream, flush=True)

    def expect(self, *, files: int, size: int) -> None:
        if self._bars is not None:
            self._bars.expect(files=files, size=size)

    def start(self, name: str, size: int | None) -> "Bar | None":
        """Return a bar for one file, or None if there are no bars."""
        return None if self._bars is None else self._bars.start(show(name), size)

    def count(self, size: int) -> None:
        if self._bars is not None:
            self._bars.count(size)


@contextmanager
def open_report(form: Form) -> Iterator[Report]:
    """Show bars until the block ends.

    The cursor and the screen are then restored, even after an error.
    """
    if form.json or form.quiet or not sys.stderr.isatty():
        yield Report(form, None)
        return
    from service.cli.client.bars import open_bars  # rich takes as long to import as everything else

    with open_bars() as bars:
        yield Report(form, bars)
