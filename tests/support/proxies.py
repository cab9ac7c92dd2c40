"""A way to a real server that misbehaves when it is told to, and a store that gives a single answer."""

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
    """Passes bytes on in both directions. What it is told holds at once, for open connections too.

    Its threads read what they were told once for each use: it may be taken back at any moment.
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
        """All that came from clients."""
        self.silenced = threading.Event()
        """Set when the request came after which nothing is answered."""
        self.held = threading.Event()
        """Set when a request was swallowed."""
        self.prefix = b""
        """The beginning of every path, which the server does not get to see; a request's first line comes in one piece."""
        self.restore()

    def restore(self) -> None:
        """What was held up goes on."""
        self._refusing = False
        self._error: bytes | None = None
        self._marker: bytes | None = None
        self._answer_marker, self._answers_left = b"", 0
        self.cut_answers_after: int | None = None
        """Bytes of answers that a connection carries before it is closed."""
        self.silent = False
        """Requests go through, answers never come back."""
        self.silenced.clear()
        self.held.clear()
        self._flowing.set()
        self._answering.set()

    def cut(self) -> None:
        """Like a server that has died: connections end, and no new one lasts."""
        self._refusing = True
        self._end_all()

    def silence(self) -> None:
        """Like a network that swallows everything: connections stay, nothing passes."""
        self._flowing.clear()

    def fail(self, error: bytes = UNAVAILABLE) -> None:
        """Like a proxy whose server is away: `error` is the answer to whatever is asked."""
        self._error = error
        self._end_all()

    def silence_after(self, marker: bytes) -> None:
        """Pass requests on up to the one that holds `marker`, and that one; nothing is answered from then on."""
        self._marker = marker

    def silence_after_answers(self, count: int, marker: bytes) -> None:
        """Pass everything on until so many answers have held `marker` (in lower case); nothing passes from then on."""
        self._answer_marker, self._answers_left = marker, count

    def inject(self, answer: bytes) -> None:
        """Send bytes to every client that is connected, as if they came from the server. The connections stay open."""
        with self._lock:
            for client in self._clients:
                client.sendall(answer)

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
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
        if self._refusing:  # cut meanwhile
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
    """Also wakes a thread that waits on it."""
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
    """A way to the server that `url` names, and the URL that takes this way."""
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    with faulty_proxy((parts.hostname or "", parts.port or 0)) as proxy:
        host = f"{proxy.address[0]}:{proxy.address[1]}"
        yield proxy, parts._replace(netloc=f"{user}@{host}" if user else host).geturl()


@dataclass
class Stub:
    """Answers everything alike."""

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
    """A server that gives one answer to whatever it is asked, over TLS when it has a certificate."""

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
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a client that does not trust us is no news
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
