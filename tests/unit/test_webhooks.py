"""The keys that are taken from an event, and the tokens that are accepted."""

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
def test_a_written_object_is_an_arrival(how: str) -> None:
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
def test_other_events_of_an_object_are_not(how: str) -> None:
    assert find_keys(event(name=f"s3:{how}"), "incoming") == []


@pytest.mark.parametrize("key", ["a", "%00", KEY.upper(), KEY + "%0A", "x" * 32, "../" + KEY])
def test_a_key_that_assay_does_not_make_is_ignored(key: str) -> None:
    assert find_keys(event(key=key), "incoming") == []


@pytest.mark.parametrize(
    ("key", "counted"), [("extracted/by/a/tar", 1), (KEY, 0), ("probe-1", 0), ("assay-doctor-1", 0)]
)
def test_objects_under_keys_that_assay_never_made_are_counted(key: str, counted: int) -> None:
    before = REGISTRY.get_sample_value("assay_foreign_objects_total") or 0
    find_keys(event(key=key), "incoming")
    assert (REGISTRY.get_sample_value("assay_foreign_objects_total") or 0) - before == counted


def test_keys_are_form_encoded() -> None:
    assert find_keys(event(key="%30123456789abcdef0123456789abcdef"), "incoming") == [KEY]


def test_events_of_other_buckets_are_ignored() -> None:
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
def test_an_invalid_event_names_no_key(body: bytes) -> None:
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
