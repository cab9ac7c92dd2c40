"""The retry policy of the client."""

import random
import threading
import time
from typing import Final

SHORTEST_SECONDS: Final = 0.2
LONGEST_SECONDS: Final = 15.0
MOST_ATTEMPTS: Final = 30


class RetryPolicy:
    """The delays between the attempts of one operation. They grow, with jitter.

    The retries are used up when `seconds` have passed, or MOST_ATTEMPTS have failed, since the last
    success, or when `stop` is set. The caller calls `renew` after each success.
    """

    def __init__(self, seconds: float, stop: threading.Event | None = None) -> None:
        self._seconds = seconds
        self._stop = stop or threading.Event()
        self.renew()

    def renew(self) -> None:
        self._next = SHORTEST_SECONDS
        self._attempts = 0
        self.forgive()

    def forgive(self) -> None:
        """Restart the time limit, for an attempt that failed after it had sent many bytes.

        The attempt still counts.
        """
        self._ends = time.monotonic() + self._seconds

    def wait(self, at_least: float = 0.0) -> bool:
        """Sleep before the next attempt, for at least the time that the server has asked for.

        Return False if the retries are used up.
        """
        left = self._ends - time.monotonic()
        self._attempts += 1
        if left <= 0 or self._attempts >= MOST_ATTEMPTS:
            return False
        # The jitter spreads the requests of many clients. It is not used for security.
        pause = max(at_least, self._next * random.uniform(0.5, 1.5))  # noqa: S311
        self._next = min(LONGEST_SECONDS, self._next * 2)
        return not self._stop.wait(min(pause, left))
