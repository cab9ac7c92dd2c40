"""Connections to the store that look at the clock before each request, and that can all be cut at once."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import msgspec
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from service.object_store.errors import SentTooLate, StoreUnavailable
from service.object_store.messages import Deadline
from service.object_store.response_heads import StoreResponse


class Connections:
    """All open connections, so that threads that wait at one can be released. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: WeakSet[HTTPConnection] = WeakSet()
        self._cut = False

    def add(self, connection: HTTPConnection) -> None:
        """Register a connection before a request goes over it. Raises StoreUnavailable after the cut."""
        with self._lock:
            if self._cut:
                raise StoreUnavailable("the way to the store was closed")
            self._open.add(connection)

    def cut(self) -> None:
        """End all connections for good: a thread that sends or waits over one of them gets an error now."""
        with self._lock:
            self._cut = True
            sockets = [connection.sock for connection in self._open if connection.sock is not None]
        for one in sockets:
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(
                    one, socket.SHUT_RDWR
                )  # below TLS, whose own shutdown another thread's read would trip over


class Sending(msgspec.Struct, frozen=True):
    """What a connection has to know of the request that it carries."""

    deadline: Deadline
    connections: Connections


# urllib3 hands nothing of this down to its connections. Set in the thread that sends, so requests never see each other's.
current_sending: ContextVar[Sending] = ContextVar("current_sending")


@contextmanager
def sending(deadline: Deadline, connections: Connections) -> Iterator[None]:
    """Have each request of this thread sent under `deadline` until the block ends."""
    token = current_sending.set(Sending(deadline, connections))
    try:
        yield
    finally:
        current_sending.reset(token)


def check_not_late(deadline: Deadline) -> None:
    if deadline.send_before is not None and time.monotonic() >= deadline.send_before:
        raise SentTooLate("the request's moment had passed before it was sent")


def begin_sending(connection: HTTPConnection) -> None:
    """Check the deadline again, because connecting takes time, and give the socket the time-out of the request.

    urllib3 would allow a whole body no longer than a connect.
    """
    current = current_sending.get()
    check_not_late(current.deadline)
    current.connections.add(connection)
    if connection.sock is not None:
        connection.sock.settimeout(current.deadline.timeout_seconds)


class DeadlineConnection(HTTPConnection):
    """A connection that calls `begin_sending` before the first byte of each request."""

    response_class = StoreResponse

    def connect(self) -> None:
        super().connect()
        begin_sending(self)

    def putrequest(self, *arguments: Any, **options: Any) -> None:
        begin_sending(self)
        super().putrequest(*arguments, **options)


class DeadlineTlsConnection(HTTPSConnection):
    response_class = StoreResponse

    def connect(self) -> None:
        super().connect()
        begin_sending(self)

    def putrequest(self, *arguments: Any, **options: Any) -> None:
        begin_sending(self)
        super().putrequest(*arguments, **options)


class DeadlinePool(HTTPConnectionPool):
    ConnectionCls = DeadlineConnection


class DeadlineTlsPool(HTTPSConnectionPool):
    ConnectionCls = DeadlineTlsConnection
