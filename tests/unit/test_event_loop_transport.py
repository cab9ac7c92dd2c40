"""The transport for event loops: what is repeated, what is refused, and when a connection ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from service import clock
from service.object_store import RequestRefused, SentTooLate, StoreUnavailable
from service.object_store import event_loop as module
from service.object_store.event_loop import EventLoopTransport
from service.object_store.messages import Answer, Deadline, SignedRequest
from service.object_store.response_heads import LARGEST_HEAD_BYTES
from tests.support.proxies import stub_store
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

SOON = Deadline(30)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """A server that gives the responses in order. None closes the connection instead."""

    def __init__(self, responses: list[bytes | None]) -> None:
        self.responses = responses
        self.requests: list[bytes] = []
        self.connections = 0
        self.ended = 0
        self.origin = ""
        self.closes = False
        """Whether the server closes a connection after its last response."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while self.responses:
                self.requests.append(await read_request(reader))
                response = self.responses.pop(0)
                if response is None:
                    break
                writer.write(response)
                await writer.drain()
            else:
                if not self.closes:
                    await reader.read()
        self.ended += 1
        writer.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")]
    return head + await reader.readexactly(int(lengths[0].split()[1]) if lengths else 0)


@contextlib.asynccontextmanager
async def serving(*responses: bytes | None) -> AsyncIterator[tuple[Server, EventLoopTransport]]:
    server = Server([*responses])
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    server.origin = f"http://127.0.0.1:{port}"
    transport = EventLoopTransport(server.origin)
    try:
        yield server, transport
    finally:
        transport.cut()
        listener.close()
        await until(lambda: server.ended == server.connections)


def request(
    server: Server, method: str = "GET", *, body: bytes | None = None, **headers: str
) -> SignedRequest:
    if body is not None:
        headers["Content-Length"] = str(len(body))
    return SignedRequest(f"{method} /b/k", method, f"{server.origin}/b/k?a=b", headers, body)


async def send(
    server: Server, transport: EventLoopTransport, method: str = "GET", body: bytes | None = None
) -> Answer:
    return await transport.send(request(server, method, body=body), SOON)


async def test_requests_follow_each_other_over_one_connection() -> None:
    async with serving(OK, OK, OK) as (server, transport):
        for method, body in (("GET", None), ("PUT", b"bytes"), ("PUT", None)):
            assert (await send(server, transport, method, body)).body == b"ok"
        assert server.connections == 1
        assert server.requests == [
            b"GET /b/k?a=b HTTP/1.1\r\n\r\n",
            b"PUT /b/k?a=b HTTP/1.1\r\nContent-Length: 5\r\n\r\nbytes",
            b"PUT /b/k?a=b HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        ]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b""),
    ],
    ids=["chunked", "after an interim response", "204", "a refusal"],
)
async def test_the_connection_is_kept_after_a_whole_response(
    response: bytes, expected: bytes
) -> None:
    async with serving(response, OK) as (server, transport):
        assert (await send(server, transport)).body == expected
        assert (await send(server, transport)).body == b"ok"
        assert server.connections == 1


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["Connection: close", "HTTP/1.0"],
)
async def test_the_connection_is_closed_if_the_store_wants_it(response: bytes) -> None:
    async with serving(response, OK) as (server, transport):
        for _ in range(2):
            assert (await send(server, transport)).body == b"ok"
        assert server.connections == 2


