"""A transport for event loops: each request is sent once, without a thread.

It is for requests whose whole response is wanted and small. `transport` has the same rules for
threads, and can also give the response to its caller piece by piece.

A connection carries one request at a time. It returns to the pool when its response has arrived
whole and the store keeps it open. It is closed in every other case, also when the request is
cancelled. The store may then still execute the request.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Mapping
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from service.object_store.connections import check_not_late
from service.object_store.errors import RequestRefused, StoreUnavailable, unavailable
from service.object_store.messages import SUCCESSES, Answer, Deadline, SignedRequest
from service.object_store.response_heads import LARGEST_HEAD_BYTES, is_field_read
from service.object_store.transport import (
    CONNECT_SECONDS,
    CONNECTIONS_KEPT,
    LARGEST_ANSWER_BYTES,
    REPEATABLE,
)

READS_NO_BODY: Final = frozenset({"HEAD"})
MALFORMED: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade)


class Disconnected(Exception):
    """The end of a connection before the whole response has arrived."""


class Pool:
    """The connections of one event loop. They end with it."""

    def __init__(self) -> None:
        self.idle: list[Connection] = []
        self.open: set[Connection] = set()
        self.places = asyncio.Semaphore(CONNECTIONS_KEPT)
        self.end: AsyncGenerator[None, None] | None = None
        """The generator of `_end_with`. Without this reference, it would end at once."""

    def abort(self) -> None:
        self.idle.clear()
        for connection in [*self.open]:
            connection.transport.abort()


class EventLoopTransport:
    """A transport that several event loops can share, each of which has its own connections.

    A request that writes is never sent twice, because a repeated PUT may arrive after the object
    under its key was hashed. Redirects are never followed, because a request is signed for one
    host.
    """

    def __init__(self, origin: str) -> None:
        parts = urlsplit(origin)
        self._origin = origin
        self._host = str(parts.hostname)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._pools: dict[asyncio.AbstractEventLoop, Pool] = {}
        self._cut = False

    async def send(
        self, request: SignedRequest, deadline: Deadline, *, most_bytes: int = LARGEST_ANSWER_BYTES
    ) -> Answer:
        """Return the whole response, even if it is an error.

        If an object has more than `most_bytes`, the body is empty and differs from the announced
        length. Raises SentTooLate, StoreUnavailable, or RequestRefused for fields that no request
        can have.
        """
        head = write_head(request, request.url.removeprefix(self._origin))
        check_not_late(deadline)
        try:
            try:
                return await self._exchange(request, head, deadline, most_bytes)
            except Disconnected:  # usually a kept connection that the store has just closed
                if request.method not in REPEATABLE:
                    raise
                return await self._exchange(request, head, deadline, most_bytes)
        except (Disconnected, OSError, *MALFORMED) as error:
            raise unavailable(request.name, error) from error

    def cut(self) -> None:
        """Close all connections, including those that carry a request, and allow no new ones."""
        self._cut = True
        for loop, pool in [*self._pools.items()]:
            with contextlib.suppress(RuntimeError):  # the event loop has just been closed
                loop.call_soon_threadsafe(pool.abort)

    async def _exchange(
        self, request: SignedRequest, head: bytes, deadline: Deadline, most_bytes: int
    ) -> Answer:
        pool = await self._find_pool()
        async with pool.places:
            connection = await self._take(pool, deadline)
            try:
                check_not_late(deadline)  # connecting takes time
                answer = await connection.exchange(
                    request, head, most_bytes=most_bytes, seconds=deadline.timeout_seconds
                )
            except BaseException:
                connection.transport.abort()
                raise
            if connection.is_reusable and not self._cut:
                pool.idle.append(connection)
            else:
                connection.transport.abort()
            return answer

    async def _find_pool(self) -> Pool:
        loop = asyncio.get_running_loop()
        if (pool := self._pools.get(loop)) is None:
            pool = self._pools[loop] = Pool()
            pool.end = self._end_with(loop, pool)
            await anext(pool.end)
        return pool

    async def _end_with(
        self, loop: asyncio.AbstractEventLoop, pool: Pool
    ) -> AsyncGenerator[None, None]:
        """Abort the connections when the event loop closes its asynchronous generators.

        A closed event loop could no longer close them.
        """
        try:
            yield
        finally:
            del self._pools[loop]
            pool.abort()

    async def _take(self, pool: Pool, deadline: Deadline) -> "Connection":
        self._check_not_cut()
        while pool.idle:
            connection = pool.idle.pop()
            if not connection.transport.is_closing():
                return connection
        opened = await self._connect(pool, min(CONNECT_SECONDS, deadline.timeout_seconds))
        try:
            self._check_not_cut()
        except StoreUnavailable:
            opened.transport.abort()
            raise
        return opened

    def _check_not_cut(self) -> None:
        if self._cut:
            raise StoreUnavailable("the connections to the store have been closed")

    async def _connect(self, pool: Pool, seconds: float) -> "Connection":
        """Return a new connection. Raises OSError and TimeoutError.

        An attempt that is abandoned ends in the background, because uvloop cannot cancel a name
        resolution.
        """
        attempt = asyncio.ensure_future(
            asyncio.get_running_loop().create_connection(
                lambda: Connection(pool.open), self._host, self._port, ssl=self._tls
            )
        )
        try:
            async with asyncio.timeout(seconds):
                _, opened = await asyncio.shield(attempt)
        except (TimeoutError, asyncio.CancelledError):
            attempt.add_done_callback(drop_connection)
            raise
        return opened


class Connection(asyncio.Protocol):
    """One connection, which carries one request at a time."""

    transport: asyncio.Transport

    def __init__(self, open_connections: set["Connection"]) -> None:
        self._open_connections = open_connections
        self._response: Response | None = None
        self._timeout: asyncio.Timeout | None = None
        self._seconds = 0.0
        self._leaves_open = False

    async def exchange(
        self, request: SignedRequest, head: bytes, *, most_bytes: int, seconds: float
    ) -> Answer:
        """Send the request and return the response.

        The store has `seconds` for each piece of the response, and the sending of the body counts
        towards the first one. Raises Disconnected, TimeoutError, StoreUnavailable.
        """
        if self.transport.is_closing():  # `connection_lost` may have run before, for no response
            raise Disconnected
        response = self._response = Response(request, most_bytes)
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)
        async with self._timeout:
            self.transport.writelines([head, request.body] if request.body else [head])
            try:
                return await response.ended
            finally:
                self._timeout = None
                self._leaves_open = response.leaves_open
                self._response = None  # an idle connection must not keep the bytes

    @property
    def is_reusable(self) -> bool:
        return self._leaves_open and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's has another base class
        self._open_connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._response is None or self._response.ended.done():
            self.transport.abort()  # bytes that no request asked for
            return
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._seconds)
        self._response.feed(data)

    def eof_received(self) -> None:
        """Let the transport close itself."""
        if self._response is not None:
            self._response.end_at_eof()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  # of Protocol
        self._open_connections.discard(self)
        if self._response is not None:
            self._response.fail(Disconnected())


def drop_connection(attempt: "asyncio.Task[tuple[asyncio.Transport, Connection]]") -> None:
    """Close the connection of an attempt that succeeded too late."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result()[1].transport.abort()


