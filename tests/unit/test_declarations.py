"""The validation of declarations."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.files import validation
from service.model import Declaration, Sha256
from service.problems import InvalidRequest
from tests.support.rows import make_declaration

NAMES = [
    "photo.jpg",
    "ä",
    "a b",
    " ",
    "...",
    "名前.txt",
    "a" * 255,
    "ä" * 127,
    "x;y",
    '"',
    "\u202eevil",
]
BAD_NAMES = [
    "",
    "a" * 256,
    "ä" * 128,
    "a\x00b",
    "a\nb",
    "a\x7f",
    "a\x85b",
    "a/b",
    "/",
    "a\\b",
    ".",
    "..",
    "\ud800",
    "a\u2028b",
]
MEDIA_TYPES = [
    "image/jpeg",
    "text/plain; charset=utf-8",
    'text/plain;charset="a b"',
    "application/vnd.x+json",
    "a/b;c=d;e=f",
]
BAD_MEDIA_TYPES = [
    "",
    "image",
    "image/",
    "/jpeg",
    "image/jpeg;",
    "image /jpeg",
    "image/jpeg\n",
    " image/jpeg",
    "text/plain;  a=b",
    "a/b; c",
    "a/ä",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_name_is_accepted_unchanged(name: str) -> None:
    assert validation.check_filename(name) == name


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_that_no_folder_can_hold_is_refused_under_its_field(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.check_filename(name, field="filename")
    assert refused.value.errors[0].field == "filename"


@given(st.text(max_size=300))
def test_a_name_is_refused_or_fits_the_column(name: str) -> None:
    try:
        validation.check_filename(name)
    except InvalidRequest:
        return
    assert 1 <= len(name.encode()) <= 255
    assert "\x00" not in name
    assert "/" not in name


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
def test_a_media_type_is_accepted_unchanged(media_type: str) -> None:
    assert validation.check_content_type(media_type) == media_type


@pytest.mark.parametrize("media_type", [*BAD_MEDIA_TYPES, "a/" + "b" * 300], ids=ascii)
def test_an_invalid_media_type_is_refused(media_type: str) -> None:
    with pytest.raises(InvalidRequest, match="media type"):
        validation.check_content_type(media_type)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        *((media_type, media_type) for media_type in MEDIA_TYPES),
        ("text/plain;", "text/plain"),
        ("text/plain ; ;", "text/plain"),
        ("text/plain;charset=utf-8;", "text/plain;charset=utf-8"),
        (" text/plain\t;\t charset=utf-8 ", "text/plain; charset=utf-8"),
        ('a/b;  c="d; e" ;f=g', 'a/b; c="d; e" ;f=g'),
    ],
)
def test_white_space_and_empty_parameters_of_a_header_have_no_meaning(
    header: str | None, expected: str | None
) -> None:
    assert validation.parse_content_type(header) == expected


@pytest.mark.parametrize(
    "header", ["a/b; c", "a/b; c=d; C=e", 'a/b; c="d', "a/b; c = d", "a/b, c/d", ";", "a/b;c=d e"]
)
def test_a_header_that_is_no_media_type_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequest, match="Content-Type"):
        validation.parse_content_type(header)


def test_a_digest_is_case_insensitive() -> None:
    assert validation.parse_sha256("AB" * 32) == validation.parse_sha256("ab" * 32)


@pytest.mark.parametrize("text", ["", "ab", "ab" * 33, "g" * 64, " " + "a" * 63, "٣" * 64])
def test_an_invalid_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="64 hexadecimal"):
        validation.parse_sha256(text)


def test_metadata_is_limited_in_pairs_and_bytes() -> None:
    assert validation.check_metadata({"k": "v" * 4095})
    assert len(validation.check_metadata({str(i): "" for i in range(32)})) == 32
    for bad in (
        {"k": "v" * 4096},
        {str(i): "" for i in range(33)},
        {"k": "ä" * 2048},
        {"a\x00": ""},
        {"a": "\x00"},
        {"a": "\udfff"},
    ):
        with pytest.raises(InvalidRequest, match=r"^metadata"):
            validation.check_metadata(bad)


def declare(filename: str = "a", **fields: Any) -> Declaration:
    return make_declaration(filename, size=1, content_type=None, sha256=Sha256(b"x" * 32), **fields)


def test_the_order_of_metadata_does_not_change_the_request() -> None:
    one, other = (
        declare(metadata={"a": "1", "b": "2"}),
        declare(metadata={"b": "2", "a": "1"}),
    )
    assert validation.digest_declaration(one) == validation.digest_declaration(other)


def test_another_name_is_another_request() -> None:
    assert validation.digest_declaration(declare()) != validation.digest_declaration(
        declare(filename="b")
    )


def test_an_absent_field_of_a_later_version_keeps_the_digest() -> None:
    """Check that an upgrade does not change the digest of a request without the new field.

    Idempotency keys are kept for a day. A retry after an upgrade would otherwise be refused as
    another request.
    """
    first = (
        b'{"owner":"ann","filename":"a","size":1,"content_type":null,"sha256":"%s","metadata":{}}'
        % (b"78" * 32)
    )
    assert validation.digest_declaration(declare()) == Sha256(hashlib.sha256(first).digest())
    assert (
        len(
            {
                validation.digest_declaration(declare(multipart=wanted))
                for wanted in (None, True, False)
            }
        )
        == 3
    )
