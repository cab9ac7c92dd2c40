"""The protocol of one connection: uvicorn's h11 protocol, with additional limits and checks.

A connection is in one of these phases. Each has at most one timer, and its description says what
happens when the time has passed.

1. The connection waits for a head. If the head is late, the response is 408. Between two requests,
   before the first byte of the next one, the connection is closed.
2. A request is in progress. There is no timer, because the application has limits of its own. If
   the client does not read the response and connections are scarce, the connection may be closed to
   make room for another (service/http/server/admission.py).
3. The request was answered, and the rest of its body is discarded (RFC 9112, section 9.3: the body
   ends before the next request begins). If the body comes more slowly than the lowest rate of a
   streamed upload, the connection is closed.
4. The connection lingers. A response that ends it was written, and input is discarded so that the
   client can read that response (RFC 9112, section 9.6). Then the connection is closed.

The parser is h11 and not httptools, because h11 finds the end of a request correctly
(docs/benchmarks.md, `python -m tests.benchmarks protocols`). A small request costs 0.16 ms more of
processor time (27 µs with httptools alone, 161 with h11, 191 here), so that a declaration takes 1.2
to 1.4 times as much. Receiving a GiB takes 0.67 s (0.63 with httptools, 0.93 with h11's own buffer,
which copies twice). A whole upload takes 1.05 times the processor time, and a whole download 1.11
times. httptools ends a request with Upgrade or CONNECT after its head and returns its body as the
next request. To correct that, a second parser would have to find the end of every head, including
pipelined ones.

Refusals at this level answer a head, or the framing of a body. If the failure is in the middle of a
body, the application sees a client that has disconnected. If its response has begun, the connection
is aborted instead.
"""

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import unquote

import h11
from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import CLOSE_HEADER, HIGH_WATER_LIMIT
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.http.server.admission import Admission
from service.http.server.limits import LARGEST_HEAD_BYTES, LONGEST_UNREAD_BYTES, Limits
from service.http.server.receive_buffer import BoundedBuffer, find_problem
from service.http.server.refusals import make_request_id, report_refusal, write_refusal
from service.http.server.targets import check_framing, check_version, read_target
from service.problems import HeadTimeout, Problem, TooManyConnections

EVENTS_AT_ONCE: Final = 256
"""The events of one connection that are handled before those of others. 256 KiB may hold 40,000
chunks of one byte.
"""
ENDED: Final = (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR)


