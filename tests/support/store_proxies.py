"""A proxy to a store that counts PUT requests by part, and fails those for which a fault is
configured.
"""

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PIECE = 256 * 1024
RECEIVE_BUFFER_BYTES = 64 * 1024
STORE_SECONDS = 60
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>"


@dataclass
class Fault:
    """A fault of one request. With the defaults, the request is passed on."""

    cut_after: int | None = None
    """The number of body bytes that reach the store before both connections end."""
    answer: int | None = None
    """A status that the proxy answers itself. The store does not get the request."""
    delay_seconds: float = 0.0
    """The delay before the store gets the request."""
    pause_seconds: float = 0.0
    """The pause after each piece of the body, as on a slow line."""
    lose_answer: bool = False
    """Whether the store takes the request and the client gets no response."""
    spoil: bool = False
    """Whether one byte of the body is changed."""


@dataclass
class Seen:
    """One PUT request. `part` is None for a whole file.

    `answered` is when the store's response was passed on, on the clock of `time.monotonic()`.
    """

    part: int | None
    headers: dict[str, str]
    begun: float = field(default_factory=time.monotonic)
    status: int | None = None
    answered: float | None = None


class StoreProxy:
    """A proxy that applies one of `faults` to each request, in order, and then passes all on."""

    def __init__(self, endpoint: str) -> None:
        self.target = urlsplit(endpoint)
        self.endpoint = ""
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.passed = 0
        """The number of body bytes that were sent to the store."""
        self.passing: Callable[[int], None] = lambda _: None
        """A function that is called with this number, from the threads that pass bodies on."""
        self.changed = threading.Condition()

    def take(self, seen: Seen) -> Fault:
        with self.changed:
            self.seen.append(seen)
            self.changed.notify_all()
            return self.faults.pop(0) if self.faults else Fault()

    def count(self, size: int) -> None:
        with self.changed:
            self.passed += size
            self.changed.notify_all()
        self.passing(self.passed)

    def requests_of(self, part: int | None) -> list[Seen]:
        return [seen for seen in self.seen if seen.part == part]


class Cutting(Exception):
    """The end of both connections, on purpose."""


@contextmanager
def proxied_store(endpoint: str) -> Iterator[StoreProxy]:
    proxy = StoreProxy(endpoint)

    class Passing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            seen = Seen(
                int(query["partNumber"][0]) if "partNumber" in query else None,
                {k.lower(): v for k, v in self.headers.items()},
            )
            fault = proxy.take(seen)
            time.sleep(fault.delay_seconds)
            try:
                status, body = (fault.answer, SLOW_DOWN) if fault.answer else self.pass_on(fault)
            except (Cutting, OSError, http.client.HTTPException):
                self.close_connection = True
                return
            seen.status, seen.answered = status, time.monotonic()
            if fault.lose_answer:
                self.close_connection = True
                return
            if fault.answer:
                self.close_connection = True  # the body was not read
            with suppress(OSError):
                self.send_response_only(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def pass_on(self, fault: Fault) -> tuple[int, bytes]:
            store = http.client.HTTPConnection(
                proxy.target.hostname or "", proxy.target.port, timeout=STORE_SECONDS
            )
            try:
                store.putrequest("PUT", self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    store.putheader(name, value)
                store.endheaders()
                self.pass_body(store, fault)
                response = store.getresponse()
                return response.status, response.read()
            finally:
                store.close()

        def pass_body(self, store: http.client.HTTPConnection, fault: Fault) -> None:
            left, passed, taken = int(self.headers["Content-Length"]), 0, True
            while left:
                piece = self.rfile.read(min(PIECE, left))
                if not piece or (fault.cut_after is not None and passed >= fault.cut_after):
                    raise Cutting
                if fault.spoil and not passed:
                    piece = bytes([piece[0] ^ 1]) + piece[1:]
                try:
                    if taken:
                        store.send(piece)
                except OSError:
                    # The store has answered already. The client's body is read to its end anyway.
                    taken = False
                passed, left = passed + len(piece), left - len(piece)
                proxy.count(len(piece))
                time.sleep(fault.pause_seconds)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Passing)
    # With a small buffer, bytes that wait do so at the client.
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients are killed
    proxy.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
