"""Presigned URLs, compared with the S3 documentation and with minio-py."""

import functools
import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import minio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.object_store.presign import ABSENT_FROM_PART, ABSENT_FROM_PUT, Signer
from service.object_store.signing import parse_endpoint

EXAMPLE_ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
EXAMPLE_SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EXAMPLE_TIME = datetime(2013, 5, 24, tzinfo=UTC)
DIGEST = "9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08"


def example_signer(endpoint: str) -> Signer:
    return Signer(
        endpoint, access_key=EXAMPLE_ACCESS_KEY, secret_key=EXAMPLE_SECRET_KEY, region="us-east-1"
    )


def presign_with_sdk(
    endpoint: str,
    key: str,
    *,
    issued_at: datetime,
    expires_in_seconds: int,
    query: dict[str, str] | None = None,
) -> str:
    scheme, _, host = endpoint.partition("://")
    client = minio.Minio(
        host, EXAMPLE_ACCESS_KEY, EXAMPLE_SECRET_KEY, secure=scheme == "https", region="us-east-1"
    )
    return client.get_presigned_url(
        "PUT",
        "incoming",
        key,
        expires=timedelta(seconds=expires_in_seconds),
        request_date=issued_at,
        extra_query_params=dict(query) if query else None,
    )


def is_sendable(key: str) -> bool:
    return bool(key.strip()) and {".", ".."}.isdisjoint(key.split("/"))


def signed_put(signer: Signer, **changes: object) -> str:
    request: dict[str, object] = {
        "size": 4,
        "content_type": "image/jpeg",
        "sha256": DIGEST,
        "if_none_match": True,
        "issued_at": EXAMPLE_TIME,
        "expires_in_seconds": 900,
    }
    return signer.presign_put(
        "incoming",
        "k",
        **(request | changes),  # type: ignore[arg-type]  # the values have different types
    ).url


def test_the_example_of_the_s3_documentation_is_reproduced() -> None:
    signer = example_signer("https://examplebucket.s3.amazonaws.com")
    url = signer.presign(
        "GET", None, key="test.txt", issued_at=EXAMPLE_TIME, expires_in_seconds=86_400
    )
    assert url == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z"
        "&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:9000",
        "http://minio",
        "http://minio:80",
        "https://minio:443",
        "https://minio:80",
        "https://files.example.org",
        "http://[::1]:9000",
    ],
)
def test_a_plain_url_equals_that_of_minio_py(endpoint: str) -> None:
    ours = example_signer(endpoint).presign(
        "PUT", "incoming", key="0123abcd", issued_at=EXAMPLE_TIME, expires_in_seconds=900
    )
    assert ours == presign_with_sdk(
        endpoint, "0123abcd", issued_at=EXAMPLE_TIME, expires_in_seconds=900
    )


@pytest.mark.parametrize(
    "key", ["a b+c", "ä/ö/ü", "50%&=?#", "~!*'();:@$,[]", "日本語.jpg", "line\nbreak", '\\"<>^`{|}']
)
def test_a_key_that_needs_escapes_is_signed_as_minio_py_signs_it(key: str) -> None:
    ours = example_signer("http://minio:9000").presign(
        "PUT", "incoming", key=key, issued_at=EXAMPLE_TIME, expires_in_seconds=1
    )
    assert ours == presign_with_sdk(
        "http://minio:9000", key, issued_at=EXAMPLE_TIME, expires_in_seconds=1
    )


@given(
    key=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(
        is_sendable
    ),
    issued_at=st.datetimes(
        min_value=datetime(1970, 1, 1),  # noqa: DTZ001  # Hypothesis adds the zone
        max_value=datetime(2100, 1, 1),  # noqa: DTZ001  # Hypothesis adds the zone
        timezones=st.just(UTC),
    ),
    expires_in_seconds=st.integers(1, 604_800),
    query=st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1),
        st.text(st.characters(exclude_categories=["Cs"])),
    ),
)
def test_any_request_is_signed_as_minio_py_signs_it(
    key: str, issued_at: datetime, expires_in_seconds: int, query: dict[str, str]
) -> None:
    ours = example_signer("http://minio:9000").presign(
        "PUT",
        "incoming",
        key=key,
        issued_at=issued_at,
        expires_in_seconds=expires_in_seconds,
        query=query,
    )
    assert ours == presign_with_sdk(
        "http://minio:9000",
        key,
        issued_at=issued_at,
        expires_in_seconds=expires_in_seconds,
        query=query,
    )


