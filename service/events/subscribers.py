"""Readers: who is told of events, what waits for them, and how it is written on the wire (Server-Sent Events: HTML, 9.2)."""

import asyncio
from collections import deque
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from service.model import State
from service.queries.history import Position, Transition

MOST_WAITING: Final = 100
"""Events in a subscriber's queue beside one batch, which may be as large as a page."""


class Event(msgspec.Struct, frozen=True):
    """As it is sent; many subscribers share one."""

    position: Position
    file_id: UUID
    text: bytes


class Batch:
    """Events of one owner that came together."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.text = b"".join(event.text for event in events)

    def select(self, after: Position, *, file_id: UUID | None) -> bytes:
        """The text of what lies behind `after`, of this file alone if one is named."""
        if file_id is None and self.events[0].position > after:
            return self.text
        return b"".join(event.text for event in self.events if event.position > after and file_id in (None, event.file_id))


class EventData(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of an event."""

    file_id: UUID
    filename: str
    state: State
    previous: State | None
    at: datetime
    by: str
    why: str | None
    hash: str | None


def write_event(found: Transition) -> Event:
    data = EventData(
        file_id=found.file_id,
        filename=found.filename,
        state=found.state,
        previous=found.previous,
        at=found.at,
        by=found.by,
        why=found.why,
        hash=str(found.hash) if found.hash else None,
    )
    text = b"id: %s\nevent: transition\ndata: %s\n\n" % (str(found.position).encode(), msgspec.json.encode(data))
    return Event(found.position, found.file_id, text)


def write_position(position: Position, *, reset: bool = False) -> bytes:
    """Where a client is to go on, should it lose its connection; without data it is no event (HTML, 9.2.6)."""
    return f"id: {position}\n".encode() + (b"event: reset\ndata: {}\n\n" if reset else b"\n")


class Subscriber:
    """One stream: how far it has been sent, and what waits for it. `file_id`: of this file alone."""

    def __init__(self, owner: str, key_id: UUID, *, file_id: UUID | None, position: Position | None) -> None:
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
