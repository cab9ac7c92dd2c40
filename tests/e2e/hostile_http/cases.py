"""The table of hostile requests: bytes to send, the rule that they try, and what the rule asks for.

The bytes hold placeholders of the same length as what takes their place (`fill`), so that every length in them stays right. The
fuzzer (tests/fuzz) takes the same table as the seeds of its mutations.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

KEY: Final = b"assay_" + b"K" * 43
NAME: Final = b"name-of-case"
READY: Final = b"00000000-0000-7000-8000-0000000ready"
PENDING: Final = b"00000000-0000-7000-8000-00000pending"
AUTHORIZATION: Final = b"Authorization: Bearer " + KEY
HOST: Final = b"Host: files.example"
CHUNKED: Final = b"Transfer-Encoding: chunked"
HELLO: Final = b"5\r\nhello\r\n0\r\n\r\n"
KIB: Final = 1024
REFUSED: Final = frozenset({400})
TOO_LARGE: Final = frozenset({431})


class Then(Enum):
    """What becomes of the connection behind the answer. EITHER: as the answer announces."""

    STAYS = "stays"
    CLOSES = "closes"
    EITHER = "either"


@dataclass(frozen=True)
class Case:
    """One rule, with the section that has it, and the request that tries it.

    `stored` is the body that the file named NAME must have if the answer is 201; None means that no file may come of the request.
    `declares` means that the answer 307 or 201 may leave a row without bytes.
    """

    name: str
    section: str
    segments: tuple[bytes, ...]
    statuses: frozenset[int]
    problem: str = ""
    then: Then = Then.EITHER
    stored: bytes | None = None
    declares: bool = False
    method: str = "GET"
    version: str = "1.1"

    def __str__(self) -> str:
        return f"{self.section}: {self.name}"


def fill(segments: Iterable[bytes], values: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the segments with each placeholder replaced by its value, which has the same length."""
    filled = list(segments)
    for placeholder, value in values.items():
        assert len(value) == len(placeholder), placeholder
        filled = [segment.replace(placeholder, value) for segment in filled]
    return filled


# Building requests


