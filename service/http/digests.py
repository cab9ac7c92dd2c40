"""The digests that a request states about its bytes, and their comparison with the bytes.

| field | its form | of which bytes |
| --- | --- | --- |
| `Repr-Digest` | RFC 9530: `sha-256=:BASE64:, …` | the body; in a form, the file |
| `Content-Digest` | the same | the body as it was received |
| `Content-MD5` | RFC 1864: `BASE64` | the body as it was received |
| `Digest` | RFC 3230: `SHA-256=BASE64,…` | the body as it was received |

The part of a form that contains the file may have these fields as well. There, all of them are
about the file.

1. A field that names no known algorithm, or a malformed digest, is refused before the body is read.
   An unknown algorithm beside a known one is ignored.
2. Every other stated digest is compared with the bytes. A request with a wrong one stores nothing.
3. A digest in a trailer field is not supported. A request that announces one is refused.
"""

import base64
import functools
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from service.http.parameters import TOKEN
from service.model import Sha256
from service.problems import DigestMismatch, InvalidRequest

SHA_256: Final = "sha-256"
MD5: Final = "md5"
ALGORITHMS: Final[dict[str, Callable[[], Any]]] = {
    SHA_256: hashlib.sha256,
    "sha-512": hashlib.sha512,
    MD5: functools.partial(hashlib.md5, usedforsecurity=False),
}
"""The known algorithms under their names in the registry of RFC 9530."""
ACCEPTED: Final = ", ".join(ALGORITHMS)

REPR_DIGEST: Final = "Repr-Digest"
CONTENT_MD5: Final = "Content-MD5"
DIGEST: Final = "Digest"
FIELDS: Final = (REPR_DIGEST, "Content-Digest", CONTENT_MD5, DIGEST)
NAMES: Final = {field.lower(): field for field in FIELDS}

BASE64: Final = r"[A-Za-z0-9+/]*={0,2}"
# RFC 9651, sections 3.1.2 and 3.2: a member whose value is a byte sequence, and its parameters.
PARAMETER: Final = rf';[ ]*[a-z*][a-z0-9_.*-]*(?:=(?:"(?:[^"\\]|\\["\\])*"|:{BASE64}:|[^,;" \t]+))?'
DICTIONARY_MEMBER: Final = re.compile(
    rf"([a-z*][a-z0-9_.*-]*)=:({BASE64}):(?:{PARAMETER})*[ \t]*(,[ \t]*|$)"
)
# RFC 3230, section 4.3.2. The value of an unknown algorithm need not be base64.
LISTED_DIGEST: Final = re.compile(rf"({TOKEN})=([^,]*)(,[ \t]*|$)")


class StatedDigest(msgspec.Struct, frozen=True):
    """The digest that a field states. `field` is the name under which errors report it."""

    field: str
    algorithm: str
    digest: bytes


def read_digests(
    fields: Iterable[tuple[str, str]], *, prefix: str = ""
) -> tuple[StatedDigest, ...]:
    """Return the digests that the fields of a request, or of a part of a form, state.

    They have the order of FIELDS, because the framework lists the fields of a request in any order.
    Fields that state no digests are ignored. `prefix` precedes the name of a field in errors.
    Raises InvalidRequest.
    """
    lines: dict[str, list[str]] = {field: [] for field in FIELDS}
    for name, text in fields:
        if name.lower() == "trailer":
            refuse_trailer(text)
        elif (field := NAMES.get(name.lower())) is not None:
            lines[field].append(text)
    return tuple(
        stated
        for field, texts in lines.items()
        if texts
        for stated in parse_field(field, ", ".join(texts), prefix=prefix)
    )


def refuse_trailer(text: str) -> None:
    """Refuse a list of trailer fields that announces a digest. Raises InvalidRequest."""
    for name in text.split(","):
        field = NAMES.get(name.strip(" \t").lower())
        if field is not None:
            raise InvalidRequest.at(
                "Trailer", f"{field} is not supported in a trailer: send it as a header field"
            )


