"""A way to the store that understands its requests: counts them by part, and cuts, delays, spoils or answers the ones it is told to."""

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
    """What happens to one request; nothing, when nothing is set."""

    cut_after: int | None = None
    """Bytes of its body that reach the store before both connections end."""
    answer: int | None = None
    """This status, from us: the store never sees the request."""
    delay_seconds: float = 0.0
    """Before the store sees it."""
    pause_seconds: float = 0.0
    """After each piece: a slow line."""
    lose_answer: bool = False
    """The store takes it, the client never hears of it."""
    spoil: bool = False
    """One byte of the body is another."""


@dataclass
class Seen:
    """One PUT. `part` is None for a whole file; `answered` is when the store's answer went back, by time.monotonic()."""

    part: int | None
    headers: dict[str, str]
    begun: float = field(default_factory=time.monotonic)
    status: int | None = None
    answered: float | None = None


class StoreProxy:
    """`faults` are taken one a request, in the order in which requests come; afterwards all is passed on."""

    def __init__(self, endpoint: str) -> None:
        self.target = urlsplit(endpoint)
        self.endpoint = ""
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.passed = 0
        """Bytes of bodies that went to the store."""
        self.passing: Callable[[int], None] = lambda _: None
        """Called with the sum of them, from the threads that pass them on."""
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
    """Both connections end here."""


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
                    taken = False  # it has answered already; the client's side is read to its end all the same
                passed, left = passed + len(piece), left - len(piece)
                proxy.count(len(piece))
                time.sleep(fault.pause_seconds)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Passing)
    server.socket.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES
    )  # what waits, waits at the client
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that was killed is no news
    proxy.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
