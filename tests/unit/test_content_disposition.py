"""Filenames in `Content-Disposition` headers, written and read."""

import contextlib
import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.content_disposition import format_disposition, parse_filename, parse_part
from service.http.representation import is_harmless

FORM = re.compile(
    r"""attachment; filename="([ !#$&-\[\]-~]*)"; filename\*=UTF-8''([A-Za-z0-9!#$&+.^_`|~%-]*)"""
)


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("photo.jpg", "attachment; filename=\"photo.jpg\"; filename*=UTF-8''photo.jpg"),
        (
            "na\u00efve \u20ac.txt",
            "attachment; filename=\"naive _.txt\"; filename*=UTF-8''na%C3%AFve%20%E2%82%AC.txt",
        ),
        (
            'a"b\\c%41.txt',
            "attachment; filename=\"a_b_c_41.txt\"; filename*=UTF-8''a%22b%5Cc%2541.txt",
        ),
        (
            "..\uff0f..\uff0fetc",
            "attachment; filename=\".._.._etc\"; filename*=UTF-8''..%EF%BC%8F..%EF%BC%8Fetc",
        ),
        ("\u2105.txt", "attachment; filename=\"c_o.txt\"; filename*=UTF-8''%E2%84%85.txt"),
        ("c\uff1a.txt", "attachment; filename=\"c_.txt\"; filename*=UTF-8''c%EF%BC%9A.txt"),
        ("\u2025", "attachment; filename=\"_\"; filename*=UTF-8''%E2%80%A5"),
        (
            "a;b='c'.txt",
            "attachment; filename=\"a;b='c'.txt\"; filename*=UTF-8''a%3Bb%3D%27c%27.txt",
        ),
    ],
)
def test_a_header_has_an_ascii_name_and_the_complete_one(filename: str, expected: str) -> None:
    assert format_disposition(filename) == expected


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=100))
def test_every_name_survives_and_none_leaves_its_quotes(filename: str) -> None:
    header = format_disposition(filename)
    match = FORM.fullmatch(header)
    assert match, header
    assert "/" not in match[1]
    assert match[1].strip(" .")
    assert unquote(match[2]) == filename
    assert parse_filename(header) == filename


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("attachment", None),
        ("attachment; filename=photo.jpg", "photo.jpg"),
        ('attachment; filename="my photo.jpg"', "my photo.jpg"),
        ('attachment; FileName = "a\\"b\\\\c"', 'a"b\\c'),
        ("attachment; filename=\"x\"; filename*=utf-8'en'%e2%82%ac", "\u20ac"),
        ('attachment; filename="\u20ac"'.encode().decode("latin-1"), "\u20ac"),
        ('attachment; filename="\xe9"', "\xe9"),
        ('attachment; filename="a;filename=b"', "a;filename=b"),
        ("attachment; filename=\xe0.txt".encode().decode("latin-1"), "\xe0.txt"),
        ("attachment;\t filename=a \t;", "a"),
        ("attachment ; filename=a ; ;", "a"),
        ("filename=a", None),
        ('attachment; filename="=?utf-8?B?w6kudHh0?="', "\xe9.txt"),
        ('attachment; filename="=?UTF-8?Q?=C3=A9?= =?iso-8859-1?q?=E9?="', "\xe9\xe9"),
        ('attachment; filename="a =?utf-8?B?w6kudHh0?="', "a =?utf-8?B?w6kudHh0?="),
        ('attachment; filename="=?utf-8?B?w6k!!dHh0?="', "=?utf-8?B?w6k!!dHh0?="),
        ('attachment; filename="=?utf-8?B?!!!?="', "=?utf-8?B?!!!?="),
        ("a; filename*=UTF-8''\u20ac".encode().decode("latin-1"), "\u20ac"),
        (
            "form-data; name=file; filename=\"=?utf-8?B?w6kudHh0?=\"; filename*=utf-8''%C3%A9.txt",
            "\xe9.txt",
        ),
    ],
)
def test_the_forms_that_clients_send_are_read(header: str, expected: str | None) -> None:
    assert parse_filename(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        "a; filename=my photo.jpg",
        "a; filename*=x",
        "a; filename*=latin-1''x",
        "a; filename*=UTF-8''%ff",
        "a; filename*=UTF-8'x",
        'a; filename="b',
        'a; filename=b"c"',
        "a; filename=b; filename=c",
        "a; filename*=UTF-8''b; filename*=UTF-8''c",
        "a; filename",
        "a; filename=b, c; d",
        'a; filename="=?utf-8?B?w6k?="; x',
        'a; filename="=?utf-8?Q?=FF?="',
        'a; filename="=?utf-8?B?w?="',
        'a; filename="=?utf-7?B?w6kudHh0?="',
    ],
)
def test_a_name_that_cannot_be_decoded_is_an_error(header: str) -> None:
    with pytest.raises(ValueError, match=r"filename|parameter"):
        parse_filename(header)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"a%22b%0d%0A.txt"', 'a"b\r\n.txt'),
        (r'"a\"b%22.txt"', 'a"b%22.txt'),
        (r'"a\b.txt"', r"a\b.txt"),
        ('"100%.txt"', "100%.txt"),
        ("%22", "%22"),
    ],
)
def test_a_name_in_a_form_has_the_escapes_of_browsers(value: str, expected: str) -> None:
    assert parse_part(f"form-data;\tfilename={value} ;name=file") == ("file", expected)


@given(
    st.lists(
        st.sampled_from(
            ["; ", "filename", "*", "=", '"', "\\", "=?utf-8?B?", "?=", "UTF-8''", "%e"]
        )
        | st.text(st.characters(max_codepoint=255), max_size=3),
        max_size=12,
    ).map("".join)
)
def test_every_header_is_read_or_refused_with_a_text(header: str) -> None:
    for parse in (parse_filename, parse_part):
        with contextlib.suppress(ValueError):
            parse(f"form-data; filename={header}")


@pytest.mark.parametrize(
    ("content_type", "harmless"),
    [
        ("image/png", True),
        ("Text/Plain; charset=utf-8", True),
        ("text/html", False),
        ("image/svg+xml", False),
    ],
)
def test_only_types_without_scripts_are_shown_inline(content_type: str, harmless: bool) -> None:
    assert is_harmless(content_type) is harmless