def test_the_time_is_signed_in_utc() -> None:
    signer = example_signer("http://minio:9000")
    in_tokyo = EXAMPLE_TIME.astimezone(timezone(timedelta(hours=9)))
    assert signed_put(signer, issued_at=in_tokyo) == signed_put(signer, issued_at=EXAMPLE_TIME)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        signed_put(example_signer("http://minio:9000"), issued_at=EXAMPLE_TIME.replace(tzinfo=None))


def test_a_signer_changes_its_key_at_midnight() -> None:
    signer = example_signer("http://minio:9000")
    late, early = EXAMPLE_TIME - timedelta(seconds=1), EXAMPLE_TIME
    first = [signed_put(signer, issued_at=moment) for moment in (late, early, late)]
    assert first[0] == first[2] != first[1]
    assert first[1] == signed_put(example_signer("http://minio:9000"), issued_at=early)


def test_size_type_condition_and_digest_are_signed() -> None:
    signer = example_signer("http://minio:9000")
    parameters = parse_qs(urlsplit(signed_put(signer)).query)
    names = {"content-length", "content-type", "host", "if-none-match", *ABSENT_FROM_PUT.neutral}
    assert parameters["X-Amz-SignedHeaders"] == [";".join(sorted(names))]
    assert parameters["X-Amz-Content-Sha256"] == [DIGEST.lower()]
    others = [
        signed_put(signer, **change)
        for change in (
            {"size": 5},
            {"content_type": "image/png"},
            {"if_none_match": False},
            {"sha256": "0" * 64},
            {"sha256": None},
        )
    ]
    signatures = {
        parse_qs(urlsplit(url).query)["X-Amz-Signature"][0] for url in [signed_put(signer), *others]
    }
    assert len(signatures) == 6


# The absence of headers


