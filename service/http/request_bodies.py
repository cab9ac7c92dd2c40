"""Bodies of requests: read at no less than the lowest rate, checked for completeness, and extracted
from a form.

A body that does not have the bytes of its file, because it is encoded or partial, is refused.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Set,
)
from typing import Any, Final

import msgspec
from multipart import (  # type: ignore[import-untyped] # it ships no types
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
)

from service import problems
from service.http.content_disposition import parse_part
from service.http.digests import StatedDigest, read_digests
from service.http.parameters import name_parameters, unquote

WINDOW_SECONDS: Final = 30.0
FORM_FIELD: Final = "file"
UNCODED: Final = frozenset({"", "identity"})
"""The values of Content-Encoding that leave the bytes as they are."""
UNENCODED: Final = frozenset({"", "7bit", "8bit", "binary"})
"""The values of Content-Transfer-Encoding that leave the bytes as they are (RFC 2045, section 6.2).
"""

Receive = Callable[[], Awaitable[Any]]


class FormFile(msgspec.Struct, frozen=True):
    """The description of a file in a form. A value is None if the form does not contain it.

    `digests` are those that the fields of the file's part state.
    """

    filename: str | None
    content_type: str | None
    digests: tuple[StatedDigest, ...] = ()


def find_boundary(content_type: str) -> str | None:
    """Return the boundary of a form, or None if the content type is not that of a form.

    The boundary is empty if the content type of a form has none. Raises InvalidRequest.
    """
    if content_type.partition(";")[0].strip(" \t").lower() != "multipart/form-data":
        return None
    try:
        parameters = name_parameters(content_type)
    except ValueError as error:
        raise problems.InvalidRequest.at("Content-Type", str(error)) from error
    if "boundary" not in parameters:
        return ""
    boundary = parameters["boundary"]
    return unquote(boundary.value) if boundary.is_quoted else boundary.value


def check_content(fields: Iterable[tuple[str, str]], *, prefix: str = "") -> None:
    """Refuse a body, or a part of a form, whose fields say that it is encoded or partial.

    Its digest would be that of other bytes. (HTTP has no Content-Transfer-Encoding, but clients
    that encode a body for mail send it.) `prefix` precedes the name of a field in errors. Raises
    UnsupportedMediaType and InvalidRequest.
    """
    for name, value in fields:
        if name.lower() == "content-encoding" and has_coding(value, besides=UNCODED):
            raise problems.UnsupportedMediaType.at(
                f"{prefix}Content-Encoding",
                "the bytes must not be encoded",
                headers={"Accept-Encoding": "identity"},
            )
        if name.lower() == "content-transfer-encoding" and has_coding(value, besides=UNENCODED):
            raise problems.InvalidRequest.at(
                f"{prefix}Content-Transfer-Encoding",
                "must be binary or absent: send the bytes as they are",
            )
        if name.lower() == "content-range":
            raise problems.InvalidRequest.at(
                f"{prefix}Content-Range",
                "is not supported in a request: send the whole content without this field",
            )


def has_coding(field: str, *, besides: Set[str]) -> bool:
    """Return whether a list of codings names one that changes the bytes."""
    return any(coding.strip().lower() not in besides for coding in field.split(","))


class Pace:
    """A check of a client's sending rate. Only the time spent waiting for the client counts.

    It raises SlowSender if a window ends with too few bytes. `find_rate` returns the lowest rate in
    bytes per second, which may change.
    """

    def __init__(self, find_rate: Callable[[], int]) -> None:
        self.find_rate = find_rate
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
                # a pause at the end of a window is allowed if enough came before it
                self.begin_window()
        self.waited += clock() - began
        self.received += len(message.get("body", b""))
        if self.waited >= WINDOW_SECONDS:
            self.begin_window()
        return message

    def begin_window(self) -> None:
        least = self.find_rate() * WINDOW_SECONDS
        if self.received < least:
            raise self.too_slow(least)
        self.waited, self.received = 0.0, 0

    def too_slow(self, least: float) -> problems.SlowSender:
        detail = (
            f"{self.received} bytes arrived in {WINDOW_SECONDS:.0f} s,"
            f" but at least {least:.0f} are required"
        )
        return problems.SlowSender(
            detail, headers={"Connection": "close"}
        )  # otherwise the client could continue sending for hours


async def read_body(
    receive: Receive, *, length: int | None, find_rate: Callable[[], int]
) -> AsyncIterator[bytes]:
    """Yield the pieces of a body as they arrive, at no less than the lowest rate.

    Raises SlowSender, and IncompleteBody if the client disconnects before the end.
    """
    pace, received, more = Pace(find_rate), 0, True
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
            f"Content-Length: announces {length} bytes, but the body has {received}"
        )


class FormReader:
    """A reader of multipart/form-data (RFC 7578) with the one field `file`.

    Call `open`, then read the file's bytes. Raises MalformedBody or IncompleteBody. `open` also
    raises UnsupportedMediaType and InvalidRequest for what the fields of the part say.
    """

    def __init__(self, body: AsyncIterator[bytes], boundary: str) -> None:
        self.body = body
        self.events = self.parse_all(boundary)

    async def open(self) -> FormFile:
        async for event in self.events:
            if isinstance(event, MultipartSegment):
                filename = read_part(event)
                fields, prefix = event.headerlist, f"{FORM_FIELD}: "
                check_content(fields, prefix=prefix)
                return FormFile(
                    filename,
                    event.header("Content-Type") or None,
                    read_digests(fields, prefix=prefix),
                )
        raise problems.MalformedBody.at(
            FORM_FIELD, "the form has no such field; send the file as `file`"
        )

    async def read(self) -> AsyncIterator[bytes]:
        async for event in self.events:
            if isinstance(event, MultipartSegment):
                read_part(event)
                raise problems.MalformedBody.at(
                    FORM_FIELD, "is given twice; send one file per request"
                )
            if event is not None:
                yield bytes(event)

    async def parse_all(self, boundary: str) -> AsyncGenerator[Any, None]:
        parser = make_parser(boundary)
        async for piece in self.body:
            for event in parse(parser, piece):
                yield event
        close_parser(parser)


def read_part(segment: MultipartSegment) -> str | None:
    """Check that a part is the file, and return the filename, or None if the part has none.

    Raises InvalidRequest or MalformedBody.
    """
    try:
        field, filename = parse_part(segment["Content-Disposition"])
    except ValueError as error:
        raise problems.InvalidRequest.at(
            f"{FORM_FIELD}: Content-Disposition", str(error)
        ) from error
    if field != FORM_FIELD:
        raise problems.MalformedBody.at(
            field or "the form", "is not allowed; send the file as `file`, and no other field"
        )
    names = [name for name, _ in segment.headerlist]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise problems.MalformedBody.at(f"{FORM_FIELD}: {doubled[0]}", "is given twice")
    return filename or None


def make_parser(boundary: str) -> PushMultipartParser:
    try:
        # Latin-1 keeps every byte, so that the headers are read like those of a request.
        return PushMultipartParser(boundary.encode("latin-1"), header_charset="latin-1")
    except MultipartError as error:
        raise problems.MalformedBody.at(
            "Content-Type", f"the boundary cannot be used: {error}"
        ) from error


def parse(parser: PushMultipartParser, piece: bytes) -> Iterator[Any]:
    try:
        yield from parser.parse(piece)
    except MultipartError as error:
        raise problems.MalformedBody.at("the form", f"cannot be parsed: {error}") from error


def close_parser(parser: PushMultipartParser) -> None:
    try:
        parser.close()
    except MultipartError as error:
        raise problems.IncompleteBody("the form ends before its closing boundary") from error
