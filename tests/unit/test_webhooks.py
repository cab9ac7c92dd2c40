"""What of an event counts."""

from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from service.problems import Unauthorized
from service.routes.webhooks import check_token, find_keys

KEY = "0123456789abcdef0123456789abcdef"


def event(*, name: str = "s3:ObjectCreated:Put", key: str = KEY, bucket: str = "incoming") -> bytes:
    record = {
        "eventName": name,
        "eventVersion": "2.0",
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "eTag": "x"}},
    }
    return msgspec.json.encode({"EventName": name, "Key": f"{bucket}/{key}", "Records": [record]})


@pytest.mark.parametrize("how", ["Put", "Post", "CompleteMultipartUpload", "Copy"])
def test_an_object_that_was_written_counts(how: str) -> None:
    assert find_keys(event(name=f"s3:ObjectCreated:{how}"), "incoming") == [KEY]


@pytest.mark.parametrize(
    "how",
    [
        "ObjectCreated:PutTagging",
        "ObjectCreated:PutRetention",
        "ObjectRemoved:Delete",
        "ObjectCreated:*",
        "",
    ],
)
def test_anything_else_that_happens_to_an_object_does_not(how: str) -> None:
    assert find_keys(event(name=f"s3:{how}"), "incoming") == []


@pytest.mark.parametrize("key", ["a", "%00", KEY.upper(), KEY + "%0A", "x" * 32, "../" + KEY])
def test_a_key_that_is_none_of_ours_does_not_count(key: str) -> None:
    assert find_keys(event(key=key), "incoming") == []


@pytest.mark.parametrize(
    ("key", "counted"), [("extracted/by/a/tar", 1), (KEY, 0), ("probe-1", 0), ("assay-doctor-1", 0)]
)
def test_objects_under_keys_that_were_never_given_out_are_counted(key: str, counted: int) -> None:
    before = REGISTRY.get_sample_value("assay_foreign_objects_total") or 0
    find_keys(event(key=key), "incoming")
    assert (REGISTRY.get_sample_value("assay_foreign_objects_total") or 0) - before == counted


def test_keys_are_form_encoded() -> None:
    assert find_keys(event(key="%30123456789abcdef0123456789abcdef"), "incoming") == [KEY]


def test_another_bucket_does_not_count() -> None:
    assert find_keys(event(bucket="vault"), "incoming") == []


MALFORMED: list[Any] = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"{}",
    b'{"Records": [{}]}',
    b'{"Records": 1}',
    b"\xff\xfe",
    b'{"Records":' + b"[" * 60_000,
]


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body[:20]))
def test_what_is_no_event_names_no_key(body: bytes) -> None:
    assert find_keys(body, "incoming") == []


def test_each_configured_token_is_accepted_in_the_stores_form() -> None:
    tokens = ("one", "Custom two")
    check_token("Bearer one", tokens)
    check_token("Custom two", tokens)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "one",
        "Bearer",
        "Bearer two",
        "Bearer Custom two",
        "bearer one",
        "Bearer one ",
        "Bearer öne",
    ],
)
def test_any_other_token_is_refused(header: str | None) -> None:
    with pytest.raises(Unauthorized):
        check_token(header, ("one", "Custom two"))
