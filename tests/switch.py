"""A way to a server, and the hand that cuts it: refused, silent, answered with errors, silent after a certain request, and whole again."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

PIECE = 64 * 1024
REMEMBERED = 4096


class Switch:
    """Passes bytes on in both directions. What it is told holds at once, for open connections too."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._flowing = threading.Event()
        self._answering = threading.Event()
        self._refusing = False
        self._error: bytes | None = None
        self._marker: bytes | None = None
        self.address: tuple[str, int] = self._listener.getsockname()
        self.silenced = threading.Event()
        """Set when the request came after which nothing is answered."""
        self.held = threading.Event()
        """Set when a request was swallowed."""
        self.restore()

    def restore(self) -> None:
        """What was held up goes on."""
        self._refusing, self._error, self._marker = False, None, None
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

    def fail(self, error: bytes) -> None:
        """Like a proxy whose server is away: `error` is the answer to whatever is asked."""
        self._error = error
        self._end_all()

    def silence_after(self, marker: bytes) -> None:
        """Pass requests on up to the one that holds `marker`, and that one; nothing is answered from then on."""
        self._marker = marker

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            if self._refusing:
                client.close()
            else:
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self._error is not None:
            with suppress(OSError):
                client.recv(PIECE)
                client.sendall(self._error)
            end(client)
            return
        try:
            server = socket.create_connection(self._target)
        except OSError:
            end(client)
            return
        with self._lock:
            self._open |= {client, server}
        answers = threading.Thread(target=self._pass, args=(server, client), kwargs={"answers": True}, daemon=True)
        answers.start()
        self._pass(client, server, answers=False)
        answers.join()
        with self._lock:
            self._open -= {client, server}

    def _pass(self, source: socket.socket, sink: socket.socket, *, answers: bool) -> None:
        seen = b""
        with suppress(OSError):
            while piece := source.recv(PIECE):
                if not self._flowing.is_set() and not answers:
                    self.held.set()
                self._flowing.wait()
                if answers:
                    self._answering.wait()
                elif self._marker:
                    seen = seen[-REMEMBERED:] + piece
                    self._listen_for(seen)
                sink.sendall(piece)
        end(sink)
        end(source)

    def _listen_for(self, seen: bytes) -> None:
        if self._marker and self._marker in seen:
            self._answering.clear()
            self.silenced.set()

    def _end_all(self) -> None:
        with self._lock:
            for each in self._open:
                end(each)

    def close(self) -> None:
        self._refusing = True
        end(self._listener)
        self._end_all()
        self._flowing.set()
        self._answering.set()


def end(each: socket.socket) -> None:
    """Also wakes a thread that waits on it."""
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


@contextmanager
def switch_to(url: str) -> Iterator[tuple[Switch, str]]:
    """A way to the server that `url` names, and the URL that takes this way."""
    parts = urlsplit(url)
    switch = Switch((parts.hostname or "", parts.port or 0))
    accepting = threading.Thread(target=switch.run)
    accepting.start()
    user = parts.netloc.rpartition("@")[0]
    host = f"{switch.address[0]}:{switch.address[1]}"
    try:
        yield switch, parts._replace(netloc=f"{user}@{host}" if user else host).geturl()
    finally:
        switch.close()
        accepting.join()
