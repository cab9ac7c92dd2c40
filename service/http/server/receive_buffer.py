"""Limits and checks on the lines of a request, before h11 parses them.

h11 limits a head only while it is incomplete, and does not limit the time that parsing takes: a
head that arrives in one piece is parsed, however large it is. The receive buffer is the only place
that sees every line of heads, chunk sizes and trailers.
"""

import re
from typing import Final

import h11
from h11._receivebuffer import ReceiveBuffer  # private; pyproject.toml limits the release of h11

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
"""The limit for empty lines before a request line. More are refused, however they arrive."""


class BoundedBuffer(ReceiveBuffer):
    """The receive buffer of h11, with limits.

    A line that is refused raises a Problem, which h11 passes on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.expects_head = True
        """True if the next lines are a head, and False if they are trailers."""
        self.method_is_head = False
        """True if the last head was that of a HEAD request, whose response has no body."""
        self.empty_lines = 0
        """Number of empty lines that were discarded since the last message."""

    def drop(self) -> None:
        self._extract(len(self._data))

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return the lines up to the first blank one, or None while they are incomplete.

        Trailers are discarded (RFC 9112, section 7.1.2), because no route reads them and they must
        not change where a body ends. Upgrade is removed, because a server may ignore it (RFC 9110,
        section 7.8). Otherwise h11 would read nothing until the response, and would not detect that
        the client has disconnected. Raises HeadTooLarge or MalformedRequest.
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
        """Return whether the input cannot be a request line.

        A single CR may be half of an empty line.
        """
        return self._data != b"\r" and super().is_next_line_obviously_invalid_request_line()

    def check_size(self) -> None:
        end = len(self._data)
        if end <= LARGEST_HEAD_BYTES and self._data.count(b"\n") <= MOST_FIELDS + 2:
            return
        if found := BLANK_LINE.search(self._data, 0, LARGEST_HEAD_BYTES):
            end = found.end()
        if end > LARGEST_HEAD_BYTES or self._data.count(b"\n", 0, end) > MOST_FIELDS + 2:
            raise HeadTooLarge(
                f"the head must not exceed {LARGEST_HEAD_BYTES} bytes and {MOST_FIELDS} fields"
            )

    def maybe_extract_next_line(self) -> bytearray | None:
        """Return a chunk's first line, or None while it is incomplete. Raises MalformedRequest."""
        line = super().maybe_extract_next_line()
        if len(self._data if line is None else line) > LONGEST_CHUNK_LINE_BYTES:
            raise MalformedRequest(
                f"a chunk's extensions must not exceed {LONGEST_CHUNK_LINE_BYTES} bytes"
            )
        if (
            line is not None
            and len(line) > MOST_CHUNK_DIGITS
            and line[: MOST_CHUNK_DIGITS + 1].isalnum()
        ):
            raise MalformedRequest(
                f"a chunk's size must not have more than {MOST_CHUNK_DIGITS} digits"
            )
        if line is not None and b"\r" in line[:-2]:
            raise MalformedRequest(
                "a chunk's extensions contain a CR without LF"
            )  # RFC 9112, section 2.2
        return line

    def maybe_extract_at_most(self, count: int) -> bytearray | None:
        """Return bytes of a body.

        The whole buffer is returned without a copy, where h11 would copy it twice.
        """
        if not self._data:
            return None
        if count < len(self._data):
            return self._extract(count)
        data, self._data = self._data, bytearray()
        self._next_line_search = self._multiple_lines_search = 0
        return data


def check_lines(lines: list[bytearray]) -> None:
    """Refuse lines that h11 would correct (RFC 9112, sections 5.2 and 6.3).

    Raises MalformedRequest.
    """
    lengths = [line for line in lines if line[:15].lower() == b"content-length:"]
    if len(lengths) > 1 or any(b"," in line for line in lengths):
        raise MalformedRequest("Content-Length: must be given once, as one number")
    if any(line.startswith((b" ", b"\t")) for line in lines):
        raise MalformedRequest(
            "a header field continues on a second line; each field must be on one line"
        )


def find_problem(error: h11.RemoteProtocolError) -> Problem:
    """Return the problem for input that h11 could not parse.

    The text of `error` is not used, because it quotes the request.
    """
    if error.error_status_hint == 501:
        return UnsupportedTransferCoding("Transfer-Encoding: must be chunked and nothing else")
    if error.error_status_hint == 431:
        return HeadTooLarge(f"the head must not exceed {LARGEST_HEAD_BYTES} bytes")
    if "Host: header" in str(error):
        return InvalidHost("Host: must be given exactly once")
    return MalformedRequest("the request is not well-formed HTTP/1.1")
