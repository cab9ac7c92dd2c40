"""Uploads that this process has just made final, or is about to make final.

The store also reports them with an event. That event changes nothing, so it needs no statement.

1. While a request proves a file, its incoming key is noted. An event for the key waits for the end
   of the proof, for SETTLING_SECONDS at most.
2. When the file has become final, the key is remembered.
   - The event comes for a remembered key: nothing is recorded.
   - In every other case, the event is recorded in the database, where it changes nothing if the
     file is final.

A key counts only while the notification connection is the one over which the process listened when
it was remembered. After a failover, or a restoration to an earlier time, the file may no longer be
final, and the connection is a new one. (The process may notice the loss of the old one only after
some seconds. The schedule finds a file whose event came in this time.)
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

from service.database.notifications import Notifications

SETTLING_SECONDS: Final = 0.1
MOST_REMEMBERED: Final = 10_000


class SettledUploads:
    """The uploads of a process. It may be used from any coroutine of its event loop."""

    def __init__(self, notifications: Notifications) -> None:
        self.notifications = notifications
        self.settling: dict[str, asyncio.Event] = {}
        self.settled: dict[str, int] = {}

    @contextlib.contextmanager
    def settle(self, incoming_key: str) -> Iterator[None]:
        """Note the key for the length of the block. It must not be noted already."""
        ended = self.settling[incoming_key] = asyncio.Event()
        try:
            yield
        finally:
            del self.settling[incoming_key]
            ended.set()

    def remember(self, incoming_key: str) -> None:
        """Remember the key of a file that has become final."""
        if len(self.settled) >= MOST_REMEMBERED:
            self.settled.clear()
        self.settled[incoming_key] = self.notifications.connections

    async def has_settled(self, incoming_key: str) -> bool:
        """Run the protocol above, and return whether the file with this key is known to be final.

        The key is then forgotten, because a store usually sends one event for it.
        """
        if (ended := self.settling.get(incoming_key)) is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLING_SECONDS):
                    await ended.wait()
        connection = self.settled.pop(incoming_key, None)
        return self.notifications.connected and connection == self.notifications.connections
