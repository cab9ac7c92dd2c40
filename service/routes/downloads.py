"""`GET` and `HEAD /files/{id}`: the bytes of a proved file."""

import asyncio
import contextlib
from typing import Annotated, Any, Final, Literal, cast
from uuid import UUID

import structlog
from litestar import HttpMethod, Request, Response, route
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, QueryParameter
from litestar.types import Receive, Scope, Send

from service import problems
from service.auth import READ, Principal, open_to
from service.downloads import PAUSE_SECONDS, Downloads, Source, find_readable, open_source, read_chunk
from service.model import File
from service.object_store import StoreError
from service.representation import Headers, choose_span, describe_body, describe_file, is_not_modified
from service.resources import Resources
from service.routes.answers import ANYWHERE, refusals

CONDITIONAL_HEADERS: Final = ("if-match", "if-unmodified-since", "if-none-match", "if-modified-since", "if-range", "range")
ANY_TYPE: Final = cast("Any", "*/*")
"""The file's own; Litestar's type knows only its own enum, its code takes any text."""
SENT_HEADERS: Final = [
    ResponseHeader(name="ETag", description="The SHA-256, strong", documentation_only=True),
    ResponseHeader(name="Repr-Digest", description="The SHA-256 (RFC 9530)", documentation_only=True),
    ResponseHeader(name="Last-Modified", description="When the file was proved", documentation_only=True),
    ResponseHeader(name="Content-Disposition", description="The filename (RFC 6266)", documentation_only=True),
]
BODY_ANSWERS: Final = {
    200: ResponseSpec(bytes, description="The whole file", media_type=ANY_TYPE, generate_examples=False),
    206: ResponseSpec(bytes, description="The range that was asked for", media_type=ANY_TYPE, generate_examples=False),
    304: ResponseSpec(None, description="The client has it already", generate_examples=False),
}
UNREADABLE: Final = (problems.NotReady, problems.FileRejected, problems.FileDamaged, problems.FileGone)

log = structlog.get_logger()


class Body:
    """An ASGI application that sends the headers and then what `source` gives (downloads.py, step 4)."""

    def __init__(self, downloads: Downloads, source: Source | None, *, status: int, headers: dict[str, str]) -> None:
        self.downloads = downloads
        self.source = source
        self.status = status
        self.headers = headers
        self.lent = 0

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.start(send)
            if self.source is None or self.source.left == 0:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await self.stream(self.source, receive, send)
        finally:
            if self.source is not None:
                self.downloads.threads.submit(self.source.close)

    async def start(self, send: Send) -> None:
        encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": encoded})

    async def stream(self, source: Source, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self.send_all(source, send))
        leaving = asyncio.create_task(wait_for_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except StoreError as error:
            # Nothing more is sent, and the announced length is not reached: the server drops the connection.
            log.error("download cut", object=source.key, position=source.position, error=str(error))  # noqa: TRY400  # no fault of ours
        finally:
            await stop(sending, leaving)

    async def send_all(self, source: Source, send: Send) -> None:
        """Chunk after chunk; while there is memory to spare, the next one is read as the client takes this one."""
        try:
            while source.left:
                if not self.downloads.has_plenty:
                    await self.drain(source, send)
                    self.give_back(self.lent)
                size = self.downloads.lend(source.left)
                self.lent += size
                chunk = await read_chunk(self.downloads, source, size)
                await self.drain(source, send)
                self.give_back(self.lent - len(chunk))
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                del chunk
            await self.drain(source, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.give_back(self.lent)

    async def drain(self, source: Source, send: Send) -> None:
        """The server takes an empty piece only when the transport is all but empty: then the last chunk's memory is free."""
        pausing = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self.downloads.threads.submit, source.let_go)
        try:
            await send({"type": "http.response.body", "body": b"", "more_body": True})
        finally:
            pausing.cancel()

    def give_back(self, size: int) -> None:
        self.lent -= size
        self.downloads.give_back(size)


async def wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def stop(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


class Download(Response[None]):
    """A response that is a stream of our own; `source` None: an answer without a body."""

    def __init__(self, downloads: Downloads, source: Source | None, *, status: int, headers: dict[str, str]) -> None:
        super().__init__(None, status_code=status, headers=headers)
        self.body = Body(downloads, source, status=status, headers=headers)

    def to_asgi_response(self, *_: object, **__: object) -> Any:
        """Litestar's hook: what it returns is called with scope, receive and send."""
        return self.body


def name_operation(_: object, method: HttpMethod | str, __: object) -> str:
    return f"{str(getattr(method, 'value', method)).lower()}File"


@route(
    "/files/{file_id:uuid}",
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    operation_id=name_operation,
    **open_to(READ),
    summary="Download a file",
    description="The bytes, which hash to the file's `hash`. One `Range` is honoured; several, or one in a HEAD, are ignored.",
    tags=["files"],
    response_headers=SENT_HEADERS,
    responses={
        **BODY_ANSWERS,
        **refusals(
            *ANYWHERE,
            problems.InvalidRequest,
            problems.NotFound,
            *UNREADABLE,
            problems.PreconditionFailed,
            problems.RangeNotSatisfiable,
            problems.ObjectStoreUnavailable,
        ),
    },
)
async def read_file(
    request: Request[Any, Any, Any],
    file_id: FromPath[UUID],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
    downloads: NamedDependency[Downloads],
    disposition: Annotated[
        Literal["attachment", "inline"], QueryParameter(description="`inline` shows harmless types in a browser; others stay attachments")
    ] = "attachment",
) -> Response[Any]:
    file = await find_readable(resources, file_id, owner=principal.acting_for)
    return await answer_file(request, resources, downloads, file, inline=disposition == "inline")


async def answer_file(
    request: Request[Any, Any, Any], resources: Resources, downloads: Downloads, file: File, *, inline: bool
) -> Response[Any]:
    """Conditions, range and body of a file that the request may read. Raises PreconditionFailed, RangeNotSatisfiable, StoreError."""
    headers, asked = describe_file(file, inline=inline), read_conditions(request)
    if is_not_modified(file, asked):
        return Download(downloads, None, status=304, headers=headers)
    if request.method == "HEAD":  # from the row alone; ranges are for GET (RFC 9110, 14.2)
        return Download(downloads, None, status=200, headers=headers | describe_body(file, None))
    span = choose_span(file, asked)
    source = await open_source(resources, downloads, file, span)
    return Download(downloads, source, status=200 if span is None else 206, headers=headers | describe_body(file, span))


def read_conditions(request: Request[Any, Any, Any]) -> Headers:
    lines = {name: request.headers.getall(name, []) for name in CONDITIONAL_HEADERS}
    return {name: ", ".join(values) for name, values in lines.items() if values}
