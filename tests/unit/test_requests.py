"""JSON bodies, which are read strictly, and errors, which name their field."""

from typing import Any

import pytest

from service.problems import InvalidRequest, MalformedBody, UnsupportedMediaType
from service.routes.files import DeclareRequest
from service.routes.requests import check_media_type, decode_body

WRONG = [
    (b'{"filename":"a","size":"5"}', "size"),
    (b'{"filename":"a","size":true}', "size"),
    (b'{"filename":"a","size":-1}', "size"),
    (b'{"filename":"a","size":1.5}', "size"),
    (b'{"filename":1,"size":1}', "filename"),
    (b'{"size":1}', "filename"),
    (b'{"filename":"a","size":1,"colour":"red"}', "colour"),
    (b'{"filename":"a","size":1,"metadata":{"a":1}}', "metadata[...]"),
    (b'{"filename":"a","size":1,"metadata":[]}', "metadata"),
    (b"[]", "body"),
    (b"null", "body"),
]


@pytest.mark.parametrize(("body", "field"), WRONG)
def test_an_error_names_its_field(body: bytes, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_body(body, DeclareRequest)
    assert [error.field for error in refused.value.errors] == [field]
    assert refused.value.detail.startswith(field)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nope",
        b"\xff",
        b'{"a":"\\ud800"}',
        b"[" * 50_000,
        b'{"x":' * 10_000,
        b'{"filename":"\xff"}',
    ],
)
def test_invalid_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        decode_body(body, Any)


@pytest.mark.parametrize(
    "header", ["application/json", "application/json; charset=utf-8", "Application/JSON"]
)
def test_the_media_type_of_json_is_accepted(header: str) -> None:
    check_media_type(header)


@pytest.mark.parametrize(
    "header", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
def test_other_media_types_are_refused(header: str | None) -> None:
    with pytest.raises(UnsupportedMediaType):
        check_media_type(header)
