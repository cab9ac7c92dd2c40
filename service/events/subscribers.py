"""Subscribers: event streams that receive transitions from the feed, each with its queue."""

import asyncio
from collections import deque
from typing import Final
from uuid import UUID

from service.events.wire_format import Event
from service.queries.history import UNKNOWN, Position

MOST_WAITING: Final = 100
"""The largest number of events in a queue, unless it consists of one batch.

A batch may have as many events as a page.
"""


class Batch:
    """Events of one owner that were read together."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.text = b"".join(event.text for event in events)

    def select(self, after: Position, *, file_id: UUID | None) -> bytes:
        """Return the text of the events after the position `after`.

        If `file_id` is given, only events of this file are included.
        """
        if file_id is None and self.events[0].position > after:
            return self.text
        return b"".join(
            event.text
            for event in self.events
            if event.position > after and file_id in (None, event.file_id)
        )


class Subscriber:
    """One event stream: the position up to which it was sent, and its queue.

    If `file_id` is given, only events of this file are sent. `last_id` is the `Last-Event-ID` of
    the request, or None without one.
    """

    def __init__(
        self, owner: str, key_id: UUID, *, file_id: UUID | None, last_id: str | None
    ) -> None:
        self.owner = owner
        self.key_id = key_id
        self.file_id = file_id
        self.last_id = last_id
        self.position = UNKNOWN  # until the subscriber has joined the feed
        self.behind = True
        self.waiting: deque[Batch] = deque()
        self.news = asyncio.Event()
        self.end = asyncio.Event()

    @property
    def length(self) -> int:
        return sum(len(batch.events) for batch in self.waiting)

    def offer(self, batch: Batch) -> None:
        """Append a batch that the feed has fetched to the queue.

        If the queue is full, empty it: the subscriber is then behind. While it is behind, batches
        are ignored.
        """
        if self.behind:
            return
        if self.waiting and self.length + len(batch.events) > MOST_WAITING:
            self.fall_behind()
        else:
            self.waiting.append(batch)
        self.news.set()

    def fall_behind(self) -> None:
        self.behind = True
        self.waiting.clear()

    def take(self) -> bytes:
        """Empty the queue, and return the text of its events that were not sent yet."""
        self.news.clear()
        pieces = []
        while self.waiting:
            pieces.append(self.pass_over(self.waiting.popleft()))
        return b"".join(pieces)

    def pass_over(self, batch: Batch) -> bytes:
        """Return the text of the batch that is to be sent, and count the batch as sent."""
        text = batch.select(self.position, file_id=self.file_id)
        self.position = max(self.position, batch.events[-1].position)
        return text
