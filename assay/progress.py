"""The progress of a transfer."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

import msgspec

EVERY_SECONDS: Final = 0.05

Phase = Literal["checking", "sending", "receiving", "verifying", "done"]


class Progress(msgspec.Struct, frozen=True):
    """The progress of a transfer at one moment.

    `bytes_done` never decreases, even if a part has to be sent again. `bytes_total` is None for a
    stream. In the phase `checking`, the client reads bytes that an earlier run sent or received. In
    the phase `verifying`, it waits for the server's proof.
    """

    bytes_done: int
    bytes_total: int | None
    phase: Phase


Report = Callable[[Progress], None]
"""A function that is called from the thread that moved bytes, never from two threads at once.

An exception that it raises ends the transfer.
"""


class Meter:
    """A counter of the bytes of a transfer, which reports at most 20 times per second."""

    def __init__(self, report: Report | None, total: int | None) -> None:
        self._report = report
        self._total = total
        self._lock = threading.Lock()
        self._counted = 0
        self._most = 0
        self._phase: Phase = "sending"
        self._next = 0.0

    def add(self, size: int) -> None:
        """Count bytes. The number is negative if bytes have to be sent or received again."""
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
                self._most = self._total  # the server may already have had some of the bytes
            self._say()

    def _say(self) -> None:
        assert self._report is not None  # noqa: S101  # both callers check it
        self._next = time.monotonic() + EVERY_SECONDS
        self._report(Progress(self._most, self._total, self._phase))


class Share:
    """The bytes that one request contributes to a transfer. A retry counts them again."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._moved = 0

    def watch(self, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
        """Yield and count the pieces of the request's body, from its start."""
        self._meter.add(-self._moved)
        self._moved = 0
        for piece in pieces:
            yield piece
            self._moved += len(piece)
            self._meter.add(len(piece))