async def test_a_response_to_head_has_no_body() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nETag: e\r\n\r\n"
    async with serving(head, OK) as (server, transport):
        answer = await send(server, transport, "HEAD")
        assert (answer.status, dict(answer.headers), answer.body) == (
            200,
            {"content-length": "9", "etag": "e"},
            b"",
        )
        assert (await send(server, transport)).body == b"ok"


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\n\r\nall of it") as (server, transport):
        server.closes = True
        assert (await send(server, transport)).body == b"all of it"
        assert server.connections == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_read_is_repeated_once_after_a_lost_connection(method: str) -> None:
    async with serving(None, b"HTTP/1.1 204 No Content\r\n\r\n") as (server, transport):
        assert (await send(server, transport, method)).status == 204
        assert len(server.requests) == 2
    async with serving(None, None, OK) as (server, transport):
        with pytest.raises(StoreUnavailable):
            await send(server, transport, method)
        assert len(server.requests) == 2


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("kept", [False, True], ids=["new connection", "kept connection"])
async def test_a_write_is_never_repeated(method: str, *, kept: bool) -> None:
    async with serving(*([OK] if kept else []), None, OK) as (server, transport):
        if kept:
            await send(server, transport)
        with pytest.raises(StoreUnavailable):
            await send(server, transport, method, b"bytes")
        assert len([one for one in server.requests if b"bytes" in one]) == 1


