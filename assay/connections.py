"""urllib3's connections with another timeout: it limits the time without progress.

With `socket.sendall`, the timeout would apply to a whole piece, so a megabyte on a slow line would
exceed it. After the last piece was handed over, megabytes may still wait in the kernel's buffer,
and the response cannot arrive before they have been sent.

This is the only module that imports urllib3 at its top level. It is itself imported when the first
request is sent.
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
    """A connection without TLS."""

    def send(self, data: Any) -> None:
        send_pieces(self, data)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3's own
        wait_until_sent(self)
        return super().getresponse()


class PatientTls(HTTPSConnection):
    """A connection with TLS."""

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
    """Send the data in as many calls as needed. Each call has the whole timeout to send some."""
    if not isinstance(data, bytes | memoryview):
        raise TypeError(f"expected bytes, not {type(data).__name__}")
    if connection.sock is None:
        connection.connect()
    assert connection.sock is not None  # noqa: S101  # connect sets it or raises
    view = memoryview(data).cast("B")
    while view:
        view = view[connection.sock.send(view) :]


def wait_until_sent(connection: HTTPConnection) -> None:
    """Wait until the kernel's send buffer is empty, or the server answers.

    Return early if the server confirms no bytes for the length of the timeout.
    """
    seconds = connection.timeout if isinstance(connection.timeout, int | float) else None
    if connection.sock is None or seconds is None:
        return
    left = count_unsent(connection.sock)
    while left and not wait_for_read(connection.sock, seconds):
        before, left = left, count_unsent(connection.sock)
        if left >= before:
            return


def count_unsent(sock: socket.socket) -> int:
    """Return the number of bytes that the peer has not confirmed, or 0 if it is not available."""
    if ioctl is None:
        return 0
    try:
        return struct.unpack(  # type: ignore[no-any-return]  # it is an int
            "i", ioctl(sock.fileno(), TIOCOUTQ, bytes(4))
        )[0]
    except OSError:
        return 0


def make_pools(*, connections: int) -> PoolManager:
    """Return connection pools for both schemes, without urllib3's own retries."""
    pools = PoolManager(maxsize=connections, blocksize=PIECE, retries=False, block=False)
    pools.pool_classes_by_scheme = {"http": Pool, "https": TlsPool}
    return pools
