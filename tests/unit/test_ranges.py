"""Conditions, ranges and digests of a file, as RFC 9110 and RFC 9530 define them."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.representation import (
    Span,
    choose_span,
    describe_file,
    is_not_modified,
    parse_date,
    parse_range,
)
from service.model import Sha256
from service.problems import PreconditionFailed, RangeNotSatisfiable
from tests.support.rows import make_proved_file

HASH = Sha256(bytes(range(32)))
ETAG = f'"{HASH}"'
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"
MOMENT = datetime(1994, 11, 6, 8, 49, 37, 250_000, tzinfo=UTC)

FILE = make_proved_file("ann", size=10_000, moment=MOMENT, sha256=HASH)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("bytes=0-499", Span(0, 500)),
        ("bytes=500-999", Span(500, 500)),
        ("bytes=-500", Span(9500, 500)),
        ("bytes=9500-", Span(9500, 500)),
        ("bytes=0-0", Span(0, 1)),
        ("bytes=-1", Span(9999, 1)),
        ("bytes=0-", Span(0, 10_000)),
        ("bytes=9999-20000", Span(9999, 1)),
        ("bytes=-20000", Span(0, 10_000)),
        ("Bytes = , 1-2 ,", Span(1, 2)),
        ("bytes=0-" + "9" * 3000, Span(0, 10_000)),
    ],
)
def test_a_single_range_is_read_as_the_rfc_defines_it(field: str, expected: Span) -> None:
    assert parse_range(field, 10_000) == expected


@pytest.mark.parametrize(
    "field",
    [
        *(
            "bytes=0-1,3-4",
            "bytes=5-2",
            "bytes=-",
            "bytes=",
            "bytes",
            "",
            "items=0-1",
            "bytes=a-b",
            "bytes=1-2-3",
            "bytes=+1-2",
        ),
        *("bytes=0x1-2", "bytes=١-٢", "bytes=1.5-2", "bytes=--1", "bytes=0-" + "9" * 5000),
    ],
)
def test_several_ranges_and_malformed_ones_are_ignored(field: str) -> None:
    assert parse_range(field, 10_000) is None


@pytest.mark.parametrize(
    ("field", "size"),
    [
        ("bytes=10000-", 10_000),
        ("bytes=10000-10001", 10_000),
        ("bytes=-0", 10_000),
        ("bytes=0-", 0),
    ],
)
def test_a_range_without_any_byte_is_refused_with_the_size(field: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable) as refused:
        parse_range(field, size)
    assert refused.value.headers == {"Content-Range": f"bytes */{size}"}


def test_a_suffix_range_of_an_empty_file_is_ignored() -> None:
    assert parse_range("bytes=-5", 0) is None


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(1, 10**12))
def test_a_range_never_leaves_the_file(first: int, last: int, size: int) -> None:
    try:
        span = parse_range(f"bytes={first}-{last}", size)
    except RangeNotSatisfiable:
        assert first >= size
        return
    if span is None:
        assert last < first
    else:
        assert span.start == first
        assert span.length > 0
        assert span.start + span.length == min(last + 1, size)


@given(st.text(max_size=40), st.integers(0, 100))
def test_no_text_crashes_the_parser(text: str, size: int) -> None:
    try:
        span = parse_range(f"bytes={text}", size)
    except RangeNotSatisfiable:
        return
    assert span is None or 0 <= span.start < span.start + span.length <= size


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, False),
        ({"if-none-match": ETAG}, True),
        ({"if-none-match": f"W/{ETAG}"}, True),
        ({"if-none-match": f'"other" , {ETAG}'}, True),
        ({"if-none-match": "*"}, True),
        ({"if-none-match": '"other"'}, False),
        ({"if-none-match": str(HASH)}, False),
        ({"if-modified-since": DATE}, True),
        ({"if-modified-since": LATER}, True),
        ({"if-modified-since": EARLIER}, False),
        ({"if-modified-since": "yesterday"}, False),
        ({"if-none-match": '"other"', "if-modified-since": LATER}, False),
        ({"if-match": ETAG}, False),
        ({"if-match": "*"}, False),
        ({"if-match": f'"other",{ETAG}', "if-none-match": ETAG}, True),
        ({"if-unmodified-since": DATE}, False),
        ({"if-unmodified-since": "yesterday"}, False),
        ({"if-match": ETAG, "if-unmodified-since": EARLIER}, False),
    ],
)
def test_conditions_are_evaluated_in_the_order_of_the_rfc(
    headers: dict[str, str], expected: bool
) -> None:
    assert is_not_modified(FILE, headers) is expected


@pytest.mark.parametrize(
    "headers",
    [
        {"if-match": '"other"'},
        {"if-match": f"W/{ETAG}"},
        {"if-match": str(HASH)},
        {"if-match": '"other"', "if-none-match": ETAG},
        {"if-unmodified-since": EARLIER},
        {"if-unmodified-since": EARLIER, "if-none-match": ETAG},
    ],
)
def test_a_failed_precondition_takes_precedence(headers: dict[str, str]) -> None:
    with pytest.raises(PreconditionFailed):
        is_not_modified(FILE, headers)


@pytest.mark.parametrize(
    ("validator", "counts"),
    [
        (ETAG, True),
        (DATE, True),
        (f"W/{ETAG}", False),
        ('"other"', False),
        (EARLIER, False),
        (LATER, False),
        ("nonsense", False),
    ],
)
def test_a_range_applies_only_to_the_same_bytes(validator: str, counts: bool) -> None:
    span = choose_span(FILE, {"range": "bytes=1-2", "if-range": validator})
    assert span == (Span(1, 2) if counts else None)


@pytest.mark.parametrize(
    "text", [DATE, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_all_three_forms_of_a_date_are_read(text: str) -> None:
    assert parse_date(text) == MOMENT.replace(microsecond=0)


def test_the_headers_of_a_file_have_its_digest() -> None:
    headers = describe_file(FILE, inline=True)
    assert headers["ETag"] == ETAG
    assert headers["Repr-Digest"] == "sha-256=:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=:"
    assert headers["Last-Modified"] == DATE
    assert headers["Content-Disposition"].startswith("inline;")
