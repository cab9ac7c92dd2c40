"""A client for HTTP/1.x that sends bytes unchanged, in the given segments, and is strict.

The tests do not use a client library, because none can send what a hostile peer sends, and each
tolerates some invalid responses. `Wire` raises BadAnswer if a response breaks RFC 9110 or RFC 9112,
and Silence if nothing arrives in time.
"""

import contextlib
import re
import secrets
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t -~\x80-\xff]*")
FIELD_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})")
LONGEST_HEAD: Final = 64 * 1024
ANSWER_SECONDS: Final = 90.0
TAKEN_SECONDS: Final = 1.0
NETLINK_SOCK_DIAG: Final = 4
SOCK_DIAG_BY_FAMILY: Final = 20
UNREAD_AT: Final = 72
"""The offset of idiag_rqueue in a netlink message that has an nlmsghdr and an inet_diag_msg."""


class BadAnswer(AssertionError):
    """A response that breaks the protocol, or bytes after it that belong to no response."""


class Silence(AssertionError):
    """The absence of a response and of the connection's end within the time allowed."""


class Ended(AssertionError):
    """The end of the connection before the next response began."""


@dataclass(frozen=True)
class Answer:
    """One final response. `interim` has the statuses of the 1xx responses before it."""

    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    interim: tuple[int, ...] = field(default=())

    def find(self, name: bytes) -> bytes | None:
        """Return the value of a field, or None if it is absent.

        Raises BadAnswer if it is repeated.
        """
        found = [value for key, value in self.fields if key.lower() == name]
        if len(found) > 1:
            raise BadAnswer(f"{name!r} occurs {len(found)} times: {found}")
        return found[0] if found else None

    @property
    def announces_close(self) -> bool:
        options = b",".join(
            value for key, value in self.fields if key.lower() == b"connection"
        ).lower()
        return b"close" in [option.strip() for option in options.split(b",")]


