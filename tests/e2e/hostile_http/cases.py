"""The table of hostile requests: the bytes, the rule that they test, and what the rule requires.

The bytes contain placeholders. Each has the same length as its value (see `fill`), so that every
length in a request stays correct. The fuzzer (tests/fuzz) mutates the same table.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

KEY: Final = b"assay_" + b"K" * 43
NAME: Final = b"name-of-case"
READY: Final = b"00000000-0000-7000-8000-0000000ready"
PENDING: Final = b"00000000-0000-7000-8000-00000pending"
AUTHORIZATION: Final = b"Authorization: Bearer " + KEY
HOST: Final = b"Host: files.example"
JSON: Final = b"Content-Type: application/json"
CHUNKED: Final = b"Transfer-Encoding: chunked"
HELLO: Final = b"5\r\nhello\r\n0\r\n\r\n"
KIB: Final = 1024


class Then(Enum):
    """The required state of the connection after the response.

    EITHER leaves the choice to the server, which announces it. WAITS is like EITHER, for a request
    whose body has not ended, so that no further request can be sent.
    """

    STAYS = "stays"
    CLOSES = "closes"
    EITHER = "either"
    WAITS = "waits"


@dataclass(frozen=True)
class Case:
    """One rule, the section that states it, and the request that tests it.

    `problem` is the problem type of a 400 or 409 response. `stored` is the body that the file named
    NAME must have if the response is 201. None means that the request must not create a file.
    """

    name: str
    section: str
    segments: tuple[bytes, ...]
    statuses: frozenset[int]
    then: Then
    problem: str = ""
    stored: bytes | None = None

    def __str__(self) -> str:
        return f"{self.section}: {self.name}"

    @property
    def method(self) -> str:
        """Return the method that determines whether the response has a body: HEAD, or else GET."""
        return "HEAD" if self.segments[0].startswith(b"HEAD ") else "GET"

    @property
    def version(self) -> str:
        return "1.0" if self.segments[0].partition(b"\r\n")[0].endswith(b" HTTP/1.0") else "1.1"


def fill(segments: Iterable[bytes], values: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the segments with each placeholder replaced by its value of the same length."""
    filled = list(segments)
    for placeholder, value in values.items():
        assert len(value) == len(placeholder), placeholder
        filled = [segment.replace(placeholder, value) for segment in filled]
    return filled


# Kinds of cases


def refuse(
    rule: str,
    name: str,
    *segments: bytes,
    problem: str = "malformed-request",
    statuses: Iterable[int] = (400,),
) -> Case:
    """Return a case that the server refuses before it closes the connection.

    The request cannot be framed or understood, so the end of the request is unknown.
    """
    return Case(name, rule, segments, frozenset(statuses), Then.CLOSES, problem)


def answer(
    rule: str,
    name: str,
    *segments: bytes,
    statuses: Iterable[int],
    then: Then = Then.EITHER,
    problem: str = "",
) -> Case:
    """Return a case that gets one of these responses and stores nothing."""
    return Case(name, rule, segments, frozenset(statuses), then, problem)


def serve(rule: str, name: str, *segments: bytes) -> Case:
    """Return a valid request, after which the connection serves the next request."""
    return Case(name, rule, segments, frozenset({200}), Then.STAYS)


def store(rule: str, name: str, *segments: bytes, body: bytes = b"hello") -> Case:
    """Return a valid upload, which must store exactly `body`."""
    return Case(name, rule, segments, frozenset({201}), Then.EITHER, stored=body)


def store_or_refuse(
    rule: str, name: str, *segments: bytes, statuses: Iterable[int] = (400,), body: bytes = b"hello"
) -> Case:
    """Return a case in which the rule permits the server to repair the request or refuse it."""
    return Case(name, rule, segments, frozenset({201, *statuses}), Then.EITHER, stored=body)


# Parts of requests


