"""Clients that use little processor time.

They keep their connections, send requests that were built before the clock starts, and parse the
responses with httptools.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import msgspec
import uvloop

CLIENTS = 16


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Connection(asyncio.Protocol):
    """A connection that carries one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.parser = httptools.HttpResponseParser(self)
        self.answer: asyncio.Future[Answer]
        self.body = bytearray()
        self.without_body = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's type does not declare it

    async def exchange(self, request: bytes) -> Answer:
        self.answer = asyncio.get_running_loop().create_future()
        self.without_body = request.startswith(b"HEAD ")
        self.transport.write(request)
        return await self.answer

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)
        if self.without_body:
            # The old parser waits for the body that Content-Length announces.
            self.parser = httptools.HttpResponseParser(self)

    def on_headers_complete(self) -> None:
        if self.without_body:
            self.finish()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if not self.without_body:
            self.finish()

    def finish(self) -> None:
        answer = Answer(self.parser.get_status_code(), bytes(self.body))
        self.body.clear()
        if not self.answer.done():
            self.answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        if hasattr(self, "answer") and not self.answer.done():
            self.answer.set_exception(
                error or ConnectionError("the server closed the connection before its response")
            )


Job = Callable[[Sequence[Connection]], Awaitable[None]]


async def connect(url: str) -> Connection:
    parts = urlsplit(url)
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, parts.hostname or "", parts.port or 80
    )
    return connection


def drive(jobs: Sequence[Job], ways: Sequence[str], *, clients: int = CLIENTS) -> float:
    """Run all jobs by `clients` clients, and return the jobs per second.

    Each client has one connection to each URL of `ways`. The time to connect is not counted.
    """
    return len(jobs) / uvloop.run(run_jobs(jobs, ways, clients=clients))


async def run_jobs(jobs: Sequence[Job], ways: Sequence[str], *, clients: int) -> float:
    opened = [[await connect(url) for url in ways] for _ in range(clients)]
    waiting = iter(jobs)
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for connections in opened:
            group.create_task(take_jobs(waiting, connections))
    seconds = time.perf_counter() - begun
    for connections in opened:
        for connection in connections:
            connection.transport.close()
    return seconds


async def take_jobs(waiting: Iterator[Job], connections: Sequence[Connection]) -> None:
    for job in waiting:
        await job(connections)


def send(request: bytes, *, expected: int, holds: bytes = b"") -> Job:
    """Return a job that sends one request on its first connection.

    The job raises AssertionError if the response has another status, or a body without `holds`.
    """

    async def exchange(connections: Sequence[Connection]) -> None:
        answer = check(await connections[0].exchange(request), expected)
        assert holds in answer.body, f"{holds!r} is not in {answer.body[:500]!r}"

    return exchange


def check(answer: Answer, expected: int) -> Answer:
    assert answer.status == expected, (
        f"{answer.status} instead of {expected}: {answer.body[:500]!r}"
    )
    return answer


def make_request(
    method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [
        f"{method} {target} HTTP/1.1",
        f"Host: {parts.netloc}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    if body or method in ("PUT", "POST"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
