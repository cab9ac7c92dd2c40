"""Header signatures, compared with the S3 documentation and with minio-py."""

import hashlib
import io
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import minio
import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from service.object_store import RequestRefused
from service.object_store.client import Client
from service.object_store.messages import Request
from service.object_store.signing import EMPTY_SHA256, RequestSigner, canonical_query, object_path

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EXAMPLE_TIME = datetime(2013, 5, 24, tzinfo=UTC)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda key: bool(key.strip()) and {".", ".."}.isdisjoint(key.split("/"))
)
"""Any text that can be a key, with control characters and characters outside the basic plane."""
QUERIES = st.dictionaries(
    st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1),
    st.text(st.characters(exclude_categories=["Cs"])),
    min_size=1,
)


class Recorded(Exception):
    """The end of a call of the SDK once its request is known."""


class RecordingPool(urllib3.PoolManager):
    """A pool that records the SDK's request and sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.url = ""
        self.headers: dict[str, str] = {}

    def urlopen(  # type: ignore[override]  # it takes the arguments that the SDK gives
        self,
        method: str,  # noqa: ARG002  # the parent's parameter
        url: str,
        redirect: bool = True,  # noqa: ARG002  # the parent's parameter
        **options: Any,
    ) -> Any:
        self.url = url
        self.headers = {name.lower(): value for name, value in options["headers"].items()}
        raise Recorded


def sign_as_recorded(pool: RecordingPool, method: str, *, path: str, query: str) -> str:
    """Return the `Authorization` that the service's signer makes for the SDK's request."""
    headers = {
        name: value
        for name, value in pool.headers.items()
        if name not in ("authorization", "user-agent", "host")
    }
    signed_at = datetime.strptime(headers.pop("x-amz-date"), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    digest = headers.pop("x-amz-content-sha256")
    return signer().sign(method, path, query, headers=headers, digest=digest, signed_at=signed_at)[
        "Authorization"
    ]


def signer(endpoint: str = "http://minio:9000") -> RequestSigner:
    return RequestSigner(endpoint, access_key=ACCESS_KEY, secret_key=SECRET_KEY, region="us-east-1")


def sdk(pool: RecordingPool) -> minio.Minio:
    return minio.Minio(
        "minio:9000", ACCESS_KEY, SECRET_KEY, secure=False, region="us-east-1", http_client=pool
    )


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "body", "names", "signature"),
    [
        (
            "GET",
            "/test.txt",
            {},
            {"Range": "bytes=0-9"},
            b"",
            "host;range;x-amz-content-sha256;x-amz-date",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test%24file.text",
            {},
            {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            b"Welcome to Amazon S3.",
            "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            "/",
            {"lifecycle": ""},
            {},
            b"",
            "host;x-amz-content-sha256;x-amz-date",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            "/",
            {"prefix": "J", "max-keys": "2"},
            {},
            b"",
            "host;x-amz-content-sha256;x-amz-date",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
    ids=["range", "put", "empty value", "list"],
)
def test_the_examples_of_the_s3_documentation_are_reproduced(
    method: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: bytes,
    names: str,
    signature: str,
) -> None:
    sent = signer("https://examplebucket.s3.amazonaws.com").sign(
        method,
        path,
        canonical_query(query),
        headers=headers,
        digest=hashlib.sha256(body).hexdigest(),
        signed_at=EXAMPLE_TIME,
    )
    assert sent["Authorization"] == (
        f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20130524/us-east-1/s3/aws4_request,"
        f" SignedHeaders={names}, Signature={signature}"
    )
    assert sent["Host"] == "examplebucket.s3.amazonaws.com"


@given(key=KEYS, query=QUERIES)
def test_a_read_is_signed_and_addressed_as_by_minio_py(key: str, query: dict[str, str]) -> None:
    pool = RecordingPool()
    with pytest.raises(Recorded):
        sdk(pool).get_object("vault", key, offset=1, length=2, extra_query_params=dict(query))
    path, signed_query = object_path("vault", key), canonical_query(query)
    assert f"http://minio:9000{path}" == pool.url.partition("?")[0]
    assert sorted(signed_query.split("&")) == sorted(urlsplit(pool.url).query.split("&"))
    assert (
        sign_as_recorded(pool, "GET", path=path, query=signed_query)
        == pool.headers["authorization"]
    )


@given(key=KEYS, body=st.binary(max_size=100))
def test_a_write_is_signed_as_minio_py_signs_it(key: str, body: bytes) -> None:
    pool = RecordingPool()
    with pytest.raises(Recorded):
        sdk(pool).put_object(
            "vault",
            key,
            io.BytesIO(body),
            len(body),
            content_type="image/jpeg; q=1",
            metadata={"x-amz-meta-a": "b  c"},
        )
    assert (
        sign_as_recorded(pool, "PUT", path=object_path("vault", key), query="")
        == pool.headers["authorization"]
    )


def test_a_signer_changes_its_key_at_midnight() -> None:
    one, late, early = signer(), EXAMPLE_TIME - timedelta(seconds=1), EXAMPLE_TIME

    def sign(by: RequestSigner, moment: datetime) -> str:
        return by.sign("GET", "/vault/k", "", headers={}, digest=EMPTY_SHA256, signed_at=moment)[
            "Authorization"
        ]

    assert [sign(one, moment) for moment in (late, early, late)] == [
        sign(signer(), moment) for moment in (late, early, late)
    ]
    assert sign(one, late) != sign(one, early)


# The body's digest that a client signs


def client(endpoint: str = "http://minio:9000") -> Client:
    return Client(endpoint, access_key=ACCESS_KEY, secret_key=SECRET_KEY, region="us-east-1")


def digest_sent(request: Request, endpoint: str = "http://minio:9000") -> str:
    return client(endpoint).sign(request).headers["x-amz-content-sha256"]


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_the_digest_of_a_body_is_given_computed_or_left_to_tls(buffer: type) -> None:
    body = buffer(b"bytes")
    assert digest_sent(Request("PUT", "b", "k", body=body)) == hashlib.sha256(b"bytes").hexdigest()
    assert (
        digest_sent(Request("PUT", "b", "k", body=body), "https://minio:9000") == "UNSIGNED-PAYLOAD"
    )
    for endpoint in ("http://minio:9000", "https://minio:9000"):
        assert (
            digest_sent(Request("PUT", "b", "k", body=body, sha256="0" * 64), endpoint) == "0" * 64
        )
        assert digest_sent(Request("GET", "b", "k"), endpoint) == EMPTY_SHA256
        assert digest_sent(Request("PUT", "b", "k", body=buffer(b"")), endpoint) == EMPTY_SHA256
    assert client().sign(Request("PUT", "b", "k", body=body)).headers["Content-Length"] == "5"


def test_the_url_that_is_sent_is_the_one_that_is_signed() -> None:
    assert (
        client().sign(Request("POST", "b", "ä b", query={"uploads": ""})).url
        == "http://minio:9000/b/%C3%A4%20b?uploads="
    )
    assert (
        client().sign(Request("GET", "b", query={"prefix": "a/ß", "delimiter": ""})).url
        == "http://minio:9000/b?delimiter=&prefix=a%2F%C3%9F"
    )
    assert client().sign(Request("GET")).url == "http://minio:9000/"


@pytest.mark.parametrize("key", ["", ".", "a/../b"])
def test_a_key_that_no_path_can_name_is_refused_before_sending(key: str) -> None:
    with pytest.raises(RequestRefused, match="key"):
        client().sign(Request("DELETE", "b", key))


def test_the_repr_of_a_signer_shows_no_key() -> None:
    assert repr(signer()) == "RequestSigner(http://minio:9000)"
