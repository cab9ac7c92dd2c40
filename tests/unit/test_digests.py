"""Digests in the fields of a request, and their comparison with bytes."""

import base64
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Mapping

import pytest

from service.http.digests import (
    RunningDigests,
    StatedDigest,
    compare_pieces,
    find_sha256,
    parse_field,
    read_digests,
    take_sha256_alone,
)
from service.model import Sha256
from service.problems import DigestMismatch, InvalidRequest

pytestmark = pytest.mark.anyio

BYTES = b"hello"
SHA256 = hashlib.sha256(BYTES).digest()
SHA512 = hashlib.sha512(BYTES).digest()
MD5 = hashlib.md5(BYTES, usedforsecurity=False).digest()
ALL = {"sha-256": SHA256, "sha-512": SHA512, "md5": MD5}


def encode(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def read(fields: Mapping[str, str]) -> list[tuple[str, str, bytes]]:
    stated = read_digests(fields.items())
    return [(one.field, one.algorithm, one.digest) for one in stated]


@pytest.mark.parametrize("algorithm", ALL)
@pytest.mark.parametrize("field", ["Repr-Digest", "Content-Digest"])
@pytest.mark.parametrize("padded", [True, False])
def test_a_dictionary_states_each_known_algorithm(field: str, algorithm: str, padded: bool) -> None:
    text = encode(ALL[algorithm]) if padded else encode(ALL[algorithm]).rstrip("=")
    assert read({field: f"{algorithm}=:{text}:"}) == [(field, algorithm, ALL[algorithm])]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"sha-256=:{encode(SHA256)}: , md5=:{encode(MD5)}:", [SHA256, MD5]),
        (f"\tsha-256=:{encode(SHA256)}:,\tmd5=:{encode(MD5)}: ", [SHA256, MD5]),
        (f"crc32c=:AAAA:, sha-256=:{encode(SHA256)}:", [SHA256]),
        (f"sha-256=:{encode(SHA256)}:;a;b=1;c=:AA==:, crc32c=:AAAA:", [SHA256]),
        (f'sha-256=:{encode(SHA256)}:; a="x, \\"md5=:", md5=:{encode(MD5)}:', [SHA256, MD5]),
        # The last of several members counts (RFC 9651, section 3.2).
        (f"sha-256=:{encode(bytes(32))}:, sha-256=:{encode(SHA256)}:", [SHA256]),
    ],
)
def test_a_dictionary_is_read_as_a_structured_field(text: str, expected: list[bytes]) -> None:
    assert [one.digest for one in parse_field("Repr-Digest", text)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"SHA-256={encode(SHA256)}", [SHA256]),
        (f"sha-512={encode(SHA512)}", [SHA512]),
        (f"md5={encode(MD5)},SHA-256={encode(SHA256)}", [MD5, SHA256]),
        (f"MD5={encode(MD5).rstrip('=')}", [MD5]),
        (f"unixsum=30637 , sha-256={encode(SHA256)}", [SHA256]),
        # RFC 3230 gives no precedence to one of several values, so all of them are compared.
        (f"md5={encode(MD5)}, MD5={encode(SHA256[:16])}", [MD5, SHA256[:16]]),
    ],
)
def test_a_digest_field_has_the_form_of_rfc_3230(text: str, expected: list[bytes]) -> None:
    assert [one.digest for one in parse_field("Digest", text)] == expected


@pytest.mark.parametrize("text", [encode(MD5), encode(MD5).rstrip("="), f" {encode(MD5)}\t"])
def test_content_md5_is_one_base64(text: str) -> None:
    assert read({"content-md5": text}) == [("Content-MD5", "md5", MD5)]


@pytest.mark.parametrize(
    "order", [*itertools.permutations(["digest", "content-md5", "repr-digest"])]
)
def test_the_order_of_the_fields_has_no_meaning(order: tuple[str, ...]) -> None:
    texts = {
        "digest": f"sha-256={encode(SHA256)}",
        "content-md5": encode(MD5),
        "repr-digest": f"sha-256=:{encode(bytes(32))}:",
    }
    stated = read_digests([(name, texts[name]) for name in order])
    assert [one.field for one in stated] == ["Repr-Digest", "Content-MD5", "Digest"]
    with pytest.raises(InvalidRequest, match="Digest: states another sha-256 than Repr-Digest"):
        find_sha256(stated)


def test_lines_of_one_field_are_one_list() -> None:
    lines = [
        ("repr-digest", f"md5=:{encode(MD5)}:"),
        ("content-length", "5"),
        ("Repr-Digest", f"sha-256=:{encode(SHA256)}:"),
    ]
    assert {one.algorithm: one.digest for one in read_digests(lines)} == {
        "md5": MD5,
        "sha-256": SHA256,
    }