def head(line: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


def request(line: bytes, *fields: bytes, body: bytes | None = None) -> bytes:
    """Return an ordinary request with the owner's key, and a Content-Length if it has a body."""
    length = [] if body is None else [measure(body)]
    return head(line, HOST, AUTHORIZATION, *fields, *length) + (body or b"")


def measure(body: bytes) -> bytes:
    return b"Content-Length: %d" % len(body)


def chunk(body: bytes, *, size: int = 0) -> bytes:
    """Return the body in chunked coding, in chunks of `size` bytes, or in one chunk."""
    step = size or len(body)
    pieces = [body[start : start + step] for start in range(0, len(body), step)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def upload(*fields: bytes, version: bytes = b"1.1") -> bytes:
    """Return the head of a streamed upload, without framing of its body except by `fields`."""
    line = b"POST /files/upload?filename=" + NAME + b" HTTP/" + version
    return request(line, b"Content-Type: text/plain", *fields)


def put(*fields: bytes, version: bytes = b"1.1") -> bytes:
    return request(b"PUT /upload/" + NAME + b" HTTP/" + version, *fields)


def complete(*fields: bytes, version: bytes = b"1.1") -> bytes:
    return request(b"POST /files/" + READY + b"/complete HTTP/" + version, *fields)


def get(*fields: bytes, target: bytes = b"/health/live", version: bytes = b"1.1") -> bytes:
    """Return a request without a key, and without a Host except in `fields`."""
    return head(b"GET " + target + b" HTTP/" + version, *fields)


SMUGGLED: Final = request(b"POST /files/upload?filename=smuggled HTTP/1.1", body=b"evil")
"""A body that has the form of a request. The server must never treat it as a request."""
WRONG_DIGEST: Final = b'{"sha256": "%s"}' % (b"0" * 64)
H2C: Final = (
    b"Connection: Upgrade, HTTP2-Settings",
    b"Upgrade: h2c",
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)
WEBSOCKET: Final = (
    b"Connection: keep-alive, Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
UPGRADES: Final = {
    "h2c": H2C,
    "websocket": WEBSOCKET,
    "an unknown protocol": (b"Connection: upgrade", b"Upgrade: foo/1, TLS/1.2"),
}
PLACEMENTS: Final = ("in the same segment", "in a later segment", "cut within")


def place(start: bytes, body: bytes, placement: str) -> tuple[bytes, ...]:
    if placement == PLACEMENTS[0]:
        return (start + body,)
    return (start, body) if placement == PLACEMENTS[1] else (start + body[:20], body[20:])


# Upgrade and CONNECT


def list_upgrades() -> Iterator[Case]:
    rule, chunked, length = "RFC 9110 7.8", chunk(SMUGGLED), measure(SMUGGLED)
    for (protocol, fields), at in itertools.product(UPGRADES.items(), PLACEMENTS):
        about = f"Upgrade to {protocol},"
        framed = place(upload(*fields, CHUNKED), chunked, at)
        yield store(rule, f"{about} chunks {at}", *framed, body=SMUGGLED)
        framed = place(upload(*fields, length), SMUGGLED, at)
        yield store(rule, f"{about} a length, the body {at}", *framed, body=SMUGGLED)
    for at in PLACEMENTS:
        yield from list_upgrades_elsewhere(rule, at)
    for protocol, fields in UPGRADES.items():
        about = f"Upgrade to {protocol}"
        yield serve(rule, f"{about} on GET", request(b"GET /health/live HTTP/1.1", *fields))
        yield answer(rule, f"{about}, without a length", upload(*fields), statuses={411})
    yield store(rule, "Upgrade without Connection", upload(b"Upgrade: h2c", CHUNKED) + HELLO)
    yield store(rule, "Connection without Upgrade", upload(b"Connection: Upgrade", CHUNKED) + HELLO)
    old = upload(*H2C, b"Content-Length: 5", version=b"1.0")
    yield store(rule, "Upgrade in HTTP/1.0", old + b"hello")


def list_upgrades_elsewhere(rule: str, at: str) -> Iterator[Case]:
    """Yield upgrades on routes other than POST /files/upload.

    These are PUT, a route that reads its body, and a route that ignores its body.
    """
    framed = place(put(*H2C, CHUNKED), chunk(SMUGGLED), at)
    yield store(rule, f"Upgrade on PUT, chunks {at}", *framed, body=SMUGGLED)
    for about, segments in {
        "chunks": place(complete(JSON, *H2C, CHUNKED), chunk(WRONG_DIGEST), at),
        "a length, the body": place(complete(JSON, *H2C, measure(WRONG_DIGEST)), WRONG_DIGEST, at),
    }.items():
        name = f"Upgrade on complete with a wrong digest, {about} {at}"
        yield answer(rule, name, *segments, statuses={409}, problem="digest-conflict")
    line = b"GET /files?limit=1 HTTP/1.1"
    segments = place(request(line, *H2C, measure(SMUGGLED)), SMUGGLED, at)
    yield answer(rule, f"Upgrade on GET, a body {at}", *segments, statuses={200, 400})


def list_connects() -> Iterator[Case]:
    rule, line = "RFC 9110 9.3.6", b"CONNECT files.example:443 HTTP/1.1"
    refused = {400, 404, 405, 501}
    yield answer(rule, "CONNECT", request(line), statuses=refused)
    yield answer(rule, "CONNECT with a path", request(b"CONNECT /files HTTP/1.1"), statuses=refused)
    for at in PLACEMENTS:
        framed = place(request(line, measure(SMUGGLED)), SMUGGLED, at)
        yield answer(rule, f"CONNECT, a length, the body {at}", *framed, statuses=refused)
        framed = place(request(line, CHUNKED), chunk(SMUGGLED), at)
        yield answer(rule, f"CONNECT, chunks {at}", *framed, statuses=refused)


# Lengths and transfer codings


def list_missing_lengths() -> Iterator[Case]:
    rule = "RFC 9110 15.5.12"
    for version in (b"1.0", b"1.1"):
        about = f"over HTTP/{version.decode()} without a length"
        then = Then.CLOSES if version == b"1.0" else Then.EITHER
        for name, start in {"POST /files/upload": upload, "PUT /upload": put}.items():
            sent = start(version=version)
            yield answer(rule, f"{name} {about}", sent, statuses={411}, then=then)
        sent = complete(version=version)
        yield answer("RFC 9112 6.3", f"complete {about}", sent, statuses={200})
        sent = request(b"POST /files/" + PENDING + b"/upload HTTP/" + version)
        yield answer("RFC 9112 6.3", f"a fresh URL {about}", sent, statuses={200})
    for name, segments in {
        "a body": (upload(version=b"1.0") + b"hello",),
        "a body in a later segment": (upload(version=b"1.0"), b"hello"),
        "PUT, a body": (put(version=b"1.0") + b"hello",),
    }.items():
        about = f"HTTP/1.0, {name} without a length"
        yield answer(rule, about, *segments, statuses={411}, then=Then.CLOSES)
    rule = "RFC 9110 8.6"
    old = upload(b"Content-Length: 5", version=b"1.0")
    yield store(rule, "HTTP/1.0 with a length", old + b"hello")
    yield store(rule, "a length of 0", upload(b"Content-Length: 0"), body=b"")
    sent = request(b"POST /files HTTP/1.1", JSON)
    yield answer("RFC 9112 6.3", "a declaration without a length", sent, statuses={400})


def list_transfer_codings() -> Iterator[Case]:
    rule, te, unknown = "RFC 9112 6.1", b"Transfer-Encoding: ", {400, 501}
    yield refuse(rule, "gzip, chunked", upload(te + b"gzip, chunked") + HELLO, statuses={501})
    yield refuse(rule, "gzip, then chunked", upload(te + b"gzip", CHUNKED) + HELLO, statuses={501})
    for coding in (
        b"gzip", b"identity", b"xchunked", b"chunked-x", b"chunked, gzip", b"chunked, identity",
        b"identity, chunked", b"chunkedchunked", b"chunked, chunked", b'"chunked"',
        b"\x0bchunked", b"chunked;a=b", b"chunked\x00", b"[chunked]",
    ):  # fmt: skip
        yield refuse(rule, f"{coding!r}", upload(te + coding) + HELLO, statuses=unknown)
    yield refuse(rule, "chunked in two lines", upload(CHUNKED, CHUNKED) + HELLO, statuses=unknown)
    yield refuse(rule, "an empty coding", upload(te) + HELLO, statuses={400, 411, 501})
    yield store(rule, "chunked in another case", upload(te + b"cHuNkEd") + HELLO)
    yield store(rule, "chunked between blanks", upload(te + b" \tchunked\t ") + HELLO)
    sent = upload(te + b", chunked") + HELLO
    yield store_or_refuse("RFC 9110 5.6.1", "an empty member", sent, statuses=unknown)
    sent = upload(b"Transfer-Encoding:\r\n chunked") + HELLO
    yield store_or_refuse("RFC 9112 5.2", "chunked, folded", sent)
    sent = upload(b"Transfer-Encoding : chunked") + HELLO
    yield refuse("RFC 9112 5.1", "chunked, a blank before the colon", sent)
    yield refuse(rule, "chunked in HTTP/1.0", upload(CHUNKED, version=b"1.0") + HELLO)


def list_ambiguous_lengths() -> Iterator[Case]:
    rule, cl = "RFC 9112 6.3", b"Content-Length: "
    yield refuse(rule, "a coding, then a length", upload(CHUNKED, measure(HELLO)) + HELLO)
    yield refuse(rule, "a length, then a coding", upload(measure(HELLO), CHUNKED) + HELLO)
    yield refuse(rule, "both, of a body of JSON", complete(JSON, cl + b"4", CHUNKED) + HELLO)
    sent = upload(cl + b"5", CHUNKED) + b"0\r\n\r\n" + SMUGGLED
    yield refuse(rule, "both, and a second request", sent)
    for first, second in ((b"5", b"6"), (b"0", b"5"), (b"5", b"0"), (b"5", b"05x")):
        name = f"two lengths, {first.decode()} and {second.decode()}"
        yield refuse(rule, name, upload(cl + first, cl + second) + b"hello")
    yield refuse(rule, "a list of differing lengths", upload(cl + b"5, 6") + b"hello")
    yield store_or_refuse(rule, "two equal lengths", upload(cl + b"5", cl + b"5") + b"hello")
    yield store_or_refuse(rule, "a list of equal lengths", upload(cl + b"5, 5") + b"hello")
    folded = upload(b"Content-Length:\r\n 5") + b"hello"
    yield store_or_refuse("RFC 9112 5.2", "a length, folded", folded)


def list_lengths() -> Iterator[Case]:
    rule, cl = "RFC 9110 8.6", b"Content-Length: "
    for value in (
        b"+5", b"0x5", b"-1", b"5_0", b"5.0", b"5e0", b"five", b"5 5", b"\x0b5", b"5;", b"\xb2",
        b"5\x00", b"",
    ):  # fmt: skip
        yield refuse(rule, f"the length {value!r}", upload(cl + value) + b"hello")
    for value in (b"9" * 19, b"9" * 20, b"9" * 40, b"18446744073709551621"):
        sent, name = upload(cl + value) + b"hello", f"the length {value.decode()}"
        yield answer(rule, name, sent, statuses={400, 413}, then=Then.WAITS)
    sent = upload(cl + b"9" * 9000) + b"hello"
    yield refuse(rule, "a length of 9,000 digits", sent, statuses={400, 413, 431})
    yield store("RFC 9112 5", "blanks around the length", upload(cl + b" \t5 \t") + b"hello")
    yield store_or_refuse(rule, "leading zeros", upload(cl + b"0005") + b"hello")


# Chunks

WRONG_CHUNKS: Final = {
    "no hexadecimal digits": b"zz\r\nhello\r\n0\r\n\r\n",
    "an empty size": b"\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "a size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a size with an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "a blank before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "a size of 2**64": b"1" + b"0" * 16 + b"\r\nhello\r\n0\r\n\r\n",
    "a size of 21 digits": b"F" * 21 + b"\r\nhello\r\n0\r\n\r\n",
    "a size of 5,000 digits": b"0" * 4999 + b"5\r\nhello\r\n0\r\n\r\n",
    "more bytes than the size": b"5\r\nhelloX\r\n0\r\n\r\n",
    "fewer bytes than the size": b"6\r\nhello\r\n0\r\n\r\n",
    "a chunk that ends in LF alone": b"5\r\nhello\n0\r\n\r\n",
    "a chunk without an end": b"5\r\nhello0\r\n\r\n",
    "a size that ends in LF alone": b"5\nhello\r\n0\r\n\r\n",
    "a size that ends in CR alone": b"5\rhello\r\n0\r\n\r\n",
    "two other bytes for the end": b"5\r\nhelloXX0\r\n\r\n",
    "a NUL in the size": b"5\x00\r\nhello\r\n0\r\n\r\n",
    "an LF within an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "a CR within an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
}


def list_chunks() -> Iterator[Case]:
    rule, last = "RFC 9112 7.1", b"5\r\nhello\r\n0\r\n"
    for name, body in WRONG_CHUNKS.items():
        yield refuse(rule, name, upload(CHUNKED) + body)
        yield refuse(rule, f"{name}, in a later segment", upload(CHUNKED), body)
    yield store(rule, "leading zeros of a size", upload(CHUNKED) + b"0005\r\nhello\r\n00\r\n\r\n")
    body = b"hello, byte by byte" * 20
    sent = upload(CHUNKED) + b"A\r\n0123456789\r\n0\r\n\r\n"
    yield store(rule, "a size in upper case", sent, body=b"0123456789")
    yield store(rule, "a byte a chunk", upload(CHUNKED) + chunk(body, size=1), body=body)
    yield store(rule, "a byte a segment", upload(CHUNKED), *[bytes([byte]) for byte in HELLO])
    extended = b'5;a=b;c="d;\t"\r\nhello\r\n0;e\r\n\r\n'
    yield store("RFC 9112 7.1.1", "an extension", upload(CHUNKED) + extended)
    rule = "RFC 9112 7.1.2"
    yield store(rule, "a trailer", upload(CHUNKED) + last + b"X-Trailer: a\r\n\r\n")
    yield store_or_refuse(rule, "a trailer without a colon", upload(CHUNKED) + last + b"x\r\n\r\n")
    for field in (b"Content-Length: 99", b"Transfer-Encoding: gzip", b"Host: a b"):
        sent, name = upload(CHUNKED) + last + field + b"\r\n\r\n", f"the trailer {field.decode()}"
        yield store_or_refuse("RFC 9110 6.5.1", name, sent, statuses={400, 501})
    line = b"POST /files/upload?filename=" + NAME + b" HTTP/1.1"
    sent = head(line, HOST, CHUNKED) + last + AUTHORIZATION + b"\r\n\r\n"
    yield answer("RFC 9110 6.5.1", "a key in the trailers is ignored", sent, statuses={401})


def list_wrong_chunks_behind_answers() -> Iterator[Case]:
    """Yield invalid chunks after a response. The connection then ends without a second response."""
    rule, refused = "RFC 9112 9.6", head(b"POST /files/upload?filename=a HTTP/1.1", HOST, CHUNKED)
    connect = request(b"CONNECT files.example:443 HTTP/1.1", CHUNKED)
    for name, start, status in (("a refused upload", refused, 401), ("CONNECT", connect, 405)):
        for body in (b"5\r\nhelloXX0\r\n\r\n", b"zz\r\n", b"5\r\nhello\r\n0\r\nno colon\r\n\r\n"):
            about = f"{name}, the rest of its body {body!r}"
            yield answer(rule, about, start + body[:2], body[2:], statuses={status, 400})


def list_floods_within_chunks() -> Iterator[Case]:
    large, start, last = {400, 413, 431}, upload(CHUNKED), b"5\r\nhello\r\n0\r\n"
    rule = "RFC 9112 7.1.1"
    sent = start + b"5;" + b"a" * KIB**2 + b"\r\nhello\r\n0\r\n\r\n"
    yield refuse(rule, "an extension of 1 MiB", sent, statuses=large)
    sent = start + (b"1;" + b"a" * 2 * KIB + b"\r\nx\r\n") * KIB + b"0\r\n\r\n"
    yield store_or_refuse(rule, "extensions of 2 MiB", sent, statuses=large, body=b"x" * KIB)
    rule = "RFC 9110 6.5.1"
    sent = start + last + b"a:b\r\n" * (KIB**2 // 5) + b"\r\n"
    yield refuse(rule, "200 thousand trailers", sent, statuses=large)
    sent = start + last + b"a:" + b"b" * KIB**2 + b"\r\n\r\n"
    yield refuse(rule, "a trailer of 1 MiB", sent, statuses=large)


# Host and the target

WRONG_HOSTS: Final = (
    b"h:99999", b"h:-1", b"h:x", b"h:1:2", b"[::1", b"[::1]x", b"[]", b"::1", b"[::1]]", b"u@evil",
    b"u:p@evil", b"a b", b"a/b", b"a?b", b"a#b", b"a\\b", b"<a>", b"a\xe9b", b"h%zz", b"http://h",
    b"h\x7f", b'"h"',
)  # fmt: skip
RIGHT_HOSTS: Final = (
    b"h", b"h:80", b"127.0.0.1:1", b"[::1]:8000", b"xn--bcher-kva.example", b"a_b", b"h:",
    b"H.EXAMPLE.", b"%41",
)  # fmt: skip


def list_hosts() -> Iterator[Case]:
    rule, wrong, body = "RFC 9112 3.2", "invalid-host", b'{"expires_in": 60}'
    yield refuse(rule, "no Host", get(), problem=wrong)
    yield answer(rule, "no Host in HTTP/1.0", get(version=b"1.0"), statuses={200})
    yield refuse(rule, "Host twice", get(HOST, b"Host: other.example"), problem=wrong)
    yield refuse(rule, "Host twice, the same", get(HOST, HOST), problem=wrong)
    old = get(HOST, HOST, version=b"1.0")
    yield answer(rule, "Host twice in HTTP/1.0", old, statuses={200, 400})
    link = b"POST /files/" + READY + b"/links HTTP/1.1"
    for value in WRONG_HOSTS:
        field, name = b"Host: " + value, f"Host {value!r}"
        yield refuse(rule, name, get(field), problem="")
        sent = head(link, field, AUTHORIZATION, JSON, measure(body)) + body
        yield refuse(rule, f"a link, {name}", sent, problem="")
    for value in RIGHT_HOSTS:
        yield serve(rule, f"Host {value!r}", get(b"Host: " + value))
    for value in (b"", b"a,b", b"a" * 10 * KIB):
        sent, name = get(b"Host: " + value), f"Host {value[:10]!r} of {len(value)} bytes"
        yield answer(rule, name, sent, statuses={200, 400})
    yield refuse("RFC 9112 5.2", "Host, folded", get(b"Host: a\r\n b"))


ODD_TARGETS: Final = {
    "authority-form": b"files.example:443",
    "a NUL, encoded": b"/files/%00",
    "a NUL, encoded, in a token": b"/l/%00",
    "two slashes": b"//health/live",
    "two slashes and a host": b"//evil.example/health/live",
    "dot segments": b"/files/../health/live",
    "dot segments, encoded": b"/files/%2e%2e/health/live",
    "dot segments past the root": b"/../../../../etc/passwd",
    "a wrong escape": b"/files/%zz",
    "an escape that ends too soon": b"/files/%",
    "a backslash": b"/files\\upload",
    "a fragment": b"/health/live#part",
    "a question mark and no query": b"/health/live?",
    "a query that has no pairs": b"/health/live?&&==&%",
    "a query of 16 KiB": b"/health/live?" + b"a" * 16 * KIB,
    "a path of 16 KiB": b"/" + b"a" * 16 * KIB,
    "8 thousand segments": b"/a" * 8 * KIB,
    "an asterisk": b"*",
    "a path without its slash": b"health/live",
}
BROKEN_TARGETS: Final = {
    "a byte above 127": b"/files/\xe9",
    "a tab": b"/files/\ta",
    "a NUL": b"/files/\x00",
    "a DEL": b"/files/\x7f",
}
ABSOLUTE_TARGETS: Final = {
    "another Host": b"http://other.example/health/live",
    "no path": b"http://files.example",
    "a user": b"http://u:p@files.example/health/live",
    "another scheme": b"ftp://files.example/health/live",
    "a wrong port": b"http://files.example:99999/health/live",
    "no host": b"http:///health/live",
}


def list_targets() -> Iterator[Case]:
    rule, harmless = "RFC 9112 3.2.2", {200, 304, 308, 400, 403, 404, 405, 414}
    yield serve(rule, "absolute-form", get(HOST, target=b"http://files.example/health/live"))
    for name, target in ABSOLUTE_TARGETS.items():
        sent = get(HOST, target=target)
        yield answer(rule, f"absolute-form, {name}", sent, statuses=harmless)
    rule = "RFC 9112 3.2"
    for name, target in ODD_TARGETS.items():
        yield answer(rule, name, get(HOST, target=target), statuses=harmless)
    for name, target in BROKEN_TARGETS.items():
        yield answer(rule, name, get(HOST, target=target), statuses={400, 404})
    sent = request(b"OPTIONS * HTTP/1.1")
    yield answer("RFC 9110 9.3.7", "OPTIONS *", sent, statuses={200, 204, 400, 404, 405})
    long = get(HOST, target=b"/" + b"a" * 70 * KIB)
    yield refuse("RFC 9112 3", "a request line of 70 KiB", long, statuses={414, 431})
    for escaped in (b"a%00b", b"..%2fa", b"%2e%2e", b"a%5cb"):
        sent = request(b"PUT /upload/" + escaped + b" HTTP/1.1", CHUNKED) + HELLO
        yield answer(rule, f"an upload named {escaped.decode()}", sent, statuses={400})


# Lines and fields

WRONG_FIELDS: Final = {
    "a blank before the colon": b"X-A : b",
    "a tab before the colon": b"X-A\t: b",
    "an empty name": b": b",
    "no colon": b"X-A",
    "a blank in the name": b"X A: b",
    "a NUL in the name": b"X\x00A: b",
    "a NUL in the value": b"X-A: b\x00c",
    "a bare CR in the value": b"X-A: b\rc",
    "a bare CR before a field": b"X-A: b\rContent-Length: 5",
    "a DEL in the name": b"X\x7fA: b",
    "a byte above 127 in the name": b"X\xe9: b",
    "parentheses in the name": b"X(A): b",
}


def list_fields() -> Iterator[Case]:
    rule = "RFC 9112 5"
    for name, field in WRONG_FIELDS.items():
        yield refuse(rule, name, get(HOST, field))
        yield refuse(rule, f"{name}, of an upload", upload(field, CHUNKED) + HELLO)
    line = b"GET /health/live HTTP/1.1\r\n X-A: b\r\nHost: h\r\n\r\n"
    yield refuse("RFC 9112 2.2", "a blank before the first field", line)
    folded = get(HOST, b"X-A: b\r\n c")
    yield answer("RFC 9112 5.2", "a folded value", folded, statuses={200, 400})
    rule = "RFC 9110 5.5"
    control = get(HOST, b"X-A: b\x01c")
    yield answer(rule, "a control byte in a value", control, statuses={200, 400})
    yield serve(rule, "bytes above 127 in a value", get(HOST, b"X-A: \xe9\xff"))
    yield serve(rule, "an empty value", get(HOST, b"X-A:"))
    yield serve("RFC 9110 5.6.2", "every kind of character", get(HOST, b"!#$%&'*+-.^_`|~09azAZ: b"))
    yield serve("RFC 9110 10.1.4", "TE", get(HOST, b"TE: trailers, gzip;q=0.5", b"Connection: TE"))
    named = upload(b"Connection: Content-Length, Host, Authorization", b"Content-Length: 5")
    yield store_or_refuse("RFC 9110 7.6.1", "Connection names other fields", named + b"hello")
    rule, expect = "RFC 9110 10.1.1", b"Expect: 100-continue"
    old = upload(expect, b"Content-Length: 5", version=b"1.0") + b"hello"
    yield store(rule, "Expect in HTTP/1.0", old)
    odd = upload(b"Expect: tea", b"Content-Length: 5") + b"hello"
    yield store_or_refuse(rule, "an unknown expectation", odd, statuses={417})


def list_lines() -> Iterator[Case]:
    rule = "RFC 9112 2.2"
    bare = b"GET /health/live HTTP/1.1\nHost: h\n\n"
    yield answer(rule, "lines that end in LF alone", bare, statuses={200, 400})
    bare = b"GET /health/live HTTP/1.1\r\nHost: h\nX-A: b\r\n\r\n"
    yield answer(rule, "one line that ends in LF alone", bare, statuses={200, 400})
    sent = b"\r\n\r\n" + get(HOST)
    yield serve(rule, "empty lines before the request", sent)
    cut = [b"\r", b"\n", b"\r", b"\n" + get(HOST)]
    yield serve(rule, "empty lines before the request, cut within", *cut)
    yield refuse(rule, "six empty lines before the request", b"\r\n" * 6 + get(HOST))
    yield refuse(rule, "six empty lines before the request, one by one", *[b"\r\n"] * 6, get(HOST))
    sent = upload(b"Content-Length: 5") + b"hello"
    yield store(rule, "an empty line after the body, cut within", sent, b"\r", b"\n")
    yield refuse(rule, "a blank before the request", b" " + get(HOST))
    for field in (b"Upgrade: h2c", b"Host: h", b"X-A: b"):
        sent = field + b"\r\n" + get(HOST)
        yield refuse(rule, f"{field.decode()} before the request line", sent)
    bare = b"GET /health/live HTTP/1.1\rHost: h\r\r"
    yield refuse(rule, "lines that end in CR alone", bare, b"\r\n\r\n")
    rule, other = "RFC 9112 2.3", {400, 505}
    for version in (
        b"HTTP/2.0", b"HTTP/0.9", b"HTTP/3.0", b"http/1.1", b"HTTP/1.1x", b"HTTP/1", b"HTTP/11",
        b"HTTP/1.10", b"HTTX/1.1",
    ):  # fmt: skip
        sent = head(b"GET /health/live " + version, HOST)
        yield refuse(rule, f"version {version.decode()}", sent, statuses=other)
    yield refuse(rule, "no version", b"GET /health/live\r\n\r\n", statuses=other)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield refuse("RFC 9113 3.4", "the preface of HTTP/2", preface, statuses=other)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500
    yield refuse(rule, "a TLS hello", hello, b"\r\n\r\n")
    later = head(b"GET /health/live HTTP/1.2", HOST)
    yield answer("RFC 9110 2.5", "HTTP/1.2", later, statuses={200, 400, 505})


def list_methods() -> Iterator[Case]:
    rule, unknown = "RFC 9110 9.1", {400, 404, 405, 501}
    for method in (b"get", b"Get", b"BREW", b"M-SEARCH", b"PATCHX", b"A" * 500):
        sent = head(method + b" /health/live HTTP/1.1", HOST)
        yield answer(rule, f"method {method[:10].decode()}", sent, statuses=unknown)
    for method in (b"G\x00T", b"G(T", b"G\xe9T", b""):
        yield refuse(rule, f"method {method!r}", head(method + b" /health/live HTTP/1.1", HOST))
    rule = "RFC 9112 3"
    for name, line in {
        "two blanks": b"GET  /health/live HTTP/1.1",
        "a tab": b"GET\t/health/live HTTP/1.1",
        "a blank at the end": b"GET /health/live HTTP/1.1 ",
    }.items():
        yield answer(rule, f"{name} in the request line", head(line, HOST), statuses={200, 400})


# The size of a head


def list_sizes() -> Iterator[Case]:
    rule, large, start = "RFC 6585 5", {431}, b"GET /health/live HTTP/1.1\r\nHost: h\r\nX-A: "
    yield refuse(rule, "a head of 65 KiB", get(HOST, b"X-A: " + b"a" * 65 * KIB), statuses=large)
    pieces = [start, *[b"a" * 13 * KIB] * 5, b"\r\n\r\n"]
    yield refuse(rule, "a head of 65 KiB, in pieces", *pieces, statuses=large)
    yield refuse(rule, "a head of 65 KiB without an end", start + b"a" * 65 * KIB, statuses=large)
    sent = upload(b"X-A: " + b"a" * 65 * KIB, CHUNKED) + HELLO
    yield refuse(rule, "a head of 65 KiB, of an upload", sent, statuses=large)
    sent = b"GET /health/live HTTP/1.1\r\n" + b"a" * 65 * KIB
    yield refuse(rule, "a name of 65 KiB", sent, statuses=large)
    yield refuse(rule, "a method of 66 KiB", b"G" * 66 * KIB, statuses={400, 414, 431})
    yield refuse(rule, "66 KiB of empty lines", b"\r\n" * 33 * KIB, statuses={400, 431})
    folded = get(HOST, b"X-A: a" + b"\r\n a" * 17 * KIB)
    yield refuse(rule, "66 KiB of folded lines", folded, statuses={400, 431})
    fields = [b"X-%d: a" % number for number in range(100)]
    yield refuse(rule, "101 fields", get(HOST, *fields), statuses=large)
    yield refuse(rule, "101 fields of one name", get(HOST, *[b"a:b"] * 100), statuses=large)
    yield serve(rule, "100 fields", get(HOST, *fields[:99]))
    yield serve(rule, "a head of 60 KiB", get(HOST, b"X-A: " + b"a" * 60 * KIB))
    pieces = [start, *[b"a" * 12 * KIB] * 5, b"\r\n\r\n"]
    yield serve(rule, "a head of 60 KiB, in pieces", *pieces)


FRAMING: Final = (
    *list_upgrades(),
    *list_connects(),
    *list_missing_lengths(),
    *list_transfer_codings(),
    *list_ambiguous_lengths(),
    *list_lengths(),
    *list_chunks(),
    *list_wrong_chunks_behind_answers(),
    *list_floods_within_chunks(),
)
"""The cases about the end of a request, on which a proxy and a server must agree."""
CASES: Final = (
    *FRAMING,
    *list_hosts(),
    *list_targets(),
    *list_fields(),
    *list_lines(),
    *list_methods(),
    *list_sizes(),
)
