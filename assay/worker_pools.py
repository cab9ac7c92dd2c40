"""Threads of one upload. The first error stops all of them.

The caller waits in a `queue.SimpleQueue`, because Ctrl-C may interrupt a `threading.Condition`
between two of its steps. Its lock may then be released twice, and a thread that holds it fails.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

JOIN_SECONDS: Final = 2.0
"""How long `run` waits for its threads to stop.

A thread that waits for a server beyond that ends with the process.
"""


class Stopped(Exception):
    """The signal that a thread must stop: another failed, or the caller was interrupted."""


class WorkerPool:
    """The threads of one upload. Each runs one function, until all have returned."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def check(self) -> None:
        """Raise Stopped if the threads must stop."""
        if self.stop.is_set():
            raise Stopped

    def run(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Run each task in a thread, and raise the first exception that any of them raises.

        In the main thread, Ctrl-C takes effect at once.
        """
        started = [
            threading.Thread(target=self._work, args=(task,), daemon=True, name="assay-upload")
            for task in tasks
        ]
        try:
            for each in started:
                each.start()
            for _ in started:
                if (error := self._ended.get()) is not None:
                    raise error
        finally:
            self.stop.set()
            ends = time.monotonic() + JOIN_SECONDS
            for each in started:
                each.join(max(0.0, ends - time.monotonic()))

    def _work(self, task: Callable[[], None]) -> None:
        error: BaseException | None = None
        try:
            task()
        except Stopped:
            pass
        except BaseException as raised:  # raised again where `run` waits
            error = raised
        self._ended.put(error)