@pytest.mark.parametrize(
    ("field", "text", "right"),
    [
        *[
            ("Repr-Digest", text, "sha-256=:BASE64:")
            for text in (
                "",
                "sha-256",
                "sha-256=abc",
                SHA256.hex(),
                f"SHA-256=:{encode(SHA256)}:",
                f"sha-256={encode(SHA256)}",
                f"sha-256=:{encode(SHA256)}:,",
                f",sha-256=:{encode(SHA256)}:",
                f"sha-256=:{encode(SHA256)}:;,",
                f"sha-256=:{encode(SHA256)}: x",
                "sha-256=:!:",
                "sha-256=:=AAA:",
            )
        ],
        ("Content-Digest", "sha-256=:AAA:", "base64 of 32 bytes"),
        ("Content-Digest", f"sha-512=:{encode(SHA256)}:", "base64 of 64 bytes"),
        ("Content-Digest", f"md5=:{encode(SHA256)}:", "base64 of 16 bytes"),
        ("Content-Digest", "sha-256=:A:", "base64 of 32 bytes"),
        ("Content-MD5", "", "base64 of 16 bytes"),
        ("Content-MD5", MD5.hex(), "base64 of 16 bytes"),
        ("Content-MD5", f"{encode(MD5)}, {encode(MD5)}", "base64 of 16 bytes"),
        ("Digest", "", "SHA-256=BASE64"),
        ("Digest", encode(SHA256).rstrip("="), "SHA-256=BASE64"),
        ("Digest", f"SHA-256={encode(SHA256)},", "SHA-256=BASE64"),
        ("Digest", f"SHA-256=:{encode(SHA256)}:", "base64 of 32 bytes"),
        ("Repr-Digest", "crc32c=:AAAA:", "sha-256, sha-512, md5"),
        ("Repr-Digest", "sha=:AAAA:, crc32c=:AAAA:", "sha-256, sha-512, md5"),
        ("Digest", "SHA=AAAA,unixsum=1", "sha-256, sha-512, md5"),
    ],
)
def test_an_invalid_or_unknown_digest_is_refused(field: str, text: str, right: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_digests([(field, text)])
    [error] = refused.value.errors
    assert error.field == field
    assert right in error.detail


def test_a_digest_is_looked_for_in_each_field_by_itself() -> None:
    with pytest.raises(InvalidRequest, match="Content-Digest"):
        read({"Repr-Digest": f"md5=:{encode(MD5)}:", "Content-Digest": "crc32c=:AAAA:"})


@pytest.mark.parametrize("algorithm", ALL)
def test_bytes_are_compared_with_every_stated_digest(algorithm: str) -> None:
    right = [StatedDigest("Repr-Digest", name, digest) for name, digest in ALL.items()]
    wrong = StatedDigest("Digest", algorithm, bytes(len(ALL[algorithm])))
    running = RunningDigests(ALL)
    for piece in (b"he", bytearray(b"llo")):
        running.update(piece)
    running.compare(right, subject="file")
    with pytest.raises(DigestMismatch, match=f"Digest: states the {algorithm} 0+ of the file"):
        running.compare([*right, wrong], subject="file")


async def pieces() -> AsyncIterator[bytes]:
    yield b"hel"
    yield b"lo"


async def test_pieces_are_passed_on_and_compared_at_their_end() -> None:
    right = StatedDigest("Content-MD5", "md5", MD5)
    assert [piece async for piece in compare_pieces(pieces(), [right])] == [b"hel", b"lo"]
    compared = compare_pieces(pieces(), [right, StatedDigest("Content-MD5", "md5", bytes(16))])
    assert (await anext(compared), await anext(compared)) == (b"hel", b"lo")
    with pytest.raises(DigestMismatch, match="Content-MD5"):
        await anext(compared)


def test_the_sha256_of_several_fields_is_one() -> None:
    one = StatedDigest("Repr-Digest", "sha-256", SHA256)
    assert find_sha256([]) is None
    assert find_sha256([StatedDigest("Content-MD5", "md5", MD5)]) is None
    assert find_sha256([one, StatedDigest("Digest", "sha-256", SHA256)]) == Sha256(SHA256)
    with pytest.raises(InvalidRequest, match="Digest: states another sha-256 than Repr-Digest"):
        find_sha256([one, StatedDigest("Digest", "sha-256", bytes(32))])


@pytest.mark.parametrize("other", ["sha-512", "md5"])
def test_a_redirect_takes_a_sha256_alone(other: str) -> None:
    one = StatedDigest("Content-Digest", "sha-256", SHA256)
    assert take_sha256_alone([one]) == Sha256(SHA256)
    assert take_sha256_alone([]) is None
    for others in ([], [one]):
        with pytest.raises(InvalidRequest, match=f"Digest: {other} cannot be compared"):
            take_sha256_alone([*others, StatedDigest("Digest", other, ALL[other])])


@pytest.mark.parametrize(
    "text", ["Content-Digest", "x-checksum, repr-digest", "Digest\t,\tExpires", "CONTENT-MD5"]
)
def test_a_digest_that_is_announced_as_a_trailer_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"Trailer: .* as a header field"):
        read({"Trailer": text})
    assert read({"Trailer": "x-checksum, Digestible"}) == []


@pytest.mark.parametrize("field", ["Repr-Digest", "Digest"])
@pytest.mark.parametrize("piece", [" ", "a", "=", ":", ";a", ";a=b", "a=b,", "a=:AA==:;a,"])
def test_a_long_field_is_read_in_linear_time(field: str, piece: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidRequest):
        read({field: f"a={piece * (60_000 // len(piece))}\x00,"})
    assert time.process_time() - began < 1
