"""A request's body as it comes in: no slower than allowed, whole, and taken out of its form if it is in one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import msgspec
from multipart import (  # type: ignore[import-untyped] # it ships no types
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from service import problems

WINDOW_SECONDS: Final = 30.0
FORM_FIELD: Final = "file"

Receive = Callable[[], Awaitable[Any]]


class FormFile(msgspec.Struct, frozen=True):
    """What a form says about its file; None: it says nothing."""

    filename: str | None
    content_type: str | None


def find_boundary(content_type: str) -> str | None:
    """The boundary of a form; None: this is no form."""
    essence, options = parse_options_header(content_type)
    return options.get("boundary", "") if essence == "multipart/form-data" else None


class Pace:
    """Counts what came while we waited for the client; our own work costs it nothing. Raises SlowSender."""

    def __init__(self, bytes_per_second: int) -> None:
        self.least = bytes_per_second * WINDOW_SECONDS
        self.waited = 0.0
        self.received = 0

    async def wait_for(self, receive: Receive) -> Any:
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            try:
                async with asyncio.timeout(WINDOW_SECONDS - self.waited):
                    message = await receive()
                break
            except TimeoutError:
                self.begin_window()  # a pause at a window's end is no slowness, if enough came before
        self.waited += clock() - began
        self.received += len(message.get("body", b""))
        if self.waited >= WINDOW_SECONDS:
            self.begin_window()
        return message

    def begin_window(self) -> None:
        if self.received < self.least:
            raise self.too_slow()
        self.waited, self.received = 0.0, 0

    def too_slow(self) -> problems.SlowSender:
        detail = f"{self.received} bytes came in {WINDOW_SECONDS:.0f} s, expected at least {self.least:.0f}"
        return problems.SlowSender(
            detail, headers={"Connection": "close"}
        )  # else it might go on sending for hours


async def read_body(
    receive: Receive, *, length: int | None, bytes_per_second: int
) -> AsyncIterator[bytes]:
    """The body's pieces as they come. Raises SlowSender, and IncompleteBody when the client goes before the end."""
    pace, received, more = Pace(bytes_per_second), 0, True
    while more:
        message = await pace.wait_for(receive)
        if message["type"] == "http.disconnect":
            raise problems.IncompleteBody(f"the body ended after {received} bytes")
        if piece := message.get("body", b""):
            received += len(piece)
            yield piece
        more = message.get("more_body", False)
    if length is not None and received != length:
        raise problems.IncompleteBody(
            f"Content-Length: {length} bytes were announced, {received} came"
        )


class FormReader:
    """multipart/form-data (RFC 7578) with one field, `file`. Open it, then read the file's bytes. Raises MalformedBody, IncompleteBody."""

    def __init__(self, body: AsyncIterator[bytes], boundary: str) -> None:
        self.body = body
        self.events = self.parse_all(boundary)

    async def open(self) -> FormFile:
        """Read up to the file's first byte."""
        async for event in self.events:
            if isinstance(event, MultipartSegment):
                check_field(event)
                return FormFile(event.filename or None, event.header("Content-Type"))
        raise problems.MalformedBody.at(
            FORM_FIELD, "the form has no such field: send the file as `file`"
        )

    async def read(self) -> AsyncIterator[bytes]:
        async for event in self.events:
            if isinstance(event, MultipartSegment):
                check_field(event)
                raise problems.MalformedBody.at(FORM_FIELD, "came twice: send one file a request")
            if event is not None:
                yield bytes(event)

    async def parse_all(self, boundary: str) -> AsyncGenerator[Any, None]:
        parser = make_parser(boundary)
        async for piece in self.body:
            for event in parse(parser, piece):
                yield event
        close_parser(parser)


def check_field(segment: MultipartSegment) -> None:
    if segment.name != FORM_FIELD:
        raise problems.MalformedBody.at(
            segment.name or "the form", "is not expected: send the file as `file`, and nothing else"
        )


def make_parser(boundary: str) -> PushMultipartParser:
    try:
        return PushMultipartParser(boundary)
    except MultipartError as error:
        raise problems.MalformedBody.at(
            "Content-Type", f"the boundary cannot be used: {error}"
        ) from error


def parse(parser: PushMultipartParser, piece: bytes) -> Iterator[Any]:
    try:
        yield from parser.parse(piece)
    except MultipartError as error:
        raise problems.MalformedBody.at("the form", f"cannot be read: {error}") from error


def close_parser(parser: PushMultipartParser) -> None:
    try:
        parser.close()
    except MultipartError as error:
        raise problems.IncompleteBody("the form ends before its closing boundary") from error
