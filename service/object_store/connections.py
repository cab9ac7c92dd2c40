"""Connections to the store that check the deadline before each request, and that can all be closed
at once.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import msgspec
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from service import clock
from service.object_store.errors import SentTooLate, StoreUnavailable
from service.object_store.messages import Deadline
from service.object_store.response_heads import StoreResponse


class Connections:
    """The set of open connections.

    Closing them releases the threads that wait on them. Threads can share the set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: WeakSet[HTTPConnection] = WeakSet()
        self._cut = False

    def add(self, connection: HTTPConnection) -> None:
        """Register a connection before a request is sent over it.

        Raises StoreUnavailable after `cut`.
        """
        with self._lock:
            if self._cut:
                raise StoreUnavailable("the connections to the store have been closed")
            self._open.add(connection)

    def cut(self) -> None:
        """Close all connections and allow no new ones.

        A thread that sends or waits on one gets an error at once.
        """
        with self._lock:
            self._cut = True
            sockets = [connection.sock for connection in self._open if connection.sock is not None]
        for one in sockets:
            with suppress(OSError):  # it was closed meanwhile
                socket.socket.shutdown(
                    one,
                    socket.SHUT_RDWR,
                    # Shut down below TLS: its own shutdown fails during a read by another thread.
                )


class Sending(msgspec.Struct, frozen=True):
    """The settings of a connection for the request that it carries."""

    deadline: Deadline
    connections: Connections


# urllib3 passes none of these settings to its connections. The variable is set in the thread that
# sends, so each request has its own value.
current_sending: ContextVar[Sending] = ContextVar("current_sending")


@contextmanager
def sending(deadline: Deadline, connections: Connections) -> Iterator[None]:
    """Apply `deadline` to each request that this thread sends in the block."""
    token = current_sending.set(Sending(deadline, connections))
    try:
        yield
    finally:
        current_sending.reset(token)


def check_not_late(deadline: Deadline) -> None:
    if deadline.send_before is not None and clock.read_seconds() >= deadline.send_before:
        raise SentTooLate("the time limit for sending the request has passed; nothing was sent")


def begin_sending(connection: HTTPConnection) -> None:
    """Check the deadline again, because connecting takes time, and set the socket's timeout.

    Otherwise urllib3 would apply the timeout for connecting to the sending of the body.
    """
    current = current_sending.get()
    check_not_late(current.deadline)
    current.connections.add(connection)
    if connection.sock is not None:
        connection.sock.settimeout(current.deadline.timeout_seconds)


class DeadlineConnection(HTTPConnection):
    """An HTTP connection that calls `begin_sending` before the first byte of each request."""

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
