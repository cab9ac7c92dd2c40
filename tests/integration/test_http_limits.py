"""The limits and timers of the HTTP server, over real sockets.

The application only echoes requests, and the limits are fractions of a second.
"""

import asyncio
import contextlib
import dataclasses
import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from service.cli.api import Server, make_config
from service.embedded.processes import bound
from service.http.server.limits import LARGEST_HEAD_BYTES, LONGEST_UNREAD_BYTES, MOST_FIELDS, Limits
from tests.support.running import logging_as_before
from tests.support.servers import wait_until
from tests.support.wire import Ended, Wire

SHORT = 0.3
LONG = 60.0
LIMITS = Limits(
    connections=100,
    keep_alive_seconds=LONG,
    least_bytes_per_second=1000,
    head_seconds=LONG,
    drain_seconds=LONG,
    linger_seconds=LONG,
    flush_seconds=LONG,
)
GET = b"GET /echo HTTP/1.1\r\nHost: h\r\n\r\n"
END_SECONDS = 20


@dataclass
class Echo:
    """An application that answers with what it received.

    `/early` is answered before the body is read, and `/held` when the test allows it. `/large` is
    answered with 8 MiB in one message, and `/streamed` with 8 MiB in several messages.
    """

    allowed: threading.Event = field(default_factory=threading.Event)
    under_way: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        self.under_way += 1
        body = b"" if scope["path"] == "/early" else await read_all(receive)
        if scope["path"] == "/held":
            await asyncio.to_thread(self.allowed.wait, END_SECONDS)
        fields = {name.decode(): value.decode() for name, value in scope["headers"]}
        said = {
            "path": scope["path"],
            "version": scope["http_version"],
            "length": len(body),
            "fields": fields,
            "method": scope["method"],
        }
        text = (
            bytes(8 * 1024**2)
            if scope["path"] in ("/large", "/streamed")
            else json.dumps(said).encode()
        )
        names = [(name, value) for name, value in scope["headers"] if name == b"x-request-id"]
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"%d" % len(text)), *names],
            }
        )
        if scope["path"] == "/streamed":
            for start in range(0, len(text), 1024**2):
                await send(
                    {
                        "type": "http.response.body",
                        "body": text[start : start + 1024**2],
                        "more_body": True,
                    }
                )
            text = b""
        await send({"type": "http.response.body", "body": text, "more_body": False})
        self.under_way -= 1


async def answer_lifespan(receive: Any, send: Any) -> None:
    for event in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{event}"
        await send({"type": f"lifespan.{event}.complete"})