class Wire:
    """One connection to the server at `url`."""

    def __init__(self, url: str, *, seconds: float = ANSWER_SECONDS) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname or "", parts.port or 80)
        self.seconds = seconds
        self.socket = socket.create_connection(self.address, seconds)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.ended = False

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    # Sending

    def send(self, *segments: bytes) -> bool:
        """Send each segment after the server has read the one before. Return whether all were sent.

        Responses that arrive in the meantime are kept. If False, the server closed the connection.
        """
        for number, segment in enumerate(segments):
            if number:
                self.wait_until_taken()
            if not self.write(segment):
                return False
        return True

    def write(self, data: bytes) -> bool:
        """Send `data` and keep what arrives. Return False if the server closes. Raises Silence."""
        rest, deadline = memoryview(data), time.monotonic() + self.seconds
        while rest:
            readable, writable = self.wait(self.left(deadline), writing=True)
            if readable:
                self.receive()
            if writable:
                try:
                    rest = rest[self.socket.send(rest) :]
                except BlockingIOError:
                    continue  # the kernel is short of buffers, although it reported room
                except OSError:
                    return False
                deadline = time.monotonic() + self.seconds
        return True

    def finish_sending(self) -> None:
        """Close the sending side only, as a client does that still expects a response."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def wait_until_taken(self) -> None:
        """Wait until the server has read all bytes, so that it reads the next segment separately.

        The wait is bounded, because a server may leave bytes unread while it handles a body.
        """
        deadline = time.monotonic() + TAKEN_SECONDS
        while time.monotonic() < deadline and count_unread(self.socket):
            if self.wait(0.001)[0]:
                self.receive()

    # Receiving

    def receive(self) -> None:
        """Keep the bytes that have arrived. A reset counts as the end of the connection."""
        try:
            data = self.socket.recv(256 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.received += data
        self.ended = not data

    def wait(self, seconds: float, *, writing: bool = False) -> tuple[bool, bool]:
        """Return whether bytes or the end can be received, and whether bytes can be sent."""
        poll = select.poll()
        reading = 0 if self.ended else select.POLLIN
        poll.register(self.socket, reading | (select.POLLOUT if writing else 0))
        found = poll.poll(seconds * 1000)
        events = found[0][1] if found else 0
        return bool(events & ~select.POLLOUT) and not self.ended, bool(events) and writing

    def left(self, deadline: float) -> float:
        """Return the seconds until the deadline. Raises Silence if it has passed."""
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise self.describe_silence()
        return seconds

    def describe_silence(self) -> Silence:
        return Silence(f"nothing within {self.seconds} s after {bytes(self.received[:300])!r}")

    def need_more(self) -> bool:
        """Wait for more bytes. Return False if the connection has ended instead. Raises Silence."""
        if not self.ended:
            if not self.wait(self.seconds)[0]:
                raise self.describe_silence()
            self.receive()
        return not self.ended

    def take_through(self, end: bytes, *, most: int) -> bytes:
        """Return the bytes before `end` and drop both. Raises BadAnswer, Ended, Silence."""
        while (at := self.received.find(end)) < 0:
            if len(self.received) > most:
                raise BadAnswer(f"no {end!r} within {most} bytes: {bytes(self.received[:300])!r}")
            if not self.need_more():
                raise self.describe_end()
        taken = bytes(self.received[:at])
        del self.received[: at + len(end)]
        return taken

    def describe_end(self) -> AssertionError:
        if self.received:
            return BadAnswer(
                f"the connection ended within a response: {bytes(self.received[:300])!r}"
            )
        return Ended("the connection ended without a response")

    def take(self, size: int) -> bytes:
        while len(self.received) < size:
            if not self.need_more():
                raise BadAnswer(
                    f"the connection ended after {len(self.received)} of {size} bytes of a response"
                )
        taken = bytes(self.received[:size])
        del self.received[:size]
        return taken

    def read_answer(self, method: str = "GET", *, version: str = "1.1") -> Answer:
        """Return the next final response, which belongs to a request of that method and version.

        Raises BadAnswer, Ended, Silence.
        """
        interim: list[int] = []
        while True:
            status, fields = self.read_head()
            if status >= 200:
                answer = Answer(status, fields, b"", tuple(interim))
                return Answer(
                    status, fields, self.read_body(answer, method, version), tuple(interim)
                )
            framed = {name.lower() for name, _ in fields} & {
                b"content-length",
                b"transfer-encoding",
            }
            if status == 101 or version == "1.0" or framed:
                raise BadAnswer(
                    f"an interim response that this request must not get: {status} {fields}"
                )
            interim.append(status)

    def read_head(self) -> tuple[int, tuple[tuple[bytes, bytes], ...]]:
        lines = self.take_through(b"\r\n\r\n", most=LONGEST_HEAD).split(b"\r\n")
        line = STATUS_LINE.fullmatch(lines[0])
        if line is None:
            raise BadAnswer(f"not a status line: {lines[0]!r}")
        found = [FIELD_LINE.fullmatch(text) for text in lines[1:]]
        if None in found:
            raise BadAnswer(f"not a field line: {lines[1:][found.index(None)]!r}")
        return int(line[1]), tuple((one[1], one[2]) for one in found if one)

    def read_body(self, answer: Answer, method: str, version: str) -> bytes:
        """Return the body, with the framing of RFC 9112, section 6.3. Raises BadAnswer, Silence."""
        length, coding = answer.find(b"content-length"), answer.find(b"transfer-encoding")
        if length is not None and (coding is not None or not length.isdigit()):
            raise BadAnswer(f"Content-Length {length!r} beside Transfer-Encoding {coding!r}")
        if coding is not None and (
            coding.lower() != b"chunked" or version == "1.0" or answer.status == 204
        ):
            raise BadAnswer(
                f"Transfer-Encoding {coding!r} in a response {answer.status} to HTTP/{version}"
            )
        if method == "HEAD" or answer.status in (204, 304):
            return b""
        if coding is not None:
            return self.read_chunks()
        if length is not None:
            return self.take(int(length))
        if version == "1.1" and not answer.announces_close:
            raise BadAnswer(
                f"a response {answer.status} without a length on a persistent connection"
            )
        return self.read_to_end()

    def read_chunks(self) -> bytes:
        body = b""
        while True:
            size = CHUNK_SIZE.fullmatch(self.take_through(b"\r\n", most=100))
            if size is None:
                raise BadAnswer("a chunk without a size")
            body += self.take(int(size[1], 16))
            if self.take(2) != b"\r\n":
                raise BadAnswer("a chunk or the trailers did not end")
            if int(size[1], 16) == 0:
                return body

    def read_to_end(self) -> bytes:
        """Return all bytes until the server closes. Raises Silence if it does not."""
        while self.need_more():
            pass
        return self.take(len(self.received))

    # What must hold after a response

    def check_closed(self) -> None:
        """Check that the server closes and sends no byte before. Raises BadAnswer, Silence."""
        rest = self.read_to_end()
        if rest:
            raise BadAnswer(f"bytes after the last response: {rest[:300]!r}")

    def check_in_step(self) -> None:
        """Check that the next response belongs to the next request, and that no byte precedes it.

        Raises BadAnswer, Ended, Silence.
        """
        mark = secrets.token_hex(8).encode()
        self.write(
            b"GET /health/live HTTP/1.1\r\nHost: sentinel\r\nX-Request-Id: " + mark + b"\r\n\r\n"
        )
        answer = self.read_answer()
        if (answer.status, answer.find(b"x-request-id")) != (200, mark) or self.received:
            raise BadAnswer(
                f"not the response to the next request: {answer}, {bytes(self.received[:300])!r}"
            )


@contextlib.contextmanager
def connected(url: str, count: int) -> Iterator[list[Wire]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Wire(url)) for _ in range(count)]


def count_unread(ours: socket.socket) -> int:
    """Return how many bytes the peer's process has not read yet, or 0 if this cannot be found out.

    Linux reports it by sock_diag(7) for a single socket. The table of all sockets in /proc is slow
    to read on a machine that has many.
    """
    if sys.platform != "linux":
        return 0
    try:
        question = name_ends(ours.getpeername(), ours.getsockname())
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG) as kernel:
            kernel.send(question)
            answer = kernel.recv(4096)
    except OSError:
        return 0
    is_found = struct.unpack_from("=H", answer, 4)[0] == SOCK_DIAG_BY_FAMILY
    return int(struct.unpack_from("=I", answer, UNREAD_AT)[0]) if is_found else 0


def name_ends(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """Return a sock_diag(7) request for one TCP socket: an nlmsghdr and an inet_diag_req_v2."""
    ends = struct.pack(
        "!HH4s12x4s12x",
        source[1],
        destination[1],
        socket.inet_aton(source[0]),
        socket.inet_aton(destination[0]),
    )
    about = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + ends
    about += struct.pack("=I8s", 0, b"\xff" * 8)
    return struct.pack("=IHHII", 16 + len(about), SOCK_DIAG_BY_FAMILY, 1, 1, 0) + about
