"""The limits of the HTTP server. They apply before a request is authenticated."""

import sys
from dataclasses import dataclass
from typing import Final

from service.settings import Settings

LARGEST_HEAD_BYTES: Final = 64 * 1024
"""The limit for a request line and its header fields, and for the trailer
fields of a chunked body.
"""
MOST_FIELDS: Final = 100
LONGEST_CHUNK_LINE_BYTES: Final = 4 * 1024
"""The limit for a chunk's size and its extensions (RFC 9112, section 7.1.1, requires a limit)."""
MOST_CHUNK_DIGITS: Final = 15
"""The limit for the digits of a chunk's size, which then fits in 64 bits (RFC
9112, section 7.1).
"""
LONGEST_UNREAD_BYTES: Final = 256 * 1024
"""The limit for input that is read and discarded.

It applies to the rest of a request's body after an early response (a longer rest ends the
connection), and to the input after a refusal, which is discarded so that the client can read the
refusal (RFC 9112, section 9.6).
"""
SPARE_FILES: Final = 256
"""File descriptors for all other purposes: database, object store, logs."""


@dataclass(frozen=True)
class Limits:
    """The limits of one server. At most `connections` are open. Times are in seconds."""

    connections: int
    keep_alive_seconds: float
    """The longest time for which a connection may be idle between two requests."""
    least_bytes_per_second: int
    """The lowest rate of a body that is still being sent after its request was answered."""
    incomplete_head_bytes: int = 16 * 1024**2
    """The memory of all incomplete heads. Above it, the connection of the oldest one is closed."""
    head_seconds: float = 15.0
    """The time for a head, from the connection or from the first byte of a later request."""
    drain_seconds: float = 30.0
    """The window over which `least_bytes_per_second` is measured."""
    linger_seconds: float = 5.0
    """The time for which input is discarded after a refusal, so that the client can read it."""
    stalled_seconds: float = 30.0
    """The time without reading after which a client's connection may be closed to make room."""
    flush_seconds: float = 60.0
    """The longest time for which a closing connection may send the rest of a response."""


def make_limits(settings: Settings) -> Limits:
    return Limits(
        connections=raise_file_limit(settings.max_connections),
        keep_alive_seconds=settings.keep_alive.total_seconds(),
        least_bytes_per_second=settings.min_upload_rate,
    )


def raise_file_limit(connections: int) -> int:
    """Raise the soft limit of open files for `connections`. Return how many fit within it."""
    if sys.platform == "win32":
        return connections
    import resource

    wanted = connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return (
        connections
        if soft == resource.RLIM_INFINITY
        else max(1, min(connections, soft - SPARE_FILES))
    )