async def read_all(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


@dataclass(frozen=True)
class Running:
    """A running server and its application."""

    url: str
    echo: Echo
    server: Server

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    def connect(self) -> Wire:
        """Open a connection, and return when the server has accepted it."""
        before = self.connections
        wire = Wire(self.url)
        wait_until(lambda: self.connections != before)
        return wire


@contextlib.contextmanager
def serving(**changes: Any) -> Iterator[Running]:
    """Run a server with these limits. At the end, stop it and assert that no connection is left."""
    limits = dataclasses.replace(LIMITS, **changes)
    echo, listener = Echo(), bound("127.0.0.1", 0)
    server = Server(make_config(echo, limits, stop_seconds=5), None)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    with logging_as_before():
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", echo, server)
        finally:
            echo.allowed.set()
            server.should_exit = True
            thread.join(END_SECONDS)
            assert not thread.is_alive()
            assert not server.server_state.connections


def check_refused(wire: Wire, status: int, kind: str, method: str = "GET") -> None:
    """Assert that the next response is this problem, and that the connection ends after it."""
    answer = wire.read_answer(method)
    assert answer.status == status, answer
    assert answer.announces_close
    assert answer.find(b"content-type") == b"application/problem+json"
    if method != "HEAD":
        document = json.loads(answer.body)
        assert (document["type"], document["status"]) == (f"urn:assay:problem:{kind}", status)
    wire.check_closed()


# Deadlines of a head


def test_a_silent_connection_gets_408_and_ends() -> None:
    with serving(head_seconds=SHORT) as running, running.connect() as wire:
        check_refused(wire, 408, "head-timeout")


def test_a_head_has_one_deadline_even_if_bytes_keep_arriving() -> None:
    with serving(head_seconds=SHORT) as running, running.connect() as wire:
        sent = 0
        while not select.select([wire.socket], [], [], 0.02)[0]:
            assert wire.write(GET[sent : sent + 1])
            sent = min(sent + 1, len(GET) - 3)
        check_refused(wire, 408, "head-timeout")


def test_the_deadline_of_a_later_head_starts_with_its_first_byte() -> None:
    with serving(head_seconds=SHORT) as running, running.connect() as wire:
        wire.send(GET)
        assert wire.read_answer().status == 200
        begun = time.monotonic()
        wire.send(GET[:10])
        check_refused(wire, 408, "head-timeout")
        assert time.monotonic() - begun >= SHORT * 0.9


def test_an_idle_connection_is_closed_without_a_response() -> None:
    with serving(keep_alive_seconds=SHORT) as running, running.connect() as wire:
        wire.send(GET)
        assert wire.read_answer().status == 200
        wire.check_closed()


def test_the_server_sets_no_deadline_for_a_request_in_progress() -> None:
    with (
        serving(head_seconds=SHORT, keep_alive_seconds=SHORT, drain_seconds=SHORT) as running,
        running.connect() as wire,
    ):
        wire.send(b"POST /held HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n", b"he")
        # The deadline of this connection is later than the first connection's would be.
        with running.connect() as other:
            check_refused(other, 408, "head-timeout")
        wire.send(b"llo")
        running.echo.allowed.set()
        assert json.loads(wire.read_answer().body)["length"] == 5


def test_empty_lines_before_a_request_are_skipped_and_begin_no_head() -> None:
    """Skip empty lines before a request, as RFC 9112, section 2.2 recommends.

    A client that sends one after its body is idle, not slow.
    """
    with serving(head_seconds=SHORT) as running, running.connect() as wire:
        wire.send(GET + b"\r\n")
        assert wire.read_answer().status == 200
        with running.connect() as other:
            check_refused(other, 408, "head-timeout")
        wire.check_in_step()


# Number of connections


def test_the_connection_that_was_idle_longest_is_closed_first() -> None:
    with serving(connections=3) as running, contextlib.ExitStack() as stack:
        kept, fresh, partial = [stack.enter_context(running.connect()) for _ in range(3)]
        partial.send(GET[:10], b"")
        kept.send(GET)
        # From now on, this connection has been idle for a shorter time than the other two.
        assert kept.read_answer().status == 200
        newest = stack.enter_context(Wire(running.url))
        fresh.check_closed()
        newest.send(GET)
        assert newest.read_answer().status == 200
        last = stack.enter_context(Wire(running.url))
        partial.check_closed()
        last.send(GET)
        assert last.read_answer().status == 200
        kept.check_in_step()


def test_requests_in_progress_are_never_closed_for_new_connections() -> None:
    with serving(connections=2) as running, contextlib.ExitStack() as stack:
        held = [stack.enter_context(running.connect()) for _ in range(2)]
        for wire in held:
            wire.send(b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n")
        wait_until(lambda: running.echo.under_way == 2)
        # The refused clients keep their connections open for as long as they can.
        for _ in range(3):
            refused = stack.enter_context(Wire(running.url))
            refused.write(GET)
            answer = refused.read_answer()
            assert (answer.status, json.loads(answer.body)["type"]) == (
                503,
                "urn:assay:problem:too-many-connections",
            )
            assert answer.find(b"retry-after") == b"5"
        running.echo.allowed.set()
        assert [wire.read_answer().status for wire in held] == [200, 200]


def test_clients_that_do_not_read_their_responses_are_closed_for_new_ones() -> None:
    """Close stalled clients, which need no API key to occupy every connection permanently."""
    with serving(connections=2, stalled_seconds=SHORT) as running, contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(running.connect()) for _ in range(2)]
        for wire in stalled:
            wire.send(b"GET /streamed HTTP/1.1\r\nHost: h\r\n\r\n")
        admission = running.server.config.http.keywords[  # type: ignore[union-attr]  # a partial
            "admission"
        ]
        wait_until(lambda: len(admission.stalls) == 2)
        first_stalled_at = min(admission.stalls.values())
        wait_until(lambda: time.monotonic() - first_stalled_at > SHORT)
        newest = stack.enter_context(Wire(running.url))
        newest.send(GET)
        assert newest.read_answer().status == 200
        wait_until(lambda: len(admission.stalls) == 1)


def test_a_client_that_has_just_stopped_reading_is_not_closed() -> None:
    with serving(connections=1, stalled_seconds=LONG) as running, running.connect() as stalled:
        stalled.send(b"GET /streamed HTTP/1.1\r\nHost: h\r\n\r\n")
        admission = running.server.config.http.keywords[  # type: ignore[union-attr]  # a partial
            "admission"
        ]
        wait_until(lambda: len(admission.stalls) == 1)
        with Wire(running.url) as refused:
            refused.write(GET)
            assert refused.read_answer().status == 503
        assert len(stalled.read_answer().body) == 8 * 1024**2
        assert not admission.stalls


def test_incomplete_heads_share_a_bounded_memory() -> None:
    part = GET[:-2] + b"X-Long: " + b"a" * 50_000
    with serving(incomplete_head_bytes=5 * len(part)) as running, contextlib.ExitStack() as stack:
        wires = [stack.enter_context(running.connect()) for _ in range(6)]
        for wire in wires:
            wire.send(part, b"")
        wires[0].check_closed()
        for wire in wires[1:]:
            wire.send(b"\r\n\r\n")
            assert wire.read_answer().status == 200


# Size of a head


def make_head(size: int, *, fields: int = 1) -> bytes:
    """Return a request of exactly `size` bytes, with `fields` fields in addition to Host."""
    start = b"GET /echo HTTP/1.1\r\nHost: h\r\n" + b"a:b\r\n" * (fields - 1)
    return start + b"X-Long: " + b"a" * (size - len(start) - len(b"X-Long: \r\n\r\n")) + b"\r\n\r\n"


def test_a_head_of_64_kib_and_100_fields_is_accepted() -> None:
    with serving() as running, running.connect() as wire:
        wire.send(make_head(LARGEST_HEAD_BYTES, fields=MOST_FIELDS - 1))
        answer = wire.read_answer()
        assert (answer.status, set(json.loads(answer.body)["fields"])) == (
            200,
            {"host", "a", "x-long"},
        )
        wire.check_in_step()


@pytest.mark.parametrize("behind", [b"", b"x" * 200_000], ids=["alone", "with more behind it"])
@pytest.mark.parametrize(
    "text",
    [
        make_head(LARGEST_HEAD_BYTES + 1),
        make_head(1000, fields=MOST_FIELDS),
        b"GET /" + b"a" * LARGEST_HEAD_BYTES + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        GET[:-2] + b"a:b\r\n" * 1_000_000,
        GET[:-2] + b"X-Long: " + b"a" * 40 * 1024**2,
    ],
    ids=[
        "a byte too many",
        "a field too many",
        "a long request line",
        "a million fields",
        "40 MiB",
    ],
)
def test_a_larger_head_gets_431(text: bytes, behind: bytes) -> None:
    with serving(linger_seconds=SHORT) as running, running.connect() as wire:
        wire.write(text + behind)
        check_refused(wire, 431, "head-too-large")


def test_the_bytes_of_a_body_do_not_count_towards_the_head() -> None:
    body = b"a:b\n" * 40_000
    with serving() as running, running.connect() as wire:
        wire.send(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body + GET
        )
        assert json.loads(wire.read_answer().body)["length"] == len(body)
        assert wire.read_answer().status == 200


@pytest.mark.parametrize(
    "end", [b"a:b\r\n" * 200, b"X: " + b"a" * LARGEST_HEAD_BYTES + b"\r\n"], ids=["many", "large"]
)
def test_trailers_are_bounded_like_heads(end: bytes) -> None:
    with serving() as running, running.connect() as wire:
        wire.send(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
            + end
            + b"\r\n"
        )
        check_refused(wire, 431, "head-too-large")


# A body of many chunks


def test_a_body_in_chunks_of_one_byte_is_read_completely() -> None:
    with serving() as running, running.connect() as wire:
        wire.send(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"1\r\nx\r\n" * 100_000
            + b"0\r\n\r\n"
            + GET
        )
        assert json.loads(wire.read_answer().body)["length"] == 100_000
        assert wire.read_answer().status == 200
        wire.check_in_step()


# After a response


def test_a_short_unread_body_is_read_and_the_connection_is_kept() -> None:
    with serving() as running, running.connect() as wire:
        wire.send(
            b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % LONGEST_UNREAD_BYTES
        )
        answer = wire.read_answer()
        assert not answer.announces_close
        wire.send(b"x" * LONGEST_UNREAD_BYTES)
        wire.check_in_step()


@pytest.mark.parametrize(
    ("field", "framing"),
    [
        (b"Content-Length: %d" % (LONGEST_UNREAD_BYTES + 1), b""),
        (b"Transfer-Encoding: chunked", b"400000\r\n"),
    ],
    ids=["length", "chunked"],
)
def test_a_long_unread_body_ends_the_connection_after_the_response(
    field: bytes, framing: bytes
) -> None:
    with serving() as running, running.connect() as wire:
        wire.send(b"POST /early HTTP/1.1\r\nHost: h\r\n" + field + b"\r\n\r\n", b"")
        # The client reads the response only after it has sent everything. The first bytes may be
        # received before the response is sent.
        assert wire.write(framing + b"x" * 4 * 1024**2)
        answer = wire.read_answer()
        assert (answer.status, answer.announces_close) == (200, True)
        wire.check_closed()


@pytest.mark.parametrize("length", [1000, 10 * LONGEST_UNREAD_BYTES], ids=["stays", "ends"])
def test_a_slow_unread_body_does_not_occupy_the_connection(length: int) -> None:
    with serving(drain_seconds=SHORT) as running, running.connect() as wire:
        wire.send(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % length)
        assert wire.read_answer().status == 200
        wait_until(lambda: not running.connections)


def test_a_client_that_does_not_read_its_last_response_is_dropped() -> None:
    with serving(flush_seconds=SHORT) as running, running.connect() as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.send(b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        wait_until(lambda: not running.connections)


def test_a_client_that_reads_no_response_is_dropped_after_its_idle_time() -> None:
    with serving(keep_alive_seconds=SHORT) as running, running.connect() as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        wait_until(lambda: not running.connections)


# What the application sees


def test_the_authority_of_an_absolute_target_replaces_host() -> None:
    """Prefer the authority in the target to Host, as RFC 9112, section 3.2.2 requires."""
    with serving() as running, running.connect() as wire:
        wire.send(b"GET http://one.example:8080/echo?a=b HTTP/1.1\r\nHost: two.example\r\n\r\n")
        said = json.loads(wire.read_answer().body)
        assert (said["path"], said["fields"]["host"]) == ("/echo", "one.example:8080")


def test_upgrade_is_an_ordinary_request_with_its_body() -> None:
    """Ignore the Upgrade field, as RFC 9110, section 7.8 permits."""
    with serving() as running, running.connect() as wire:
        more = (
            b"Connection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
        )
        wire.send(
            b"POST /echo HTTP/1.1\r\nHost: h\r\n" + more + b"Content-Length: %d\r\n\r\n" % len(GET),
            GET,
        )
        assert json.loads(wire.read_answer().body)["length"] == len(GET)
        wire.check_in_step()


def test_a_disconnect_after_an_upgrade_request_is_noticed() -> None:
    with serving() as running, running.connect() as wire:
        wire.send(
            b"GET /held HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        wait_until(lambda: running.echo.under_way == 1)
        wire.socket.close()
        wait_until(lambda: not running.connections)


def test_a_malformed_body_counts_as_a_disconnect() -> None:
    """Report a disconnect to the application, because its own response would be a second one."""
    with serving() as running, running.connect() as wire:
        wire.send(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"nonsense\r\n",
        )
        check_refused(wire, 400, "malformed-request")
        wait_until(lambda: running.echo.under_way == 0)


def test_a_refusal_of_a_head_request_has_no_body() -> None:
    with serving() as running, running.connect() as wire:
        wire.send(b"HEAD /echo HTTP/1.1\r\n\r\n")
        check_refused(wire, 400, "invalid-host", method="HEAD")


def test_a_refusal_is_logged_without_the_requests_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as running, running.connect() as wire:
        wire.send(
            b"GET /secret-path HTTP/1.1\r\n"
            b"Host: secret@host\r\nAuthorization: Bearer secret\r\n\r\n"
        )
        check_refused(wire, 400, "invalid-host")
    said = capsys.readouterr()
    assert "secret" not in said.out + said.err


# Stopping the server


def test_a_stop_ends_idle_connections_and_answers_running_requests() -> None:
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(serving())
        idle, refused, held = [stack.enter_context(running.connect()) for _ in range(3)]
        refused.send(b"nonsense\r\n\r\n")
        assert refused.read_answer().status == 400
        held.send(b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n")
        wait_until(lambda: running.echo.under_way == 1)
        running.server.should_exit = True
        idle.check_closed()
        refused.check_closed()
        running.echo.allowed.set()
        assert held.read_answer().status == 200
        with pytest.raises(Ended):
            held.read_answer()
