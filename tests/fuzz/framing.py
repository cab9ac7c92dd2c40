"""An independent reader of request bytes, which finds the requests in them and their bodies.

The fuzzer compares the server with it. It reads the framing of RFC 9112 and validates nothing else.
A server may therefore refuse what it reads, but may not find more requests or other bodies.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Final

HEAD_END: Final = re.compile(rb"\n\r?\n")
NO_TRAILERS: Final = re.compile(rb"\r?\n")
"""The end of a chunked body without trailers.

In a head and in trailers, LF alone may also end a line (RFC 9112, section 2.2).
"""
EMPTY_LINES: Final = re.compile(rb"(?:\r\n){0,4}")
"""The empty lines that a server discards before a request line (RFC 9112, section 2.2).

A server may refuse more than these.
"""
CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,20})[ \t]*(?:;[^\r\n]*)?\r\n")
LENGTH: Final = re.compile(rb"[0-9]{1,20}")
LENGTH_FIELD: Final = re.compile(rb"(?i:content-length):[ \t]*([0-9]{1,20})[ \t]*")


@dataclass(frozen=True)
class Framed:
    """One request. `body` is None if the request announces none."""

    method: bytes
    target: bytes
    version: bytes
    body: bytes | None

    @property
    def is_old(self) -> bool:
        return self.version == b"HTTP/1.0"


@dataclass(frozen=True)
class Reading:
    """The complete requests of a connection, and what follows them.

    `rest` is None if the bytes end with the last request. Otherwise it is the method of what
    follows, which is incomplete or has no valid framing. The server may answer it once, and nothing
    after it. `rest_length` is the Content-Length of a complete head there, because a redirect
    declares a file from the head alone.
    """

    requests: tuple[Framed, ...]
    rest: bytes | None
    rest_length: int | None = None

    @property
    def most_answers(self) -> int:
        return len(self.requests) + (self.rest is not None)

    def explains(self, *, state: str, size: int, digest: bytes | None) -> bool:
        """Return whether one of the requests can have created such a file."""
        if state == "ready":
            bodies = (request.body for request in self.requests if request.body is not None)
            return digest in {hashlib.sha256(body).digest() for body in bodies}
        return size in {declared_size(request) for request in self.requests} or (
            self.rest == b"PUT" and size == self.rest_length
        )


def declared_size(request: Framed) -> int | None:
    """Return the size that a declaration or a redirected upload announces."""
    if request.body is None:
        return None
    if request.method == b"PUT":
        return len(request.body)
    try:
        document = json.loads(request.body)
    except ValueError:
        return None
    size = document.get("size") if isinstance(document, dict) else None
    return size if isinstance(size, int) else None


def read_requests(data: bytes) -> Reading:
    requests: list[Framed] = []
    at = skip_empty_lines(data, 0)
    while at < len(data):
        found = read_request(data, at)
        if found is None:
            return Reading(
                tuple(requests), data[at : at + 32].partition(b" ")[0], find_length(data, at)
            )
        request, end = found
        requests.append(request)
        at = skip_empty_lines(data, end)
    return Reading(tuple(requests), None)


def find_length(data: bytes, at: int) -> int | None:
    """Return the Content-Length of a complete head at that position, or None."""
    end = HEAD_END.search(data, at)
    found = [
        LENGTH_FIELD.fullmatch(line.removesuffix(b"\r"))
        for line in data[at : end.start() if end else at].split(b"\n")
    ]
    return next((int(match[1]) for match in found if match), None)


def skip_empty_lines(data: bytes, at: int) -> int:
    found = EMPTY_LINES.match(data, at)
    return found.end() if found else at


def read_request(data: bytes, at: int) -> tuple[Framed, int] | None:
    """Return the request at that position and its end, or None if it is incomplete or ambiguous."""
    end = HEAD_END.search(data, at)
    if end is None:
        return None
    lines = [line.removesuffix(b"\r") for line in data[at : end.start()].split(b"\n")]
    words = lines[0].split(b" ")
    if len(words) != 3:
        return None
    fields = [line.partition(b":") for line in lines[1:]]
    named = [(name.lower(), value.strip(b" \t")) for name, _, value in fields]
    codings = [value for name, value in named if name == b"transfer-encoding"]
    lengths = [value for name, value in named if name == b"content-length"]
    read: tuple[bytes | None, int] | None
    if codings:
        is_chunked = [coding.lower() for coding in codings] == [b"chunked"] and not lengths
        read = read_chunks(data, end.end()) if is_chunked else None
    elif lengths:
        read = read_length(data, end.end(), lengths)
    else:
        read = (None, end.end())
    return None if read is None else (Framed(words[0], words[1], words[2], read[0]), read[1])


def read_length(data: bytes, at: int, lengths: list[bytes]) -> tuple[bytes, int] | None:
    if len(lengths) != 1 or not LENGTH.fullmatch(lengths[0]):
        return None
    end = at + int(lengths[0])
    return (data[at:end], end) if end <= len(data) else None


def read_chunks(data: bytes, at: int) -> tuple[bytes, int] | None:
    body = b""
    while line := CHUNK_LINE.match(data, at):
        size, at = int(line[1], 16), line.end()
        if size == 0:
            found = NO_TRAILERS.match(data, at) or HEAD_END.search(data, at)
            return (body, found.end()) if found else None
        body += data[at : at + size]
        if data[at + size : at + size + 2] != b"\r\n":
            return None
        at += size + 2
    return None
