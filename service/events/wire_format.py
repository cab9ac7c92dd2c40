"""The wire format of events: Server-Sent Events (HTML, section 9.2) with one line of JSON."""

from datetime import datetime
from uuid import UUID

import msgspec

from service.model import State
from service.queries.history import Position, Transition


class Event(msgspec.Struct, frozen=True):
    """A transition as it is sent. All subscribers of an owner share it."""

    position: Position
    file_id: UUID
    text: bytes


class EventData(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON data of an event."""

    file_id: UUID
    filename: str
    state: State
    previous: State | None
    at: datetime
    by: str
    why: str | None
    hash: str | None


def write_event(found: Transition, event_id: str) -> Event:
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
    text = b"id: %s\nevent: transition\ndata: %s\n\n" % (
        event_id.encode(),
        msgspec.json.encode(data),
    )
    return Event(found.position, found.file_id, text)


def write_position(position_id: str, *, reset: bool = False) -> bytes:
    """Return the text that tells a client from which position to continue if it reconnects.

    The text has no data and is therefore not an event (HTML, section 9.2.6). With `reset`, it is an
    event of that name.
    """
    return f"id: {position_id}\n".encode() + (b"event: reset\ndata: {}\n\n" if reset else b"\n")
