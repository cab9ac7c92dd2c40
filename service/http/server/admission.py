"""Admission of connections: how many are open, and which are closed to make room for new ones.

A connection is idle if no request is in progress: it waits for a head, or its request was answered.
It is stalled if its client has not read any of the response for `stalled_seconds`. Idle connections
are closed first, then stalled ones. No other connection with a request in progress is closed to
make room.
"""

from typing import Protocol

from service.http.server.limits import Limits


class Connection(Protocol):
    """A connection that can be closed to make room for another."""

    def give_way(self) -> None:
        """Close at once."""


class Admission:
    """The connections of one server.

    `idle` and `stalls` keep the order in which connections were
    added to them.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.members: set[Connection] = set()
        """Open connections that have not been closed to make room."""
        self.idle: dict[Connection, None] = {}
        self.stalls: dict[Connection, float] = {}
        """Times at which clients stopped reading, in ascending order."""
        self.heads: dict[Connection, int] = {}
        """Size in bytes of each incomplete head."""
        self.head_bytes = 0

    def admit(self, connection: Connection, *, now: float) -> bool:
        """Return whether a new connection may stay.

        If the server is full, the connections that have been idle or stalled longest are closed
        first.
        """
        self.members.add(connection)
        while self.is_full() and (oldest := next(iter(self.idle), None) or self.find_stalled(now)):
            self.end(oldest)
        return not self.is_full()

    def find_stalled(self, now: float) -> Connection | None:
        connection, since = next(iter(self.stalls.items()), (None, now))
        return connection if now - since >= self.limits.stalled_seconds else None

    def begin_stall(self, connection: Connection, *, now: float) -> None:
        self.stalls[connection] = now

    def end_stall(self, connection: Connection) -> None:
        self.stalls.pop(connection, None)

    def is_full(self) -> bool:
        return len(self.members) > self.limits.connections

    def begin_idle(self, connection: Connection) -> None:
        self.end_idle(connection)
        self.idle[connection] = None

    def end_idle(self, connection: Connection) -> None:
        self.idle.pop(connection, None)
        self.head_bytes -= self.heads.pop(connection, 0)

    def hold_head(self, connection: Connection, size: int) -> None:
        """Count an incomplete head.

        Above the limit for all heads, close the connection that has held one longest.
        """
        self.head_bytes += size - self.heads.get(connection, 0)
        self.heads[connection] = size
        while self.head_bytes > self.limits.incomplete_head_bytes:
            self.end(next(iter(self.heads)))

    def leave(self, connection: Connection) -> None:
        self.end_idle(connection)
        self.end_stall(connection)
        self.members.discard(connection)

    def end(self, connection: Connection) -> None:
        self.leave(connection)
        connection.give_way()
