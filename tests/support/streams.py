"""A client of Server-Sent Events, as strict as the standard (HTML, 9.2.6)."""

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
    """Lines in, events out; `last_id` is also what an id without data has set, `comments` counts signs of life."""

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
    """One connection."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.parser = Parser()
        self.events = self.read()

    async def read(self) -> AsyncIterator[Event]:
        async for line in self.answer.aiter_lines():
            if event := self.parser.feed(line):
                yield event

    async def take(self, count: int = 1) -> list[Event]:
        """The next so many. Raises TimeoutError, and StopAsyncIteration at the end of the stream."""
        async with asyncio.timeout(IN_TIME):
            return [await anext(self.events) for _ in range(count)]

    async def take_rest(self) -> list[Event]:
        """All up to the end of the stream, which must come. Raises TimeoutError."""
        async with asyncio.timeout(IN_TIME):
            return [event async for event in self.events]


@asynccontextmanager
async def following(
    client: httpx.AsyncClient, *, after: str | None = None, **params: str
) -> AsyncIterator[Stream]:
    """Connected, and joined."""
    headers = {} if after is None else {"Last-Event-ID": after}
    async with client.stream(
        "GET", "/events", params=params, headers=headers, timeout=httpx.Timeout(30, read=None)
    ) as answer:
        assert answer.status_code == 200, await answer.aread()
        yield Stream(answer)
