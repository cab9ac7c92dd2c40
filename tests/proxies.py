"""A way to the store that misbehaves: cuts answers short, keeps silent, refuses."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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