def is_signed(url: str, sent: list[tuple[str, str]]) -> bool:
    """Return whether a store of MinIO's family accepts the signature of a PUT with these headers.

    It follows the documentation of AWS. The values of a signed header come from the request,
    joined by commas, or from the query if the request has none.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    (signature,) = query.pop("X-Amz-Signature")
    (names,), (credential,), (timestamp,) = (
        query["X-Amz-SignedHeaders"],
        query["X-Amz-Credential"],
        query["X-Amz-Date"],
    )
    scope = credential.partition("/")[2]
    lines = ""
    for name in names.split(";"):
        values = [
            value for header, value in [("host", parts.netloc), *sent] if header.lower() == name
        ] or query.get(name)
        if values is None:
            return False
        lines += f"{name}:{','.join(' '.join(value.split()) for value in values)}\n"
    encoded = sorted(
        (quote(name, safe=""), quote(value, safe=""))
        for name, values in query.items()
        for value in values
    )
    canonical = "&".join(f"{name}={value}" for name, value in encoded)
    payload = query.get("X-Amz-Content-Sha256", ["UNSIGNED-PAYLOAD"])[0]
    request = f"PUT\n{parts.path}\n{canonical}\n{lines}\n{names}\n{payload}"
    key = f"AWS4{EXAMPLE_SECRET_KEY}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    return hmac.digest(key, text.encode(), "sha256").hex() == signature


SENT = [("Content-Length", "4"), ("Content-Type", "image/jpeg"), ("If-None-Match", "*")]
LENGTH_ALONE: dict[str, object] = {"content_type": None, "sha256": None, "if_none_match": False}
PART: dict[str, object] = {**LENGTH_ALONE, "query": {"partNumber": "1", "uploadId": "a.b-c_d~e"}}


def test_a_store_that_follows_the_documentation_accepts_every_url() -> None:
    signer = example_signer("http://minio:9000")
    assert is_signed(signed_put(signer), SENT)
    assert is_signed(
        signed_put(signer, sha256=None),
        [*SENT, ("Cache-Control", "no-cache"), ("Pragma", "no-cache")],
    )
    assert is_signed(signed_put(signer, **LENGTH_ALONE), SENT[:1])
    assert is_signed(signed_put(signer, **PART), SENT[:1])
    assert not is_signed(signed_put(signer), SENT[:2])


@pytest.mark.parametrize("changes", [{}, LENGTH_ALONE])
@pytest.mark.parametrize("header", ABSENT_FROM_PUT.neutral)
def test_a_forbidden_header_invalidates_the_signature(
    changes: dict[str, object], header: str
) -> None:
    url, sent = (
        signed_put(example_signer("http://minio:9000"), **changes),
        SENT[:1] if changes else SENT,
    )
    neutral = ABSENT_FROM_PUT.neutral[header]
    for values in (
        ["true"],
        ["", "true"],
        [neutral, "true"],
        ["true", "true"],
        ["", ""],
        [neutral, neutral],
        [f"{neutral},true"],
    ):
        assert not is_signed(url, [*sent, *[(header, value) for value in values]]), values
    # Only a value that has no effect, or that cannot be sent, leaves the signature valid.
    assert is_signed(url, [*sent, (header, neutral)])
    assert is_signed(url, [*sent, (header, "")]) == (neutral == "")


def test_the_url_of_a_part_forbids_only_a_copy() -> None:
    url = signed_put(example_signer("http://minio:9000"), **PART)
    assert parse_qs(urlsplit(url).query)["X-Amz-SignedHeaders"] == [
        "content-length;host;x-amz-copy-source"
    ]
    assert not is_signed(url, [*SENT[:1], ("x-amz-copy-source", "/vault/secret")])


def test_a_signer_for_other_stores_forbids_nothing() -> None:
    signer = Signer(
        "http://minio:9000",
        access_key=EXAMPLE_ACCESS_KEY,
        secret_key=EXAMPLE_SECRET_KEY,
        region="us-east-1",
        bind_absent_headers=False,
    )
    for url in (signed_put(signer), signed_put(signer, **PART)):
        assert not any(name in url for name in ABSENT_FROM_PUT.neutral)
    assert is_signed(signed_put(signer), SENT)


def test_a_url_is_much_shorter_than_proxies_allow() -> None:
    """Check the length of a URL against the smallest limit of common proxies.

    Old proxies and web application firewalls allow 2,048 bytes. nginx allows 8 KiB.
    """
    signer = Signer(
        "https://storage.files.example.com:9000",
        access_key="A" * 20,
        secret_key="S" * 40,
        region="ap-northeast-1",
    )
    assert len(signed_put(signer)) < 1536


def read_nginx_pattern() -> re.Pattern[str]:
    """Return the pattern by which docs/deploy/nginx.conf recognizes an upload URL."""
    text = (Path(__file__).parents[2] / "docs" / "deploy" / "nginx.conf").read_text(
        encoding="utf-8"
    )
    (pattern,) = re.findall(r'"~(\^/assay-incoming/.*)" 1;', text)
    return re.compile(pattern)


@pytest.mark.parametrize("changes", [{}, LENGTH_ALONE, PART])
def test_the_documented_proxy_passes_these_urls_and_no_other_value(
    changes: dict[str, object],
) -> None:
    url = signed_put(example_signer("http://minio:9000"), **changes).replace(
        "http://minio:9000/incoming/", "/assay-incoming/"
    )
    pattern, absent = (
        read_nginx_pattern(),
        ABSENT_FROM_PART if "query" in changes else ABSENT_FROM_PUT,
    )
    assert pattern.search(url)
    for name, value in absent.neutral.items():
        here = f"&{name}={quote(value)}&"
        assert here in url
        assert not pattern.search(url.replace(here, f"&{name}=true&")), name
    assert not pattern.search(f"{url}&x-amz-meta-theirs=1")


def test_the_client_gets_exactly_the_headers_that_it_must_send() -> None:
    signer = example_signer("http://minio:9000")
    presign = functools.partial(
        signer.presign_put, "b", "k", issued_at=EXAMPLE_TIME, expires_in_seconds=900
    )
    full = presign(size=4, content_type="text/plain", sha256=DIGEST, if_none_match=True)
    bare = presign(size=None, content_type=None, sha256=None, if_none_match=False)
    assert full.headers == {"Content-Type": "text/plain", "If-None-Match": "*"}
    assert bare.headers == {}


@pytest.mark.parametrize("seconds", [-1, 0, 604_801])
def test_a_lifetime_that_no_store_accepts_is_refused(seconds: int) -> None:
    with pytest.raises(ValueError, match="1 second to 7 days"):
        signed_put(example_signer("http://minio:9000"), expires_in_seconds=seconds)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://minio/prefix",
        "http://minio?a=b",
        "http://minio#a",
        "http://user:secret@minio",
        "ftp://minio",
        "minio:9000",
        "http://",
        "http://minio:port",
        "",
    ],
)
def test_an_endpoint_that_cannot_be_signed_for_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the standard library's texts differ
        parse_endpoint(endpoint)


@pytest.mark.parametrize("key", ["", ".", "..", "a/../b"])
def test_a_key_that_clients_would_normalize_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        example_signer("http://minio:9000").presign(
            "PUT", "incoming", key=key, issued_at=EXAMPLE_TIME, expires_in_seconds=1
        )


def test_the_repr_of_a_signer_shows_no_key() -> None:
    shown = repr(example_signer("http://minio:9000"))
    assert EXAMPLE_ACCESS_KEY not in shown
    assert EXAMPLE_SECRET_KEY not in shown
