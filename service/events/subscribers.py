"""Subscribers: event streams that receive transitions from the feed, and what waits for them."""

import asyncio
from collections import deque
from typing import Final
from uuid import UUID

from service.events.wire_format import Event
from service.queries.history import Position

MOST_WAITING: Final = 100
"""Events in a subscriber's queue beside one batch, which may be as large as a page."""


class Batch:
    """Events of one owner that came together."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.text = b"".join(event.text for event in events)

    def select(self, after: Position, *, file_id: UUID | None) -> bytes:
        """The text of what lies behind `after`, of this file alone if one is named."""
        if file_id is None and self.events[0].position > after:
            return self.text
        return b"".join(
            event.text
            for event in self.events
            if event.position > after and file_id in (None, event.file_id)
        )


class Subscriber:
    """One stream: how far it has been sent, and what waits for it. `file_id`: of this file alone."""

    def __init__(
        self, owner: str, key_id: UUID, *, file_id: UUID | None, position: Position | None
    ) -> None:
        self.owner = owner
        self.key_id = key_id
        self.file_id = file_id
        self.asked = position
        self.position = position or Position(0, 0)
        self.behind = True
        self.waiting: deque[Batch] = deque()
        self.news = asyncio.Event()
        self.end = asyncio.Event()

    @property
    def length(self) -> int:
        return sum(len(batch.events) for batch in self.waiting)

    def offer(self, batch: Batch) -> None:
        """What the feed has fetched."""
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
        """What is in the queue and was not sent yet."""
        self.news.clear()
        pieces = []
        while self.waiting:
            pieces.append(self.pass_over(self.waiting.popleft()))
        return b"".join(pieces)

    def pass_over(self, batch: Batch) -> bytes:
        """What of it is to be sent; from then on it counts as sent."""
        text = batch.select(self.position, file_id=self.file_id)
        self.position = max(self.position, batch.events[-1].position)
        return text