class HttpProtocol(H11Protocol):
    """A connection of one server. All connections of the server share `limits` and `admission`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
        admission: Admission,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # uvicorn's access log would contain targets with their tokens. The application logs each
        # request (service/telemetry/logs.py).
        self.access_log = False
        self.limits = limits
        self.admission = admission
        self.conn = h11.Connection(h11.SERVER, LARGEST_HEAD_BYTES)
        self.buffer = BoundedBuffer()
        self.conn._receive_buffer = self.buffer  # h11 offers no other way to limit lines
        self.timer: asyncio.TimerHandle | None = None
        self.current: Cycle | None = None
        """Request in progress, which uvicorn calls `cycle`."""
        self.is_kept = False
        """True between two requests, before the first byte of the next one."""
        self.is_refused = False
        self.is_lingering = False
        self.discarded_bytes = 0

    # Phase 1: waiting for a head

    def connection_made(
        self,
        transport: asyncio.Transport,  # type: ignore[override]  # the type that uvicorn declares
    ) -> None:
        super().connection_made(transport)
        if not self.admission.admit(self, now=self.loop.time()):
            self.is_refused = True  # input that arrives until then is discarded
            self.loop.call_soon(
                self.refuse,
                TooManyConnections("the server has too many open connections; try again later"),
            )
            return
        self.admission.begin_idle(self)
        self.set_timer(self.limits.head_seconds, self.end_wait)

    def keep(self) -> None:
        self.conn.start_next_cycle()
        self.buffer.expects_head = True
        self.is_kept = True
        self.admission.begin_idle(self)
        self.set_timer(self.limits.keep_alive_seconds, self.give_way)

    def data_received(self, data: bytes) -> None:
        if self.is_refused or self.is_lingering or self.conn.their_state in ENDED:
            self.discard(data)
            return
        self.conn.receive_data(data)
        self.handle_events()

    def end_wait(self) -> None:
        self.refuse(
            HeadTimeout(
                f"the request's head was not complete after {self.limits.head_seconds:.0f} s"
            )
        )

    def note_head(self) -> None:
        if self.conn.their_state is not h11.IDLE or not self.buffer:
            return
        if self.is_kept:
            self.is_kept = False
            self.set_timer(self.limits.head_seconds, self.end_wait)
        self.admission.hold_head(self, len(self.buffer))

    # Phase 2: a request is in progress

    def handle_events(self) -> None:
        """Handle the input that has arrived, and let other connections proceed after EVENTS_AT_ONCE
        events.
        """
        try:
            for _ in range(EVENTS_AT_ONCE):
                event = self.conn.next_event()
                if event is h11.NEED_DATA:
                    self.note_head()
                    return
                if event is h11.PAUSED:
                    # a pipelined request, which waits until this one was answered
                    self.flow.pause_reading()
                    return
                self.handle_event(event)
                if self.conn.their_state in ENDED:
                    return
        except Problem as problem:
            self.refuse(problem)
        except h11.RemoteProtocolError as error:
            self.refuse(find_problem(error))
        else:
            self.flow.pause_reading()
            self.loop.call_soon(self.go_on)

    def go_on(self) -> None:
        if self.is_lingering or self.transport.is_closing():
            return
        if self.current is None or len(self.current.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()
        self.handle_events()

    def handle_event(self, event: object) -> None:
        if isinstance(event, h11.Request):
            self.begin_request(event)
        elif isinstance(event, h11.Data):
            self.take_body(event.data)
        elif isinstance(event, h11.EndOfMessage):
            self.end_body()

    def begin_request(self, request: h11.Request) -> None:
        check_version(request)
        check_framing(request)
        target, self.headers = read_target(request)
        self.buffer.expects_head = self.is_kept = False
        self.admission.end_idle(self)
        self.clear_timer()
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.0" if request.http_version == b"1.0" else "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": request.method.decode("ascii"),
            "root_path": self.root_path,
            "path": self.root_path + unquote(target.path.decode("ascii")),
            "raw_path": self.root_path.encode("ascii") + target.path,
            "query_string": target.query,
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        self.cycle = self.current = Cycle(
            scope=self.scope,
            conn=self.conn,
            transport=ResponseTransport(self),  # type: ignore[arg-type]  # all that a cycle uses
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            on_response=self.on_response_complete,
        )
        task = self.loop.create_task(self.cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def take_body(self, data: bytes | bytearray) -> None:
        if self.current is None:
            self.discard(data)
            return
        if self.current.body:
            self.current.body += data
        else:
            self.current.body = data if isinstance(data, bytearray) else bytearray(data)
        if len(self.current.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.current.message_event.set()

    def end_body(self) -> None:
        if self.current is None:
            self.keep()
            return
        self.current.more_body = False
        self.current.message_event.set()

    # Phase 3: the request was answered

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of this request's body."""
        self.server_state.total_requests += 1
        self.release_request()
        if self.is_lingering or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.conn.their_state is h11.DONE:
            self.keep()
            self.handle_events()
        else:
            self.admission.begin_idle(self)
            self.begin_window()

    def release_request(self) -> None:
        """Release the request's memory, because its head may have 64 KiB and the connection may
        stay idle.
        """
        self.current = self.cycle = None  # type: ignore[assignment]  # as uvicorn starts
        self.scope = self.headers = None  # type: ignore[assignment]  # as uvicorn starts

    def begin_window(self) -> None:
        self.discarded_bytes = 0
        self.set_timer(self.limits.drain_seconds, self.end_window)

    def end_window(self) -> None:
        if self.discarded_bytes < self.limits.least_bytes_per_second * self.limits.drain_seconds:
            self.transport.abort()
        else:
            self.begin_window()

    # Phase 4: lingering and closing

    def refuse(self, problem: Problem) -> None:
        """Send an error response to a request that cannot be passed to the application, and end the
        connection.
        """
        if self.transport.is_closing() or self.is_lingering:
            return
        if self.current is not None:
            self.current.disconnected = True
            self.current.message_event.set()
            if self.current.response_started:
                self.transport.abort()
                return
        request_id = make_request_id()
        self.transport.write(
            write_refusal(
                problem,
                fields=self.server_state.default_headers,
                request_id=request_id,
                without_body=self.buffer.method_is_head,
            )
        )
        report_refusal(problem, request_id)
        self.is_refused = True
        self.linger()
        self.set_timer(self.limits.linger_seconds, self.transport.abort)

    def close_answered(self) -> None:
        """Close after a response, or linger while the body of its request is still being sent.

        After an incomplete response, abort. Otherwise the rest of the buffer would still be sent,
        which may complete a body that the application has stopped (service/downloads/permits.py).
        """
        cycle = self.current
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.abort()
            return
        if self.conn.their_state is h11.SEND_BODY:
            self.linger()
            self.begin_window()
            return
        self.admission.begin_idle(self)
        self.transport.close()
        self.set_timer(self.limits.flush_seconds, self.transport.abort)

    def linger(self) -> None:
        if self.transport.is_closing():
            return
        self.is_lingering = True
        self.discarded_bytes = 0
        self.buffer.drop()
        self.admission.begin_idle(self)
        self.flow.resume_reading()
        self.transport.write_eof()

    def discard(self, data: bytes | bytearray) -> None:
        """Count discarded input.

        After a refusal, stop reading above the limit, so that TCP stops the client.
        """
        self.discarded_bytes += len(data)
        if self.is_refused and self.discarded_bytes > LONGEST_UNREAD_BYTES:
            self.flow.pause_reading()

    def give_way(self) -> None:
        """Close an idle or stalled connection without waiting for its client to read the rest."""
        self.buffer.drop()
        if (
            self.is_lingering
            or self.transport.is_closing()
            or self.transport.get_write_buffer_size()
        ):
            self.transport.abort()
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.admission.begin_stall(self, now=self.loop.time())

    def resume_writing(self) -> None:
        super().resume_writing()
        self.admission.end_stall(self)

    def shutdown(self) -> None:
        """Close when the request in progress was answered, or at once, because the server stops."""
        if self.is_lingering:
            self.transport.abort()
        elif self.current is None:
            self.transport.close()
        else:
            self.current.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.clear_timer()
        self.admission.leave(self)
        super().connection_lost(exc)

    def set_timer(self, seconds: float, then: Callable[[], None]) -> None:
        self.clear_timer()
        self.timer = self.loop.call_later(seconds, then)

    def clear_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class ResponseTransport:
    """The transport that a cycle writes to.

    Closing it closes the connection, after the client had time to read the response.
    """

    def __init__(self, connection: HttpProtocol) -> None:
        self.connection = connection
        self.write = connection.transport.write

    def is_closing(self) -> bool:
        return self.connection.is_lingering or self.connection.transport.is_closing()

    def close(self) -> None:
        if not self.is_closing():
            self.connection.close_answered()


class Cycle(RequestResponseCycle):
    """A request and its response."""

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the response.

        Its head announces the end of the connection if `leaves_body` requires it.
        """
        if message["type"] == "http.response.start" and self.leaves_body():
            message = {**message, "headers": [*message.get("headers", []), CLOSE_HEADER]}
        await super().send(message)

    def leaves_body(self) -> bool:
        """Return whether the connection must end because the rest of the request's body is not
        read.

        A client that still waits for 100 (Continue) may omit the body or send it anyway, so that
        the input after the response could be either (RFC 9110, section 10.1.1). A client that is
        told of the end may stop sending a long body (RFC 9112, section 9.6).
        """
        if not self.more_body:
            return False
        return (
            self.waiting_for_100_continue
            or find_length(self.scope["headers"]) > LONGEST_UNREAD_BYTES
        )


def find_length(fields: Iterable[tuple[bytes, bytes]]) -> float:
    """Return Content-Length, which h11 has checked, or infinity for a chunked body."""
    return next((int(value) for name, value in fields if name == b"content-length"), math.inf)
