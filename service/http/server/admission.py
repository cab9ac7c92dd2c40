"""How many connections are open, which of them are idle or stalled, and which of these give way to new ones.

Idle is a connection without a request under way: it waits for a head, or its request was answered. Stalled is a connection whose
client has not taken the answer to its request for `stalled_seconds`. Idle ones give way first, then stalled ones. Any other request
under way is never ended for another connection's sake.
"""

from typing import Protocol

from service.http.server.limits import Limits


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
        self.stalls: dict[Connection, float] = {}
        """When the client stopped taking what was sent, in the order in which that happened."""
        self.heads: dict[Connection, int] = {}
        """Bytes of incomplete heads."""
        self.head_bytes = 0

    def admit(self, connection: Connection, *, now: float) -> bool:
        """Return whether a new connection may stay, if need be in the place of those that have been idle or stalled longest."""
        self.members.add(connection)
        while self.is_full() and (oldest := next(iter(self.idle), None) or self.find_stalled(now)):
            self.end(oldest)
        return not self.is_full()

    def find_stalled(self, now: float) -> Connection | None:
        connection, since = next(iter(self.stalls.items()), (None, now))
        return connection if now - since >= self.limits.stalled_seconds else None

    def begin_stall(self, connection: Connection, *, now: float) -> None:
        """The client does not take what is sent."""
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
        """Count an incomplete head. Above the limit of all, the one that has been held longest goes."""
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
