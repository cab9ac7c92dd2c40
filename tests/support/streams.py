"""A client for Server-Sent Events that is as strict as the standard (HTML, section 9.2.6)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

IN_TIME = 15


@dataclass(frozen=True)
class Event:
    id: str
    kind: str
    data: Any

    @property
    def state(self) -> str:
        return str(self.data["state"])


@dataclass
class Parser:
    """A parser that takes lines and returns events.

    `last_id` is the last id that was received, even without data. `comments` counts the comment
    lines, which keep the connection alive.
    """

    last_id: str = ""
    comments: int = 0
    kind: str = ""
    data: list[str] = field(default_factory=list)

    def feed(self, line: str) -> Event | None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            return self.finish()
        if name == "":
            self.comments += 1
        elif name == "id":
            self.last_id = value
        elif name == "event":
            self.kind = value
        elif name == "data":
            self.data.append(value)
        else:
            assert name == "retry"
        return None

    def finish(self) -> Event | None:
        kind, data = self.kind, "\n".join(self.data)
        self.kind, self.data = "", []
        return Event(self.last_id, kind, json.loads(data)) if data else None


class Stream:
    """The event stream of one connection."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.parser = Parser()
        self.events = self.read()

    async def read(self) -> AsyncIterator[Event]:
        async for line in self.answer.aiter_lines():
            if event := self.parser.feed(line):
                yield event

    async def take(self, count: int = 1) -> list[Event]:
        """Return the next `count` events.

        Raises TimeoutError, and StopAsyncIteration if the stream ends before that.
        """
        async with asyncio.timeout(IN_TIME):
            return [await anext(self.events) for _ in range(count)]

    async def take_rest(self) -> list[Event]:
        """Return all events up to the end of the stream. Raises TimeoutError if it does not end."""
        async with asyncio.timeout(IN_TIME):
            return [event async for event in self.events]


@asynccontextmanager
async def following(
    client: httpx.AsyncClient, *, after: str | None = None, **params: str
) -> AsyncIterator[Stream]:
    """Connect, and yield the stream once the server has accepted it."""
    # httpx sends bytes unchanged.
    headers = {} if after is None else {b"Last-Event-ID": after.encode()}
    async with client.stream(
        "GET", "/events", params=params, headers=headers, timeout=httpx.Timeout(30, read=None)
    ) as answer:
        assert answer.status_code == 200, await answer.aread()
        yield Stream(answer)