def head(line: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


def request(line: bytes, *fields: bytes, body: bytes | None = None) -> bytes:
    """An ordinary request by the key's owner; with a body it has that body's Content-Length."""
    length = [] if body is None else [b"Content-Length: %d" % len(body)]
    return head(line, HOST, AUTHORIZATION, *fields, *length) + (body or b"")


def chunk(body: bytes, *, size: int = 0) -> bytes:
    """The chunked coding of a body, in chunks of `size`, or in one."""
    pieces = [body[start : start + (size or len(body))] for start in range(0, len(body), size or len(body))]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def upload(*fields: bytes, version: bytes = b"1.1") -> bytes:
    """The head of a streamed upload that says nothing of its length."""
    return request(b"POST /files/upload?filename=" + NAME + b" HTTP/" + version, b"Content-Type: text/plain", *fields)


def put(*fields: bytes, version: bytes = b"1.1") -> bytes:
    return request(b"PUT /upload/" + NAME + b" HTTP/" + version, *fields)


SMUGGLED: Final = request(b"POST /files/upload?filename=smuggled HTTP/1.1", body=b"evil")
"""A body that is a request of its own, and must never be taken for one."""
WRONG_DIGEST: Final = b'{"sha256": "%s"}' % (b"0" * 64)


def make_case(name: str, section: str, *segments: bytes, statuses: Iterable[int], **more: object) -> Case:
    method, _, line = segments[0].partition(b" ")
    version = "1.0" if b" HTTP/1.0\r\n" in line.partition(b"\n")[0] + b"\n" else "1.1"
    case = Case(name, section, segments, frozenset(statuses), method=method.decode("latin-1"), version=version)
    return replace(case, **more)  # type: ignore[arg-type]  # the names of the fields are checked when the table is made


# RFC 9110, section 7.8, and RFC 9112, section 3: Upgrade, CONNECT

UPGRADES: Final = {
    "h2c": (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
    "websocket": (
        b"Connection: keep-alive, Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    "an unknown protocol": (b"Connection: upgrade", b"Upgrade: foo/1, TLS/1.2"),
}
PLACEMENTS: Final = ("in the same segment", "in a later segment", "cut within the body")


def place(start: bytes, body: bytes, placement: str) -> tuple[bytes, ...]:
    if placement == PLACEMENTS[0]:
        return (start + body,)
    return (start, body) if placement == PLACEMENTS[1] else (start + body[:20], body[20:])


def list_upgrades() -> Iterable[Case]:
    section = "RFC 9110 7.8"
    for (protocol, fields), placement in itertools.product(UPGRADES.items(), PLACEMENTS):
        about = f"Upgrade to {protocol}, {{}} {placement}"
        chunked, length = chunk(SMUGGLED), b"Content-Length: %d" % len(SMUGGLED)
        yield make_case(
            about.format("chunks"), section, *place(upload(*fields, CHUNKED), chunked, placement), statuses={201}, stored=SMUGGLED
        )
        yield make_case(
            about.format("a length"), section, *place(upload(*fields, length), SMUGGLED, placement), statuses={201}, stored=SMUGGLED
        )
    for placement in PLACEMENTS:
        fields = UPGRADES["h2c"]
        complete = request(b"POST /files/" + READY + b"/complete HTTP/1.1", b"Content-Type: application/json", *fields, CHUNKED)
        length = b"Content-Length: %d" % len(WRONG_DIGEST)
        conflict = {"statuses": {409}, "problem": "digest-conflict"}
        about = f"Upgrade on {{}} {placement}"
        yield make_case(
            about.format("PUT, chunks"), section, *place(put(*fields, CHUNKED), chunk(SMUGGLED), placement), statuses={201}, stored=SMUGGLED
        )
        yield make_case(
            about.format("complete with a wrong digest, chunks"),
            section,
            *place(complete, chunk(WRONG_DIGEST), placement),
            **conflict,  # type: ignore[arg-type]  # as above
        )
        yield make_case(
            about.format("complete with a wrong digest, a length"),
            section,
            *place(complete.replace(CHUNKED, length), WRONG_DIGEST, placement),
            **conflict,  # type: ignore[arg-type]  # as above
        )
        yield make_case(
            about.format("GET with a body,"),
            section,
            *place(request(b"GET /files?limit=1 HTTP/1.1", *fields, b"Content-Length: %d" % len(SMUGGLED)), SMUGGLED, placement),
            statuses={200, 400},
        )
    for protocol, fields in UPGRADES.items():
        yield make_case(
            f"Upgrade to {protocol} on GET", section, request(b"GET /health/live HTTP/1.1", *fields), statuses={200}, then=Then.STAYS
        )
        yield make_case(f"Upgrade to {protocol}, a body of no length at all", section, upload(*fields), statuses={411}, problem="")
    yield make_case("Upgrade without Connection", section, upload(b"Upgrade: h2c", CHUNKED) + HELLO, statuses={201}, stored=b"hello")
    yield make_case(
        "Connection: Upgrade without Upgrade", section, upload(b"Connection: Upgrade", CHUNKED) + HELLO, statuses={201}, stored=b"hello"
    )
    yield make_case(
        "Upgrade in HTTP/1.0 is ignored",
        section,
        upload(*UPGRADES["h2c"], b"Content-Length: 5", version=b"1.0") + b"hello",
        statuses={201},
        stored=b"hello",
    )


def list_connects() -> Iterable[Case]:
    section, line = "RFC 9110 9.3.6", b"CONNECT files.example:443 HTTP/1.1"
    refused = {400, 404, 405, 501}
    yield make_case("CONNECT", section, request(line), statuses=refused)
    for placement in PLACEMENTS:
        length = b"Content-Length: %d" % len(SMUGGLED)
        yield make_case(
            f"CONNECT, a length, body {placement}", section, *place(request(line, length), SMUGGLED, placement), statuses=refused
        )
        yield make_case(
            f"CONNECT, chunks, body {placement}", section, *place(request(line, CHUNKED), chunk(SMUGGLED), placement), statuses=refused
        )
    yield make_case("CONNECT with a path", section, request(b"CONNECT /files HTTP/1.1"), statuses=refused)


# RFC 9110, section 8.6, and RFC 9112, section 6: lengths and transfer codings


def list_missing_lengths() -> Iterable[Case]:
    section = "RFC 9110 15.5.12"
    for version in (b"1.0", b"1.1"):
        about = f"over HTTP/{version.decode()} without a length"
        yield make_case(f"POST /files/upload {about}", section, upload(version=version), statuses={411}, then=Then.CLOSES)
        yield make_case(f"PUT /upload {about}", section, put(version=version), statuses={411}, then=Then.CLOSES)
        complete = request(b"POST /files/" + READY + b"/complete HTTP/" + version)
        yield make_case(f"complete {about}", "RFC 9112 6.3", complete, statuses={200})
        renew = request(b"POST /files/" + PENDING + b"/upload HTTP/" + version)
        yield make_case(f"a fresh URL {about}", "RFC 9112 6.3", renew, statuses={200})
    yield make_case("HTTP/1.0, a body without a length", section, upload(version=b"1.0") + b"hello", statuses={411}, then=Then.CLOSES)
    yield make_case(
        "HTTP/1.0, a body in a later segment without a length", section, upload(version=b"1.0"), b"hello", statuses={411}, then=Then.CLOSES
    )
    yield make_case("HTTP/1.0, PUT with a body without a length", section, put(version=b"1.0") + b"hello", statuses={411}, then=Then.CLOSES)
    yield make_case(
        "HTTP/1.0 with a length", "RFC 9110 8.6", upload(b"Content-Length: 5", version=b"1.0") + b"hello", statuses={201}, stored=b"hello"
    )
    yield make_case("a length of 0", "RFC 9110 8.6", upload(b"Content-Length: 0"), statuses={201}, stored=b"")
    yield make_case(
        "a declaration without a length",
        "RFC 9112 6.3",
        request(b"POST /files HTTP/1.1", b"Content-Type: application/json"),
        statuses={400},
    )


def list_transfer_codings() -> Iterable[Case]:
    section = "RFC 9112 6.1"
    te = b"Transfer-Encoding: "
    yield make_case("gzip, chunked", section, upload(te + b"gzip, chunked") + HELLO, statuses={501}, then=Then.CLOSES)
    yield make_case("gzip and chunked in two lines", section, upload(te + b"gzip", CHUNKED) + HELLO, statuses={501}, then=Then.CLOSES)
    yield make_case("gzip alone", section, upload(te + b"gzip") + HELLO, statuses={400, 501}, then=Then.CLOSES)
    for coding in (b"identity", b"xchunked", b"chunked-x", b"chunked, gzip", b"chunked, identity", b"identity, chunked", b"chunkedchunked"):
        yield make_case(coding.decode(), section, upload(te + coding) + HELLO, statuses={400, 501}, then=Then.CLOSES)
    for coding in (b"chunked, chunked", b'"chunked"', b"\x0bchunked", b"chunked;a=b", b"chunked\x00", b"[chunked]"):
        yield make_case(repr(coding), section, upload(te + coding) + HELLO, statuses={400, 501}, then=Then.CLOSES)
    yield make_case("chunked in two lines", section, upload(CHUNKED, CHUNKED) + HELLO, statuses={400, 501}, then=Then.CLOSES)
    yield make_case("Chunked, in another case", section, upload(te + b"cHuNkEd") + HELLO, statuses={201}, stored=b"hello")
    yield make_case("chunked between blanks", section, upload(te + b" \tchunked\t ") + HELLO, statuses={201}, stored=b"hello")
    yield make_case(
        "empty members of the list", "RFC 9110 5.6.1", upload(te + b", chunked") + HELLO, statuses={201, 400, 501}, stored=b"hello"
    )
    yield make_case("empty", section, upload(te) + HELLO, statuses={400, 411, 501}, then=Then.CLOSES)
    yield make_case(
        "chunked, folded", "RFC 9112 5.2", upload(b"Transfer-Encoding:\r\n chunked") + HELLO, statuses={201, 400}, stored=b"hello"
    )
    yield make_case(
        "chunked, a blank before the colon",
        "RFC 9112 5.1",
        upload(b"Transfer-Encoding : chunked") + HELLO,
        statuses=REFUSED,
        then=Then.CLOSES,
    )
    yield make_case("chunked under HTTP/1.0", section, upload(CHUNKED, version=b"1.0") + HELLO, statuses={400}, then=Then.CLOSES)
    for first, second in itertools.permutations((CHUNKED, b"Content-Length: %d" % len(HELLO))):
        about = f"{first.partition(b':')[0].decode()} before {second.partition(b':')[0].decode()}"
        yield make_case(about, "RFC 9112 6.3", upload(first, second) + HELLO, statuses={400}, then=Then.CLOSES)
    yield make_case(
        "both on a route without a file",
        "RFC 9112 6.3",
        request(b"POST /files/" + READY + b"/complete HTTP/1.1", b"Content-Length: 4", CHUNKED) + HELLO,
        statuses={400},
        then=Then.CLOSES,
    )
    yield make_case(
        "both, the body a request",
        "RFC 9112 6.3",
        upload(b"Content-Length: 5", CHUNKED) + b"0\r\n\r\n" + SMUGGLED,
        statuses={400},
        then=Then.CLOSES,
    )


def list_lengths() -> Iterable[Case]:
    section, cl = "RFC 9110 8.6", b"Content-Length: "
    for value in (b"+5", b"0x5", b"-1", b"5_0", b"5.0", b"5e0", b"five", b"5 5", b"\x0b5", b"5;", b"\xb2", b"5\x00", b""):
        yield make_case(f"Content-Length {value!r}", section, upload(cl + value) + b"hello", statuses=REFUSED, then=Then.CLOSES)
    for value in (b"9" * 19, b"9" * 20, b"9" * 40, b"18446744073709551621"):
        yield make_case(f"Content-Length {value.decode()}", section, upload(cl + value) + b"hello", statuses={400, 413}, then=Then.CLOSES)
    yield make_case("9 thousand digits", section, upload(cl + b"9" * 9000) + b"hello", statuses={400, 413, 431}, then=Then.CLOSES)
    yield make_case("blanks around the number", "RFC 9112 5", upload(cl + b" \t5 \t") + b"hello", statuses={201}, stored=b"hello")
    yield make_case("leading zeros", section, upload(cl + b"0005") + b"hello", statuses={201, 400}, stored=b"hello")
    yield make_case("two lengths, the same", section, upload(cl + b"5", cl + b"5") + b"hello", statuses={201, 400}, stored=b"hello")
    yield make_case("a list of the same length", section, upload(cl + b"5, 5") + b"hello", statuses={201, 400}, stored=b"hello")
    for first, second in ((b"5", b"6"), (b"0", b"5"), (b"5", b"0"), (b"5", b"05x")):
        yield make_case(
            f"two lengths, {first.decode()} and {second.decode()}",
            section,
            upload(cl + first, cl + second) + b"hello",
            statuses=REFUSED,
            then=Then.CLOSES,
        )
    yield make_case("a list of differing lengths", section, upload(cl + b"5, 6") + b"hello", statuses=REFUSED, then=Then.CLOSES)
    yield make_case("a length, folded", "RFC 9112 5.2", upload(b"Content-Length:\r\n 5") + b"hello", statuses={201, 400}, stored=b"hello")


# RFC 9112, section 7.1: chunks


def list_chunks() -> Iterable[Case]:
    section = "RFC 9112 7.1"
    wrong = {
        "no hexadecimal digits": b"zz\r\nhello\r\n0\r\n\r\n",
        "an empty size": b"\r\nhello\r\n0\r\n\r\n",
        "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
        "a size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
        "a size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
        "a size with an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
        "a blank before the size": b" 5\r\nhello\r\n0\r\n\r\n",
        "a size of 17 digits": b"1" + b"0" * 15 + b"5\r\nhello\r\n0\r\n\r\n",
        "a size of 21 digits": b"F" * 21 + b"\r\nhello\r\n0\r\n\r\n",
        "a size of 5 thousand digits": b"0" * 4999 + b"5\r\nhello\r\n0\r\n\r\n",
        "more bytes than the size": b"5\r\nhelloX\r\n0\r\n\r\n",
        "fewer bytes than the size": b"6\r\nhello\r\n0\r\n\r\n",
        "a chunk that ends in LF alone": b"5\r\nhello\n0\r\n\r\n",
        "a chunk without an end": b"5\r\nhello0\r\n\r\n",
        "a size that ends in LF alone": b"5\nhello\r\n0\r\n\r\n",
        "a size that ends in CR alone": b"5\rhello\r\n0\r\n\r\n",
        "two other bytes for the end": b"5\r\nhelloXX0\r\n\r\n",
        "a NUL in the size": b"5\x00\r\nhello\r\n0\r\n\r\n",
    }  # fmt: skip
    for name, body in wrong.items():
        statuses = {400, 413, 431} if "thousand" in name or "digits" in name else {400}
        yield make_case(name, section, upload(CHUNKED) + body, statuses=statuses, then=Then.CLOSES)
        yield make_case(f"{name}, in a later segment", section, upload(CHUNKED), body, statuses=statuses, then=Then.CLOSES)
    yield make_case(
        "an LF within a chunk's extension", section, upload(CHUNKED) + b"5;a\nb\r\nhello\r\n0\r\n\r\n", statuses=REFUSED, then=Then.CLOSES
    )
    right = {
        "leading zeros of a size": b"0005\r\nhello\r\n00\r\n\r\n",
        "a size in upper case": b"A\r\nhellohello\r\n0\r\n\r\n",
        "an extension": b'5;a=b;c="d;\t"\r\nhello\r\n0;e\r\n\r\n',
        "trailers": b"5\r\nhello\r\n0\r\nX-Trailer: a\r\nContent-Length: 99\r\nTransfer-Encoding: gzip\r\n\r\n",
    }
    for name, body in right.items():
        stored = b"hellohello" if b"hellohello" in body else b"hello"
        yield make_case(name, section, upload(CHUNKED) + body, statuses={201}, stored=stored)
    yield make_case("a byte a chunk", section, upload(CHUNKED) + chunk(SMUGGLED, size=1), statuses={201}, stored=SMUGGLED)
    yield make_case("a byte a segment", section, upload(CHUNKED), *[bytes([byte]) for byte in HELLO], statuses={201}, stored=b"hello")
    yield make_case(
        "a key in the trailers opens nothing",
        "RFC 9110 6.5.1",
        head(b"POST /files/upload?filename=" + NAME + b" HTTP/1.1", HOST, CHUNKED) + b"5\r\nhello\r\n0\r\n" + AUTHORIZATION + b"\r\n\r\n",
        statuses={401},
    )
    yield make_case(
        "a trailer without a colon", section, upload(CHUNKED) + b"5\r\nhello\r\n0\r\nno colon\r\n\r\n", statuses={201, 400}, stored=b"hello"
    )
    yield make_case(
        "an extension of 1 MiB", "RFC 9112 7.1.1", upload(CHUNKED) + b"5;" + b"a" * KIB**2 + b"\r\nhello\r\n0\r\n\r\n",
        statuses={400, 413, 431}, then=Then.CLOSES,
    )  # fmt: skip
    yield make_case(
        "extensions of 2 MiB in all", "RFC 9112 7.1.1", upload(CHUNKED) + (b"1;" + b"a" * 2 * KIB + b"\r\nx\r\n") * KIB + b"0\r\n\r\n",
        statuses={201, 400, 413, 431}, stored=b"x" * KIB,
    )  # fmt: skip
    yield make_case(
        "trailers of 1 MiB", "RFC 9110 6.5.1", upload(CHUNKED) + b"5\r\nhello\r\n0\r\n" + b"a:b\r\n" * (KIB**2 // 5) + b"\r\n",
        statuses={400, 413, 431}, then=Then.CLOSES,
    )  # fmt: skip
    yield make_case(
        "a trailer of 1 MiB", "RFC 9110 6.5.1", upload(CHUNKED) + b"5\r\nhello\r\n0\r\na:" + b"b" * KIB**2 + b"\r\n\r\n",
        statuses={400, 413, 431}, then=Then.CLOSES,
    )  # fmt: skip


# RFC 9112, section 3.2: Host and the target


def with_host(*lines: bytes, target: bytes = b"/health/live", version: bytes = b"1.1") -> bytes:
    return head(b"GET " + target + b" HTTP/" + version, *lines)


def list_hosts() -> Iterable[Case]:
    section = "RFC 9112 3.2"
    yield make_case("no Host", section, with_host(), statuses=REFUSED, problem="", then=Then.CLOSES)
    yield make_case("no Host under HTTP/1.0", section, with_host(version=b"1.0"), statuses={200})
    yield make_case("Host twice", section, with_host(HOST, b"Host: other.example"), statuses=REFUSED)
    yield make_case("Host twice, the same", section, with_host(HOST, HOST), statuses=REFUSED)
    yield make_case("Host twice under HTTP/1.0", section, with_host(HOST, HOST, version=b"1.0"), statuses={200, 400})
    wrong = (
        b"h:99999", b"h:-1", b"h:x", b"h:1:2", b"[::1", b"[::1]x", b"[]", b"::1", b"[::1]]", b"u@evil", b"u:p@evil", b"a b", b"a/b",
        b"a?b", b"a#b", b"a\\b", b"<a>", b"a\xe9b", b"h%zz", b"http://h", b"h\x7f", b'"h"',
    )  # fmt: skip
    for value in wrong:
        yield make_case(f"Host {value!r}", section, with_host(b"Host: " + value), statuses=REFUSED)
        body = b'{"expires_in": 60}'
        link = head(
            b"POST /files/" + READY + b"/links HTTP/1.1",
            b"Host: " + value, AUTHORIZATION, b"Content-Type: application/json", b"Content-Length: %d" % len(body),
        )  # fmt: skip
        yield make_case(f"a link for Host {value!r}", section, link + body, statuses=REFUSED)
    for value in (b"h", b"h:80", b"127.0.0.1:1", b"[::1]:8000", b"xn--bcher-kva.example", b"a_b", b"h:", b"H.EXAMPLE.", b"%41"):
        yield make_case(f"Host {value!r}", section, with_host(b"Host: " + value), statuses={200}, then=Then.STAYS)
    yield make_case("two hosts in one Host", section, with_host(b"Host: a,b"), statuses={200, 400})
    yield make_case("an empty Host", section, with_host(b"Host:"), statuses={200, 400})
    yield make_case("a Host of 10 KiB", section, with_host(b"Host: " + b"a" * 10 * KIB), statuses={200, 400})
    yield make_case("Host folded", "RFC 9112 5.2", with_host(b"Host: a\r\n b"), statuses=REFUSED)


def list_targets() -> Iterable[Case]:
    section = "RFC 9112 3.2.2"
    absolute = b"http://files.example/health/live"
    yield make_case("absolute-form", section, with_host(HOST, target=absolute), statuses={200}, then=Then.STAYS)
    yield make_case("absolute-form, another Host", section, with_host(b"Host: other", target=absolute), statuses={200, 400})
    yield make_case("absolute-form, no path", section, with_host(HOST, target=b"http://files.example"), statuses={200, 304, 400, 404})
    yield make_case(
        "absolute-form with a user", section, with_host(HOST, target=b"http://u:p@files.example/health/live"), statuses={200, 400}
    )
    yield make_case(
        "absolute-form of another scheme", section, with_host(HOST, target=b"ftp://files.example/health/live"), statuses={200, 400, 404}
    )
    section = "RFC 9112 3.2"
    odd = {
        "authority-form": b"files.example:443",
        "a NUL, encoded": b"/files/%00",
        "a NUL, encoded, on the way of a name": b"/l/%00",
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
        "a query that is no pairs": b"/health/live?&&==&%",
        "a query of 16 KiB": b"/health/live?" + b"a" * 16 * KIB,
        "a path of 16 KiB": b"/" + b"a" * 16 * KIB,
        "16 thousand segments": b"/a" * 8 * KIB,
        "an asterisk": b"*",
        "a path without its slash": b"health/live",
    }  # fmt: skip
    harmless = {200, 308, 400, 404, 405, 414}
    for name, target in odd.items():
        yield make_case(name, section, with_host(HOST, target=target), statuses=harmless)
    for name, target in {
        "a byte above 127": b"/files/\xe9",
        "a tab": b"/files/\ta",
        "a NUL": b"/files/\x00",
        "a DEL": b"/files/\x7f",
    }.items():
        yield make_case(name, section, with_host(HOST, target=target), statuses={400, 404})
    yield make_case("OPTIONS *", "RFC 9110 9.3.7", request(b"OPTIONS * HTTP/1.1"), statuses={200, 204, 400, 404, 405})
    yield make_case(
        "a request line of 70 KiB", "RFC 9112 3", with_host(HOST, target=b"/" + b"a" * 70 * KIB), statuses={400, 414, 431}, then=Then.CLOSES
    )
    yield make_case("a NUL in the name of an upload", section, request(b"PUT /upload/a%00b HTTP/1.1", CHUNKED) + HELLO, statuses={400})
    yield make_case("a way up in the name of an upload", section, request(b"PUT /upload/..%2fa HTTP/1.1", CHUNKED) + HELLO, statuses={400})


# RFC 9112, sections 2 and 5: lines and fields


def list_fields() -> Iterable[Case]:
    section = "RFC 9112 5"
    wrong = {
        "a blank before the colon": b"X-A : b",
        "a tab before the colon": b"X-A\t: b",
        "an empty name": b": b",
        "no colon": b"X-A",
        "a blank in the name": b"X A: b",
        "a NUL in the name": b"X\x00A: b",
        "a NUL in the value": b"X-A: b\x00c",
        "a bare CR in the value": b"X-A: b\rc",
        "a bare CR before a field": b"X-A: b\rContent-Length: 5",
        "a control byte in the value": b"X-A: b\x01c",
        "a DEL in the name": b"X\x7fA: b",
        "a byte above 127 in the name": b"X\xe9: b",
        "parentheses in the name": b"X(A): b",
    }
    for name, line in wrong.items():
        statuses = {200, 400} if name == "a control byte in the value" else {400}
        then = Then.EITHER if 200 in statuses else Then.CLOSES
        yield make_case(name, section, with_host(HOST, line), statuses=statuses, then=then)
        yield make_case(
            f"{name}, of an upload",
            section,
            upload(line, CHUNKED) + HELLO,
            statuses=statuses - {200} | ({201} & {s + 1 for s in statuses}),
            stored=b"hello" if 200 in statuses else None,
        )
    yield make_case(
        "a first line that is folded",
        "RFC 9112 2.2",
        b"GET /health/live HTTP/1.1\r\n X-A: b\r\nHost: h\r\n\r\n",
        statuses=REFUSED,
        then=Then.CLOSES,
    )
    yield make_case("a folded value", "RFC 9112 5.2", with_host(HOST, b"X-A: b\r\n c"), statuses={200, 400})
    yield make_case("bytes above 127 in a value", "RFC 9110 5.5", with_host(HOST, b"X-A: \xe9\xff"), statuses={200}, then=Then.STAYS)
    yield make_case("an empty value", "RFC 9110 5.5", with_host(HOST, b"X-A:"), statuses={200}, then=Then.STAYS)
    yield make_case(
        "every character of a name", "RFC 9110 5.6.2", with_host(HOST, b"!#$%&'*+-.^_`|~09azAZ: b"), statuses={200}, then=Then.STAYS
    )
    section = "RFC 9112 2.2"
    yield make_case("lines that end in LF alone", section, b"GET /health/live HTTP/1.1\nHost: h\n\n", statuses={200, 400})
    yield make_case("one line that ends in LF alone", section, b"GET /health/live HTTP/1.1\r\nHost: h\nX-A: b\r\n\r\n", statuses={200, 400})
    yield make_case("empty lines before the request", section, b"\r\n\r\n" + with_host(HOST), statuses={200, 400}, method="GET")
    yield make_case("a blank before the request", section, b" " + with_host(HOST), statuses=REFUSED, then=Then.CLOSES, method="GET")
    yield make_case(
        "a CR without LF at the end of a line",
        section,
        b"GET /health/live HTTP/1.1\rHost: h\r\r",
        b"\r\n\r\n",
        statuses=REFUSED,
        then=Then.CLOSES,
    )
    section = "RFC 9112 2.3"
    for version in (b"HTTP/2.0", b"HTTP/0.9", b"HTTP/3.0", b"http/1.1", b"HTTP/1.1x", b"HTTP/1", b"HTTP/11", b"HTTP/1.10", b"HTTX/1.1"):
        yield make_case(
            f"version {version.decode()}", section, head(b"GET /health/live " + version, HOST), statuses={400, 505}, then=Then.CLOSES
        )
    yield make_case("the preface of HTTP/2", "RFC 9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", statuses={400, 505}, then=Then.CLOSES)
    yield make_case(
        "a TLS hello",
        section,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
        b"\r\n\r\n",
        statuses=REFUSED,
        then=Then.CLOSES,
        method="GET",
    )
    yield make_case("no version", section, b"GET /health/live\r\n\r\n", statuses={400, 505}, then=Then.CLOSES)
    yield make_case("HTTP/1.2 is HTTP/1.1", "RFC 9110 2.5", head(b"GET /health/live HTTP/1.2", HOST), statuses={200, 400, 505})
    section = "RFC 9110 9.1"
    for method in (b"get", b"Get", b"BREW", b"M-SEARCH", b"PATCHX", b"A" * 500):
        yield make_case(
            f"method {method[:10].decode()}", section, head(method + b" /health/live HTTP/1.1", HOST), statuses={400, 404, 405, 501}
        )
    for method in (b"G\x00T", b"G(T", b"G\xe9T", b""):
        yield make_case(
            f"method {method!r}", section, head(method + b" /health/live HTTP/1.1", HOST), statuses=REFUSED, then=Then.CLOSES, method="GET"
        )
    yield make_case("two blanks in the request line", "RFC 9112 3", head(b"GET  /health/live HTTP/1.1", HOST), statuses={200, 400})
    yield make_case("a tab in the request line", "RFC 9112 3", head(b"GET\t/health/live HTTP/1.1", HOST), statuses={200, 400}, method="GET")
    yield make_case(
        "Expect under HTTP/1.0",
        "RFC 9110 10.1.1",
        upload(b"Expect: 100-continue", b"Content-Length: 5", version=b"1.0") + b"hello",
        statuses={201},
        stored=b"hello",
    )
    yield make_case(
        "an unknown expectation",
        "RFC 9110 10.1.1",
        upload(b"Expect: tea", b"Content-Length: 5") + b"hello",
        statuses={201, 417},
        stored=b"hello",
    )
    yield make_case(
        "Connection names what it must not",
        "RFC 9110 7.6.1",
        upload(b"Connection: Content-Length, Host, Authorization", b"Content-Length: 5") + b"hello",
        statuses={201, 400},
        stored=b"hello",
    )
    yield make_case(
        "TE", "RFC 9110 10.1.4", with_host(HOST, b"TE: trailers, gzip;q=0.5", b"Connection: TE"), statuses={200}, then=Then.STAYS
    )


# RFC 9112, section 3, and RFC 6585, section 5: how large a head may be


def list_sizes() -> Iterable[Case]:
    section = "RFC 6585 5"
    yield make_case("a head of 65 KiB", section, with_host(HOST, b"X-A: " + b"a" * 65 * KIB), statuses=TOO_LARGE, then=Then.CLOSES)
    yield make_case(
        "a head of 65 KiB, in pieces",
        section,
        b"GET /health/live HTTP/1.1\r\nHost: h\r\nX-A: ",
        *[b"a" * 13 * KIB] * 5,
        b"\r\n\r\n",
        statuses=TOO_LARGE,
        then=Then.CLOSES,
    )
    yield make_case(
        "a head of 65 KiB without an end",
        section,
        b"GET /health/live HTTP/1.1\r\nHost: h\r\nX-A: " + b"a" * 65 * KIB,
        statuses=TOO_LARGE,
        then=Then.CLOSES,
    )
    yield make_case(
        "a name of 65 KiB without a colon",
        section,
        b"GET /health/live HTTP/1.1\r\n" + b"a" * 65 * KIB,
        statuses=TOO_LARGE,
        then=Then.CLOSES,
    )
    yield make_case("a method of 66 KiB", section, b"G" * 66 * KIB, statuses={400, 414, 431}, then=Then.CLOSES, method="GET")
    yield make_case("65 KiB of empty lines", section, b"\r\n" * 33 * KIB, statuses={400, 431}, then=Then.CLOSES, method="GET")
    yield make_case(
        "65 KiB of folded lines", section, with_host(HOST, b"X-A: a" + b"\r\n a" * 17 * KIB), statuses={400, 431}, then=Then.CLOSES
    )
    yield make_case(
        "a head of 65 KiB of an upload", section, upload(b"X-A: " + b"a" * 65 * KIB, CHUNKED) + HELLO, statuses=TOO_LARGE, then=Then.CLOSES
    )
    yield make_case(
        "101 fields", section, with_host(HOST, *[b"X-%d: a" % number for number in range(100)]), statuses=TOO_LARGE, then=Then.CLOSES
    )
    yield make_case("101 fields of one name", section, with_host(HOST, *[b"a:b"] * 100), statuses=TOO_LARGE, then=Then.CLOSES)
    yield make_case("100 fields", section, with_host(HOST, *[b"X-%d: a" % number for number in range(99)]), statuses={200}, then=Then.STAYS)
    yield make_case("a head of 60 KiB", section, with_host(HOST, b"X-A: " + b"a" * 60 * KIB), statuses={200}, then=Then.STAYS)
    yield make_case(
        "a head of 60 KiB, in pieces",
        section,
        b"GET /health/live HTTP/1.1\r\nHost: h\r\nX-A: ",
        *[b"a" * 12 * KIB] * 5,
        b"\r\n\r\n",
        statuses={200},
        then=Then.STAYS,
    )


FRAMING: Final = (*list_upgrades(), *list_connects(), *list_missing_lengths(), *list_transfer_codings(), *list_lengths(), *list_chunks())
"""Where a request ends: what a proxy and a server must see alike."""
CASES: Final = (*FRAMING, *list_hosts(), *list_targets(), *list_fields(), *list_sizes())
