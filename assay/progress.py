"""How far a transfer is."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

import msgspec

EVERY_SECONDS: Final = 0.05

Phase = Literal["checking", "sending", "receiving", "verifying", "done"]


class Progress(msgspec.Struct, frozen=True):
    """`bytes_done` never goes back, also when a part must be sent again. `bytes_total` is None for a stream.

    `phase`: `checking` reads what an earlier run sent or received, `sending` and `receiving` speak for themselves, `verifying` waits for
    the server's proof.
    """

    bytes_done: int
    bytes_total: int | None
    phase: Phase


Report = Callable[[Progress], None]
"""Called from whichever thread moved bytes, never from two at once. What it raises ends the transfer."""


class Meter:
    """Counts what moves, and reports it 20 times a second at most."""

    def __init__(self, report: Report | None, total: int | None) -> None:
        self._report = report
        self._total = total
        self._lock = threading.Lock()
        self._counted = 0
        self._most = 0
        self._phase: Phase = "sending"
        self._next = 0.0

    def add(self, size: int) -> None:
        """Bytes that moved; negative: they have to move once more."""
        if self._report is None or not size:
            return
        with self._lock:
            self._counted += size
            self._most = max(self._most, self._counted)
            if time.monotonic() >= self._next:
                self._say()

    def enter(self, phase: Phase) -> None:
        if self._report is None:
            return
        with self._lock:
            self._phase = phase
            if phase in ("verifying", "done") and self._total is not None:
                self._most = self._total  # the server may have had them already
            self._say()

    def _say(self) -> None:
        assert self._report is not None  # noqa: S101  # asked by both callers
        self._next = time.monotonic() + EVERY_SECONDS
        self._report(Progress(self._most, self._total, self._phase))


class Share:
    """What one request moves of a transfer; it may have to move it all again."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._moved = 0

    def watch(self, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
        """From the start of the request's body."""
        self._meter.add(-self._moved)
        self._moved = 0
        for piece in pieces:
            yield piece
            self._moved += len(piece)
            self._meter.add(len(piece))
