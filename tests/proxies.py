"""Stores that misbehave: a way to a real one that cuts answers short or keeps silent, and one that gives a single answer."""

import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

PIECE = 64 * 1024


class FaultyProxy:
    """Passes bytes on until told otherwise. The faults hold for connections that are made after they were set."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut_answers_after: int | None = None
        """Bytes of answers that a connection still carries before it is closed."""
        self.silent = False
        """Requests go through, answers never come back."""
        self.connections = 0
        self.requests = b""
        """All that came from clients."""

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            self.connections += 1
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            self._start(self._pass_requests, client, server)
            self._start(self._pass_answers, server, client)

    def _start(self, function: object, *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments)  # type: ignore[arg-type] # one of the two below
        self._threads.append(thread)
        thread.start()

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while piece := client.recv(PIECE):
                self.requests += piece
                server.sendall(piece)
        close(server)

    def _pass_answers(self, server: socket.socket, client: socket.socket) -> None:
        left, silent = self.cut_answers_after, self.silent
        with suppress(OSError):
            while (left is None or left > 0) and (piece := server.recv(PIECE if left is None else min(left, PIECE))):
                left = None if left is None else left - len(piece)
                if not silent:
                    client.sendall(piece)
        close(client)

    def close(self) -> None:
        close(self._listener)
        for each in self._sockets:
            close(each)
        for thread in self._threads:
            thread.join()


def close(each: socket.socket) -> None:
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


@dataclass
class Stub:
    """Answers everything alike."""

    endpoint: str
    requests: list[str] = field(default_factory=list)


@contextmanager
def stub_store(status: int, headers: Mapping[str, str], body: bytes = b"", *, certificate: ssl.SSLContext | None = None) -> Iterator[Stub]:
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

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - the parent's names

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
