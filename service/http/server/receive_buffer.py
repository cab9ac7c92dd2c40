"""Bounds and checks on the lines of a request, before h11 parses them.

h11 limits a head only while it is incomplete, and checks the time that parsing takes not at all: a head that arrives in one piece
is parsed whatever its size. The receive buffer is the one place that every line passes: of heads, of chunk sizes, of trailers.
"""

import re
from typing import Final

import h11
from h11._receivebuffer import ReceiveBuffer  # private: h11's release is bounded in pyproject.toml

from service.http.server.limits import (
    LARGEST_HEAD_BYTES,
    LONGEST_CHUNK_LINE_BYTES,
    MOST_CHUNK_DIGITS,
    MOST_FIELDS,
)
from service.problems import (
    HeadTooLarge,
    InvalidHost,
    MalformedRequest,
    Problem,
    UnsupportedTransferCoding,
)

BLANK_LINE: Final = re.compile(rb"\n\r?\n")
MOST_EMPTY_LINES: Final = 4
"""Before a request line. A flood of them is refused, however it arrives."""


class BoundedBuffer(ReceiveBuffer):
    """h11's receive buffer, with limits. A line that is refused raises a Problem, which h11 passes on."""

    def __init__(self) -> None:
        super().__init__()
        self.expects_head = True
        """Whether the next lines are a head. Otherwise they are trailers."""
        self.method_is_head = False
        """Whether the last head that began was that of a HEAD request, whose answer has no body."""
        self.empty_lines = 0
        """How many were discarded since the last message."""

    def drop(self) -> None:
        """Give the memory back: nothing of it will be read."""
        self._extract(len(self._data))

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return the lines up to the first blank one, or None while they are incomplete. Raises HeadTooLarge, MalformedRequest.

        Trailers are discarded (RFC 9112, section 7.1.2): no route reads any, and they may not say where a body ends.
        Upgrade is left out: a server may ignore it (RFC 9110, section 7.8). h11 would read nothing more until the answer, and would
        not notice that the client has gone.
        """
        if self.expects_head:
            self.skip_empty_lines()
            self.method_is_head = self._data.startswith(b"HEAD ")
        self.check_size()
        lines = super().maybe_extract_lines()
        if lines is None:
            return None
        self.empty_lines = 0
        if not self.expects_head:
            return []
        check_lines(lines)
        return lines[:1] + [line for line in lines[1:] if line[:8].lower() != b"upgrade:"]

    def skip_empty_lines(self) -> None:
        """Discard at most MOST_EMPTY_LINES before a request line (RFC 9112, section 2.2)."""
        while self.empty_lines < MOST_EMPTY_LINES and self._data.startswith(b"\r\n"):
            self._extract(2)
            self.empty_lines += 1

    def is_next_line_obviously_invalid_request_line(self) -> bool:
        """Whether no request line begins like this. The first half of an empty line is none yet."""
        return self._data != b"\r" and super().is_next_line_obviously_invalid_request_line()

    def check_size(self) -> None:
        end = len(self._data)
        if end <= LARGEST_HEAD_BYTES and self._data.count(b"\n") <= MOST_FIELDS + 2:
            return
        if found := BLANK_LINE.search(self._data, 0, LARGEST_HEAD_BYTES):
            end = found.end()
        if end > LARGEST_HEAD_BYTES or self._data.count(b"\n", 0, end) > MOST_FIELDS + 2:
            raise HeadTooLarge(
                f"expected at most {LARGEST_HEAD_BYTES} bytes and {MOST_FIELDS} fields"
            )

    def maybe_extract_next_line(self) -> bytearray | None:
        """Return a chunk's first line, or None while it is incomplete. Raises MalformedRequest."""
        line = super().maybe_extract_next_line()
        if len(self._data if line is None else line) > LONGEST_CHUNK_LINE_BYTES:
            raise MalformedRequest(
                f"expected at most {LONGEST_CHUNK_LINE_BYTES} bytes of chunk extensions"
            )
        if (
            line is not None
            and len(line) > MOST_CHUNK_DIGITS
            and line[: MOST_CHUNK_DIGITS + 1].isalnum()
        ):
            raise MalformedRequest(f"expected at most {MOST_CHUNK_DIGITS} digits of a chunk's size")
        if line is not None and b"\r" in line[:-2]:
            raise MalformedRequest(
                "a chunk's extension has a CR that ends no line"
            )  # RFC 9112, section 2.2
        return line

    def maybe_extract_at_most(self, count: int) -> bytearray | None:
        """Return bytes of a body. All that there is changes hands without a copy; h11 copies it twice."""
        if not self._data:
            return None
        if count < len(self._data):
            return self._extract(count)
        data, self._data = self._data, bytearray()
        self._next_line_search = self._multiple_lines_search = 0
        return data


def check_lines(lines: list[bytearray]) -> None:
    """Refuse what h11 would repair (RFC 9112, sections 5.2 and 6.3). Raises MalformedRequest."""
    lengths = [line for line in lines if line[:15].lower() == b"content-length:"]
    if len(lengths) > 1 or any(b"," in line for line in lengths):
        raise MalformedRequest("Content-Length: expected one number")
    if any(line.startswith((b" ", b"\t")) for line in lines):
        raise MalformedRequest(
            "a field is continued on a line of its own: expected one line a field"
        )


def find_problem(error: h11.RemoteProtocolError) -> Problem:
    """The refusal for what h11 could not read. Its own texts quote the request, so they go nowhere."""
    if error.error_status_hint == 501:
        return UnsupportedTransferCoding("Transfer-Encoding: expected chunked alone")
    if error.error_status_hint == 431:
        return HeadTooLarge(f"expected at most {LARGEST_HEAD_BYTES} bytes")
    if "Host: header" in str(error):
        return InvalidHost("Host: expected once")
    return MalformedRequest("the request is not well-formed HTTP/1.1")