@pytest.mark.parametrize(
    "response",
    [
        b"no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_a_malformed_response_makes_the_store_unavailable(response: bytes) -> None:
    async with serving(response, OK) as (server, transport):
        with pytest.raises(StoreUnavailable):
            await send(server, transport, "PUT", b"bytes")
        assert (await send(server, transport)).body == b"ok"
        assert server.connections == 2


async def test_a_truncated_body_is_no_response() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok") as (server, transport):
        server.closes = True
        with pytest.raises(StoreUnavailable):
            await send(server, transport, "PUT", b"bytes")


@pytest.mark.parametrize("more", [OK, b"no HTTP", b"\x00"])
async def test_bytes_after_a_response_end_the_connection(more: bytes) -> None:
    async with serving(OK + more, OK) as (server, transport):
        assert (await send(server, transport)).body == b"ok"
        assert (await send(server, transport)).body == b"ok"
        assert server.connections == 2


@pytest.mark.parametrize("number", [8_000, 60_000], ids=["many fields", "too many fields"])
async def test_the_head_of_a_response_is_bounded(number: int) -> None:
    fields = b"".join(b"x-amz-meta-%05d: v\r\n" % one for one in range(number))
    head = b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 2\r\n\r\nok"
    async with serving(head) as (server, transport):
        if len(head) > LARGEST_HEAD_BYTES:
            with pytest.raises(StoreUnavailable, match="head is larger than"):
                await send(server, transport)
        else:
            answer = await send(server, transport)
            assert (dict(answer.headers), answer.body) == ({"content-length": "2"}, b"ok")


async def test_a_longer_object_is_not_read() -> None:
    async with serving(OK, OK) as (server, transport):
        short = await transport.send(request(server), SOON, most_bytes=1)
        assert (short.status, short.headers["content-length"], short.body) == (200, "2", b"")
        whole = await transport.send(request(server), SOON, most_bytes=2)
        assert whole.body == b"ok"
        assert server.connections == 2


@pytest.mark.parametrize("status", [200, 503])
async def test_a_response_without_a_length_is_bounded(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_ANSWER_BYTES", 10)
    chunked = b"HTTP/1.1 %d S\r\nTransfer-Encoding: chunked\r\n\r\n1f\r\n%s\r\n" % (
        status,
        b"x" * 31,
    )
    async with serving(chunked) as (server, transport):
        sending = transport.send(request(server), SOON, most_bytes=10)
        if status == 200:
            with pytest.raises(StoreUnavailable, match="larger than 10 bytes"):
                await sending
        else:
            assert await sending == Answer(503, {"transfer-encoding": "chunked"}, b"")


async def test_a_store_that_does_not_answer_is_unavailable() -> None:
    async with serving(b"", b"") as (server, transport):
        with pytest.raises(StoreUnavailable, match="TimeoutError"):
            await transport.send(request(server), Deadline(0.05))
        assert len(server.requests) == 1


async def test_no_request_is_sent_after_its_deadline() -> None:
    async with serving(OK) as (server, transport):
        with pytest.raises(SentTooLate):
            await transport.send(request(server), Deadline(30, clock.read_seconds() - 1))
        assert server.connections == 0


async def test_the_deadline_counts_while_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(OK) as (server, transport):
        take = transport._take

        async def take_slowly(*arguments: object) -> object:
            connection = await take(*arguments)  # type: ignore[arg-type]  # passed on
            await until(lambda: clock.read_seconds() > send_before)
            return connection

        monkeypatch.setattr(transport, "_take", take_slowly)
        send_before = clock.read_seconds() + 0.2
        with pytest.raises(SentTooLate):
            await transport.send(request(server, "PUT", body=b"b"), Deadline(30, send_before))
        assert server.requests == []


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb"])
async def test_a_field_with_a_line_break_is_refused(value: str) -> None:
    async with serving(OK) as (server, transport):
        with pytest.raises(RequestRefused):
            await transport.send(request(server, name=value), SOON)
        assert server.connections == 0


async def test_an_idle_connection_keeps_no_bytes() -> None:
    async with serving(OK) as (server, transport):
        await send(server, transport, "PUT", b"bytes")
        [pool] = transport._pools.values()
        assert [connection._response for connection in pool.idle] == [None]


async def test_an_upgrade_makes_the_store_unavailable() -> None:
    switching = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    async with serving(switching, switching) as (server, transport):
        with pytest.raises(StoreUnavailable):
            await send(server, transport)


async def test_the_number_of_connections_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS_KEPT", 2)
    async with serving(*[OK] * 8) as (server, transport):
        answers = await asyncio.gather(*(send(server, transport) for _ in range(8)))
        assert {answer.body for answer in answers} == {b"ok"}
        assert server.connections == 2


async def test_a_cancelled_request_ends_its_connection() -> None:
    async with serving(b"", OK) as (server, transport):
        sending = asyncio.create_task(send(server, transport, "PUT", b"bytes"))
        await until(lambda: len(server.requests) == 1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await until(lambda: server.ended == 1)
        assert (await send(server, transport)).body == b"ok"


async def lose_new_connection() -> None:
    """Send a PUT over a connection that is lost when it has just been made."""
    async with serving(OK) as (server, transport):
        connect = transport._connect

        async def lose(*arguments: Any) -> Any:
            connection = await connect(*arguments)
            connection.transport.abort()
            [pool] = transport._pools.values()
            await until(lambda: not pool.open)
            return connection

        transport._connect = lose  # type: ignore[method-assign,assignment]  # and a loss
        with pytest.raises(StoreUnavailable, match="Disconnected"):
            await send(server, transport, "PUT", b"bytes")
        assert server.requests == []


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_connection_that_is_lost_at_once_makes_the_store_unavailable(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    run(lose_new_connection())


async def test_a_store_that_refuses_connections_is_unavailable() -> None:
    async with serving() as (server, transport):
        server.origin = "http://127.0.0.1:1"
        refused = EventLoopTransport(server.origin)
        with pytest.raises(StoreUnavailable):
            await send(server, refused)
        transport.cut()
        with pytest.raises(StoreUnavailable, match="closed"):
            await send(server, transport)


def test_connections_end_with_their_event_loop() -> None:
    # A connection that is left open would be a ResourceWarning, which is an error under pytest.
    with stub_store(200, {"Content-Length": "2"}, b"ok") as stub:
        transport = EventLoopTransport(stub.endpoint)
        url = f"{stub.endpoint}/b/k"

        async def exchange() -> None:
            answer = await transport.send(SignedRequest("GET /b/k", "GET", url), SOON)
            assert answer.body == b"ok"
            assert len(transport._pools) == 1

        asyncio.run(exchange())
        assert transport._pools == {}


def test_event_loops_share_a_transport() -> None:
    with asyncio.Runner() as one, asyncio.Runner() as two:
        transport = EventLoopTransport("http://127.0.0.1:1")
        for runner in (one, two, one):
            with pytest.raises(StoreUnavailable):
                runner.run(transport.send(SignedRequest("GET", "GET", "http://127.0.0.1:1/"), SOON))
        assert len(transport._pools) == 2
    assert transport._pools == {}