class Response:
    """The response to one request, while it arrives."""

    def __init__(self, request: SignedRequest, most_bytes: int) -> None:
        self.ended: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.leaves_open = False
        self._request = request
        self._most_bytes = most_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._in_body = False
        self._head_left = LARGEST_HEAD_BYTES
        self._body_left = most_bytes

    def feed(self, data: bytes) -> None:
        if not self._in_body:
            self._head_left -= len(data)  # with the beginning of the body, if it comes together
            if self._head_left < 0:
                self.fail(self._name_limit("head", LARGEST_HEAD_BYTES))
                return
        try:
            self._parser.feed_data(data)
        except MALFORMED as error:
            self.leaves_open = False
            self.fail(error)

    def on_message_begin(self) -> None:
        if self.ended.done():  # bytes that no request asked for
            self.leaves_open = False

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if is_field_read(lower):
            text = value.decode("latin-1")
            known = self._headers.get(field := lower.decode("latin-1"))
            self._headers[field] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() < 200:  # the response to `Expect`, which is not sent
            return
        self._in_body = True
        if self._request.method in READS_NO_BODY:
            self.leaves_open = self._parser.should_keep_alive()
            self._finish()
        elif int(self._headers.get("content-length", "0")) > self._most_bytes:
            self._finish_without_body()

    def on_body(self, piece: bytes) -> None:
        self._body_left -= len(piece)
        if self.ended.done():  # such as a body after the response to HEAD
            self.leaves_open = False
        elif self._body_left < 0:
            self._finish_without_body()
        else:
            self._body.append(piece)

    def on_message_complete(self) -> None:
        if not self._in_body:  # an interim response
            self._headers.clear()
        elif not self.ended.done():
            self.leaves_open = self._parser.should_keep_alive()
            self._finish()

    def end_at_eof(self) -> None:
        """End a response whose body has no announced length."""
        if self._in_body and self._headers.keys().isdisjoint(
            ("content-length", "transfer-encoding")
        ):
            self._finish()

    def fail(self, error: BaseException) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)

    def _finish(self) -> None:
        if not self.ended.done():
            status = self._parser.get_status_code()
            self.ended.set_result(Answer(status, self._headers, b"".join(self._body)))

    def _finish_without_body(self) -> None:
        """End a response that is too large. A refusal is recognized by its status alone."""
        self._body.clear()
        if self._parser.get_status_code() in SUCCESSES and self._most_bytes == LARGEST_ANSWER_BYTES:
            self.fail(self._name_limit("response", self._most_bytes))
        else:
            self._finish()

    def _name_limit(self, what: str, limit: int) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._request.name}: the {what} is larger than {limit} bytes",
            status=self._parser.get_status_code() or None,
        )


def write_head(request: SignedRequest, target: str) -> bytes:
    """Return the request line and the fields. Raises RequestRefused if a field has a line break."""
    fields: Mapping[str, str] = request.headers
    if request.body is None and request.method in ("PUT", "POST"):
        fields = {**fields, "Content-Length": "0"}
    lines = [f"{name}: {value}\r\n" for name, value in fields.items()]
    head = f"{request.method} {target} HTTP/1.1\r\n{''.join(lines)}\r\n"
    if head.count("\n") != len(lines) + 2 or head.count("\r") != len(lines) + 2:
        raise RequestRefused(f"{request.name}: a field contains a line break")
    return head.encode("latin-1")
