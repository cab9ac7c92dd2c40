"""Limits of the HTTP server. All of them hold before a request is known to belong to anyone."""

import sys
from dataclasses import dataclass
from typing import Final

from service.settings import Settings

LARGEST_HEAD_BYTES: Final = 64 * 1024
"""Request line and header fields, with their line ends; also the trailer fields of a chunked body."""
MOST_FIELDS: Final = 100
LONGEST_CHUNK_LINE_BYTES: Final = 4 * 1024
"""A chunk's size with its extensions (RFC 9112, section 7.1.1: excessive ones are to be refused)."""
MOST_CHUNK_DIGITS: Final = 15
"""Of a chunk's size, which then fits 64 bits (RFC 9112, section 7.1: overflow must not change it)."""
LONGEST_UNREAD_BYTES: Final = 256 * 1024
"""A request's body that is read to its end behind an early answer, a longer one ends the connection; and what is discarded of the
input behind a refusal, so that the client can read it (RFC 9112, section 9.6)."""
SPARE_FILES: Final = 256
"""File descriptors for everything else: database, object store, logs."""


@dataclass(frozen=True)
class Limits:
    """`connections`: at most this many are open. Times are in seconds."""

    connections: int
    keep_alive_seconds: float
    """How long a connection may be idle between two requests."""
    least_bytes_per_second: int
    """Least rate of a body that is still being sent after its request was answered."""
    incomplete_head_bytes: int = 16 * 1024**2
    """Memory of all heads together that are not complete; above it, the one that came first goes."""
    head_seconds: float = 15.0
    """From the connection, or from the first byte of a later request, to the end of the head."""
    drain_seconds: float = 30.0
    """Window over which `least_bytes_per_second` is counted."""
    linger_seconds: float = 5.0
    """How long input is discarded after a refusal, so that the client can read it."""
    stalled_seconds: float = 30.0
    """How long a client may leave an answer untaken before its connection may give way to a new one."""
    flush_seconds: float = 60.0
    """How long a closing connection may take to send what is left of an answer."""


def make_limits(settings: Settings) -> Limits:
    """Limits of one process, within the number of files that it may open."""
    return Limits(
        connections=raise_file_limit(settings.max_connections),
        keep_alive_seconds=settings.keep_alive.total_seconds(),
        least_bytes_per_second=settings.min_upload_rate,
    )


def raise_file_limit(connections: int) -> int:
    """Raise the soft limit of open files for so many connections. Return how many fit within it."""
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
