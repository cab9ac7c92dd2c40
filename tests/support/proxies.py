"""A proxy to a real server that fails on demand, and a store that gives a single response."""

import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

PIECE = 64 * 1024
REMEMBERED = 4096
JOIN_SECONDS = 10
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class FaultyProxy:
    """A proxy that passes bytes on in both directions, and fails on demand.

    A change takes effect at once, on open connections as well. It can come at any moment, so each
    use reads the setting only once.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._clients: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._flowing = threading.Event()
        self._answering = threading.Event()
        self.address: tuple[str, int] = self._listener.getsockname()
        self.endpoint = f"http://127.0.0.1:{self.address[1]}"
        self.connections = 0
        self.requests = bytearray()
        """All bytes that came from clients."""
        self.silenced = threading.Event()
        """An event that is set when the request arrives after which no response is passed on."""
        self.held = threading.Event()
        """An event that is set when a request was held back."""
        self.prefix = b""
        """The beginning of every path, which is removed before the server gets the request.

        A request's first line must come in one piece.
        """
        self.restore()

    def restore(self) -> None:
        """Remove all faults. What was held back is passed on."""
        self._refusing = False
        self._error: bytes | None = None
        self._marker: bytes | None = None
        self._answer_marker, self._answers_left = b"", 0
        self.cut_answers_after: int | None = None
        """The number of response bytes that a connection carries before it is closed."""
        self.silent = False
        """Whether requests are passed on and their responses are dropped."""
        self.silenced.clear()
        self.held.clear()
        self._flowing.set()
        self._answering.set()

    def cut(self) -> None:
        """Fail like a server that has died: end all connections, and close every new one."""
        self._refusing = True
        self._end_all()

    def lead_to(self, target: tuple[str, int]) -> None:
        """Pass new connections on to another server, and end those to the earlier one."""
        self._target = target
        self._end_all()

    def silence(self) -> None:
        """Fail like a network that drops all packets: connections stay, and carry nothing."""
        self._flowing.clear()

    def fail(self, error: bytes = UNAVAILABLE) -> None:
        """Fail like a proxy whose server is down: answer every request with `error`."""
        self._error = error
        self._end_all()

    def silence_after(self, marker: bytes) -> None:
        """Pass on requests up to and including the one with `marker`, and no response after it."""
        self._marker = marker

    def silence_after_answers(self, count: int, marker: bytes) -> None:
        """Pass everything on until `count` responses have held `marker`, and nothing after that.

        The marker is in lower case.
        """
        self._answer_marker, self._answers_left = marker, count

    def inject(self, answer: bytes) -> None:
        """Send bytes to every connected client, as if the server had sent them.

        The connections stay open.
        """
        with self._lock:
            for client in self._clients:
                client.sendall(answer)

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # the listener was closed
                return
            self.connections += 1
            if self._refusing:
                client.close()
            else:
                self._start(threading.Thread(target=self._serve, args=(client,), daemon=True))

    def _start(self, thread: threading.Thread) -> None:
        self._threads.append(thread)
        thread.start()

    def _serve(self, client: socket.socket) -> None:
        error = self._error
        if error is not None:
            with suppress(OSError):
                self.requests += client.recv(PIECE)
                client.sendall(error)
            end(client)
            return
        try:
            server = socket.create_connection(self._target)
        except OSError:
            end(client)
            return
        with self._lock:
            self._open |= {client, server}
            self._clients.add(client)
        if self._refusing:  # cut in the meantime
            self._end_all()
        self._start(threading.Thread(target=self._pass_answers, args=(server, client), daemon=True))
        self._pass_requests(client, server)
        with self._lock:
            self._open -= {client, server}
            self._clients.discard(client)

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        seen = b""
        with suppress(OSError):
            while piece := client.recv(PIECE):
                self.requests += piece
                if not self._flowing.is_set():
                    self.held.set()
                self._flowing.wait()
                seen, marker = seen[-REMEMBERED:] + piece, self._marker
                if marker and marker in seen:
                    self._answering.clear()
                    self.silenced.set()
                server.sendall(
                    piece.replace(b" " + self.prefix + b"/", b" /") if self.prefix else piece
                )
        end(server)
        end(client)

    def _pass_answers(self, server: socket.socket, client: socket.socket) -> None:
        passed = 0
        with suppress(OSError):
            while (left := self._most(passed)) and (piece := server.recv(left)):
                self._flowing.wait()
                self._answering.wait()
                passed += len(piece)
                if not self.silent:
                    client.sendall(piece)
                self._count_answer(piece)
        end(client)
        end(server)

    def _count_answer(self, piece: bytes) -> None:
        with self._lock:
            if self._answers_left and self._answer_marker in piece.lower():
                self._answers_left -= 1
                if not self._answers_left:
                    self._flowing.clear()
                    self.silenced.set()

    def _most(self, passed: int) -> int:
        most = self.cut_answers_after
        return PIECE if most is None else min(PIECE, max(0, most - passed))

    def _end_all(self) -> None:
        with self._lock:
            for each in self._open:
                end(each)

    def close(self) -> None:
        self._refusing = True
        end(self._listener)
        self._flowing.set()
        self._answering.set()
        self._end_all()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)


def end(each: socket.socket) -> None:
    """Close the socket, and wake a thread that waits for it."""
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


@contextmanager
def faulty_proxy(target: tuple[str, int]) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(target)
    accepting = threading.Thread(target=proxy.run)
    accepting.start()
    try:
        yield proxy
    finally:
        proxy.close()
        accepting.join()


@contextmanager
def faulty_way(url: str) -> Iterator[tuple[FaultyProxy, str]]:
    """Yield a proxy to the server that `url` names, and the URL that leads through the proxy."""
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    with faulty_proxy((parts.hostname or "", parts.port or 0)) as proxy:
        host = f"{proxy.address[0]}:{proxy.address[1]}"
        yield proxy, parts._replace(netloc=f"{user}@{host}" if user else host).geturl()


@dataclass
class Stub:
    """A store that answers every request alike."""

    endpoint: str
    requests: list[str] = field(default_factory=list)


@contextmanager
def stub_store(
    status: int,
    headers: Mapping[str, str],
    body: bytes = b"",
    *,
    certificate: ssl.SSLContext | None = None,
) -> Iterator[Stub]:
    """Yield a server that gives every request the same response, over TLS with a `certificate`."""

    class Answering(BaseHTTPRequestHandler):
        def answer(self) -> None:
            stub.requests.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815  # the parent's names

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answering)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients refuse TLS
    if certificate:
        server.socket = certificate.wrap_socket(server.socket, server_side=True)
    stub = Stub(f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