def parse_field(field: str, text: str, *, prefix: str = "") -> list[StatedDigest]:
    """Return the digests of the known algorithms in a field. Raises InvalidRequest."""
    name = prefix + field
    if field == CONTENT_MD5:
        members = [(MD5, text)]
    elif field == DIGEST:
        listed = split_members(LISTED_DIGEST, text, name, form="SHA-256=BASE64 (RFC 3230)")
        members = [(algorithm.lower(), value) for algorithm, value in listed]
    else:
        listed = split_members(DICTIONARY_MEMBER, text, name, form="sha-256=:BASE64: (RFC 9530)")
        members = list(dict(listed).items())  # the last of several members with one key counts
    known = [
        StatedDigest(name, algorithm, decode_digest(name, algorithm, value))
        for algorithm, value in members
        if algorithm in ALGORITHMS
    ]
    if not known:
        raise InvalidRequest.at(name, f"must name one of these algorithms: {ACCEPTED}")
    return known


def split_members(
    member: re.Pattern[str], text: str, name: str, *, form: str
) -> list[tuple[str, str]]:
    """Return the algorithms of a list and their values. Raises InvalidRequest."""
    text = text.strip(" \t")
    members, at, follows = [], 0, True
    while follows:
        match = member.match(text, at)
        if match is None:
            raise InvalidRequest.at(name, f"must have the form {form}")
        members.append((match[1], match[2]))
        at, follows = match.end(), bool(match[3])
    return members


def decode_digest(name: str, algorithm: str, text: str) -> bytes:
    """Return the digest of a known algorithm.

    Missing padding is added (RFC 9651, section 4.2.7). Raises InvalidRequest.
    """
    text = text.strip(" \t")
    size = ALGORITHMS[algorithm]().digest_size
    try:
        digest = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        digest = b""
    if len(digest) != size:
        raise InvalidRequest.at(name, f"{algorithm} must be the base64 of {size} bytes")
    return digest


class RunningDigests:
    """The digests of the bytes so far, under several algorithms."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        self.running = {name: ALGORITHMS[name]() for name in dict.fromkeys(algorithms)}

    def update(self, piece: bytes | bytearray) -> None:
        for running in self.running.values():
            running.update(piece)

    @property
    def sha256(self) -> Sha256:
        return Sha256(self.running[SHA_256].digest())

    def compare(self, stated: Iterable[StatedDigest], *, subject: str) -> None:
        """Raise DigestMismatch if a stated digest is not that of the bytes."""
        for one in stated:
            found = self.running[one.algorithm].digest()
            if found != one.digest:
                raise DigestMismatch.at(
                    one.field,
                    f"states the {one.algorithm} {one.digest.hex()} of the {subject},"
                    f" but the received bytes have {found.hex()}; nothing was stored",
                )


async def compare_pieces(
    pieces: AsyncIterator[bytes], stated: Sequence[StatedDigest]
) -> AsyncIterator[bytes]:
    """Yield the pieces of a body, and compare it with the stated digests at its end.

    Raises DigestMismatch.
    """
    running = RunningDigests(one.algorithm for one in stated)
    async for piece in pieces:
        running.update(piece)
        yield piece
    running.compare(stated, subject="body")


def find_sha256(stated: Iterable[StatedDigest]) -> Sha256 | None:
    """Return the SHA-256 among the digests of one file, or None.

    Raises InvalidRequest if two fields state different ones.
    """
    found = [one for one in stated if one.algorithm == SHA_256]
    for one in found[1:]:
        if one.digest != found[0].digest:
            raise InvalidRequest.at(
                one.field, f"states another sha-256 than {found[0].field}: omit the wrong one"
            )
    return Sha256(found[0].digest) if found else None


def take_sha256_alone(stated: Iterable[StatedDigest]) -> Sha256 | None:
    """Return the SHA-256 for a client that is redirected to the store, or None.

    The bytes do not pass through the API, and their verification computes the SHA-256 alone. Raises
    InvalidRequest for a digest that would therefore not be compared.
    """
    stated = list(stated)
    for one in stated:
        if one.algorithm != SHA_256:
            raise InvalidRequest.at(
                one.field,
                f"{one.algorithm} cannot be compared, because this request is redirected to the"
                " store: state the sha-256, or send the body chunked",
            )
    return find_sha256(stated)
