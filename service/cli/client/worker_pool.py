"""A pool of threads for the files of one command. Each thread works on one file at a time.

1. A bounded number of files waits, and `hand_over` blocks above it. The memory is therefore the
   same for any number of files.
2. The failure of one file is reported, and the others continue. A refused key and an unavailable
   server end the command, because every other file would fail too. An unexpected exception also
   ends it.
3. After Ctrl-C, files in progress stop at their next piece, and no other file begins. A thread that
   waits for a response is given END_SECONDS. The threads end with the process.

Ctrl-C raises KeyboardInterrupt at any point of the main thread. If that is within a
`threading.Condition`, as `queue.Queue` has three, its lock may be released twice, and a thread that
holds it then fails. The main thread therefore waits in `queue.SimpleQueue`, which is not
interrupted between its steps.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from service.cli.client.exit_codes import Away, Ending, NotAllowed, Outcomes, explain
from service.cli.client.reports import Report

if TYPE_CHECKING:
    from assay import Progress
    from service.cli.client.bars import Bar

T = TypeVar("T")
R = TypeVar("R")
END_SECONDS: Final = 2.0


class Stopped(Exception):
    """The pool was stopped, by Ctrl-C or by an error that ends the command."""


class WorkerPool(Generic[T]):
    """A pool whose `work` handles one file. `name` returns the file's name for messages."""

    def __init__(
        self, work: Callable[[T], None], report: Report, *, name: Callable[[T], str], jobs: int
    ) -> None:
        self.report = report
        self.outcomes = Outcomes()
        self._work = work
        self._name = name
        self._fatal: Exception | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._waiting: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(2 * jobs):
            self._places.put(None)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(jobs)]
        for thread in self._threads:
            thread.start()

    def hand_over(self, item: T) -> bool:
        """Pass an item to a thread. Return False if the pool has stopped and accepts no more."""
        self._places.get()
        self._waiting.put(item)
        return not self._stopped.is_set()

    def finish(self) -> None:
        """Wait for all items. Raises the error that stopped the pool, if any."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        if self._fatal is not None:
            raise self._fatal

    def stop(self) -> None:
        self._stopped.set()
        ends = time.monotonic() + END_SECONDS
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))

    def succeed(self, text: str, about: dict[str, Any]) -> None:
        with self._lock:
            self.outcomes.done += 1
        self.report.say(text, about)

    def fail(self, name: str, ending: Ending) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            self.outcomes.failed.append(type(ending))
        self.report.complain(name, str(ending), {"source": name, "outcome": "failed"})

    def watch(
        self, name: str, size: int | None, act: "Callable[[Callable[[Progress], None]], R]"
    ) -> R:
        """Run `act` and return its result, with a bar if there are bars.

        `act` receives the function to call with its progress. Raises Stopped.
        """
        bar, complete = self.report.start(name, size), False
        try:
            result = act(lambda progress: self._observe(bar, progress))
            complete = True
            return result
        finally:
            if bar is not None:
                bar.end(complete=complete)

    def check(self, *, seconds: float = 0.0) -> None:
        """Raise Stopped if the pool was stopped, or is stopped within `seconds`."""
        if self._stopped.is_set() or self._stopped.wait(seconds):
            raise Stopped

    def _observe(self, bar: "Bar | None", progress: "Progress") -> None:
        # in phase "done" the file exists, and its sender must be informed
        if progress.phase != "done":
            self.check()
        if bar is not None:
            bar.move(
                progress.bytes_done,
                waiting=""
                if progress.phase in ("sending", "receiving", "done")
                else progress.phase,
            )

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            self._places.put(None)
            if not self._stopped.is_set():
                self._do(item)

    def _do(self, item: T) -> None:
        try:
            self._work(item)
        except Stopped:
            return
        except Exception as error:
            try:
                ending = explain(error)
            except Exception as fault:
                self._end_all(fault)
                return
            if isinstance(ending, NotAllowed | Away):
                self._end_all(ending)
            else:
                self.fail(self._name(item), ending)

    def _end_all(self, error: Exception) -> None:
        with self._lock:
            self._fatal = self._fatal or error
            self._stopped.set()
