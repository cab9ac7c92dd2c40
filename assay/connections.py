"""urllib3's connections, with one thing changed: the time-out is one of silence.

`socket.sendall` gives a whole piece that long, so that a megabyte on a slow line would count as a dead one; and when the last piece was
handed over, megabytes of it may still wait in the kernel: the answer can't come before they are gone. This is the only module that
imports urllib3 at once: it is imported itself when the first request is sent.
"""

import socket
import struct
from collections.abc import Iterable
from typing import Any, Final

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import HTTPResponse
from urllib3.util import wait_for_read

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ
except ImportError:  # Windows
    ioctl = None  # type: ignore[assignment]

PIECE: Final = 1024 * 1024


class Patient(HTTPConnection):
    """To a server without TLS."""

    def send(self, data: Any) -> None:
        send_pieces(self, data)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3's own
        wait_until_sent(self)
        return super().getresponse()


class PatientTls(HTTPSConnection):
    """To a server with TLS."""

    def send(self, data: Any) -> None:
        send_pieces(self, data)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3's own
        wait_until_sent(self)
        return super().getresponse()


class Pool(HTTPConnectionPool):
    ConnectionCls = Patient


class TlsPool(HTTPSConnectionPool):
    ConnectionCls = PatientTls


def send_pieces(connection: HTTPConnection, data: bytes | memoryview | Iterable[bytes]) -> None:
    """What http.client sends in one go, as often as it needs to be said: each time the server has the whole time-out to take some."""
    if not isinstance(data, bytes | memoryview):
        raise TypeError(f"expected bytes, not {type(data).__name__}")
    if connection.sock is None:
        connection.connect()
    assert connection.sock is not None  # noqa: S101  # connect sets it or raises
    view = memoryview(data).cast("B")
    while view:
        view = view[connection.sock.send(view) :]


def wait_until_sent(connection: HTTPConnection) -> None:
    """As long as the server takes what waits in the kernel, or until it answers. A time-out's length without any: it is silent."""
    seconds = connection.timeout if isinstance(connection.timeout, int | float) else None
    if connection.sock is None or seconds is None:
        return
    left = count_unsent(connection.sock)
    while left and not wait_for_read(connection.sock, seconds):
        before, left = left, count_unsent(connection.sock)
        if left >= before:
            return


def count_unsent(sock: socket.socket) -> int:
    """Bytes that the other side has not confirmed; 0 where the system does not say."""
    if ioctl is None:
        return 0
    try:
        return struct.unpack("i", ioctl(sock.fileno(), TIOCOUTQ, bytes(4)))[0]  # type: ignore[no-any-return]  # an int
    except OSError:
        return 0


def make_pools(*, connections: int) -> PoolManager:
    """For both schemes; what may be sent again, and where, is not urllib3's to know."""
    pools = PoolManager(maxsize=connections, blocksize=PIECE, retries=False, block=False)
    pools.pool_classes_by_scheme = {"http": Pool, "https": TlsPool}
    return pools
