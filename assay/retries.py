"""When to ask again."""

import random
import threading
import time
from typing import Final

SHORTEST_SECONDS: Final = 0.2
LONGEST_SECONDS: Final = 15.0
MOST_ATTEMPTS: Final = 30


class RetryPolicy:
    """Waits that grow, with jitter, until `seconds` or too many attempts have passed without success, or `stop` is set. `renew` after
    each success."""

    def __init__(self, seconds: float, stop: threading.Event | None = None) -> None:
        self._seconds = seconds
        self._stop = stop or threading.Event()
        self.renew()

    def renew(self) -> None:
        self._next = SHORTEST_SECONDS
        self._attempts = 0
        self.forgive()

    def forgive(self) -> None:
        """An attempt failed after it had come far: its time does not count, the attempt does."""
        self._ends = time.monotonic() + self._seconds

    def wait(self, at_least: float = 0.0) -> bool:
        """Sleep before the next attempt, as long as the server asked for if it did; False when the time or the attempts are used up."""
        left = self._ends - time.monotonic()
        self._attempts += 1
        if left <= 0 or self._attempts >= MOST_ATTEMPTS:
            return False
        pause = max(at_least, self._next * random.uniform(0.5, 1.5))  # noqa: S311  # to spread clients, not to hide anything
        self._next = min(LONGEST_SECONDS, self._next * 2)
        return not self._stop.wait(min(pause, left))
