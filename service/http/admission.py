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
        self.members: set[Connection] = set()
        """All that are open and have not given way."""
        self.idle: dict[Connection, None] = {}
        self.heads: dict[Connection, int] = {}
        """Bytes of incomplete heads."""
        self.head_bytes = 0

    def admit(self, connection: Connection) -> bool:
        """Whether a new connection may stay, if need be in the place of those that have been idle longest."""
        self.members.add(connection)
        while self.is_full() and self.idle:
            self.end(next(iter(self.idle)))
        return not self.is_full()

    def is_full(self) -> bool:
        return len(self.members) > self.limits.connections

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

    def leave(self, connection: Connection) -> None:
        self.end_idle(connection)
        self.members.discard(connection)

    def end(self, connection: Connection) -> None:
        self.leave(connection)
        connection.give_way()
