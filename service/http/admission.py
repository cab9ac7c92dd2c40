"""How many connections are open, which of them are idle, and which of these give way to new ones.

Idle is a connection without a request under way: it waits for a head, or its request was answered. A request under way is never
ended for another connection's sake.
"""

from typing import Protocol

from service.http.limits import Limits


class Connection(Protocol):
    """What gives way."""

    def give_way(self) -> None:
        """Close at once."""


class Admission:
    """The connections of one server. Insertion order is the order in which they became idle."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.idle: dict[Connection, None] = {}
        self.heads: dict[Connection, int] = {}
        """Bytes of incomplete heads."""
        self.head_bytes = 0

    def make_room(self, open_connections: int) -> bool:
        """Whether one more fits, if need be in the place of the one that has been idle longest."""
        if open_connections <= self.limits.connections:
            return True
        oldest = next(iter(self.idle), None)
        if oldest is not None:
            self.end(oldest)
        return oldest is not None

    def begin_idle(self, connection: Connection) -> None:
        self.end_idle(connection)
        self.idle[connection] = None

    def end_idle(self, connection: Connection) -> None:
        self.idle.pop(connection, None)
        self.head_bytes -= self.heads.pop(connection, 0)

    def hold_head(self, connection: Connection, size: int) -> None:
        """Count an incomplete head. Above the limit of all, the one that has been held longest goes."""
        self.head_bytes += size - self.heads.get(connection, 0)
        self.heads[connection] = size
        while self.head_bytes > self.limits.incomplete_head_bytes:
            self.end(next(iter(self.heads)))

    def end(self, connection: Connection) -> None:
        self.end_idle(connection)
        connection.give_way()
