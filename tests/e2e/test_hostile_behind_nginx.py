"""Tests of hostile requests that nginx must stop.

Some are requests that a store alone would accept. The others use an upload URL for something other
than an upload. Nothing in either bucket may change.
"""

import asyncio
import http.client
import itertools
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx
import pytest

from service.resources import Resources
from service.settings import Deployment
from tests.e2e.attacks import put_snowball
from tests.e2e.conftest import Api, Behind
from tests.e2e.hostile_urls import (
    BODY,
    OTHER,
    check_clients_encoding,
    check_slow_put,
    check_streaming_unsigned_body,
    check_unsigned_body,
)
from tests.e2e.jobs import (
    check_all,
    check_served,
    complete,
    declare,
    find_key,
    in_pieces,
    look_at,
    put,
    upload,
    upload_silently,
)
from tests.support.presigned import Answers, content, sign
from tests.support.servers import store_kinds
from tests.support.stores import read_headers, read_tags
from tests.support.trust import TRUSTED

# nginx lets the same requests pass when it also reads the vault. One store is enough to show that.
KINDS = [*store_kinds(), f"{store_kinds()[0]} accel"]
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("behind", KINDS, indirect=True)]


@pytest.fixture
def api(behind: Behind) -> Api:
    return behind.api


@pytest.fixture
def expected() -> Answers:
    """Return the responses of nginx itself, which are the same for every store."""
    return {"another body, streaming-unsigned": {400}, "no signature": {400}}


def ask(
    url: str,
    method: str,
    target: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bool]:
    """Send a request whose target is neither normalised nor escaped by a client library.

    Return the status, and whether nginx itself gave the response.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, b"<center>nginx</center>" in answer.read()
    finally:
        connection.close()


# Requests that are not uploads


class Target:
    """The path and query of an upload URL, from which a test makes other targets."""

    def __init__(self, url: str, vault: str, vault_key: str) -> None:
        parts = urlsplit(url)
        _, self.bucket, self.key = parts.path.split("/")
        self.query, self.vault, self.vault_key = parts.query, vault, vault_key

    def with_path(self, path: str) -> str:
        filled = path.format(
            incoming=self.bucket, key=self.key, vault=self.vault, other=self.vault_key
        )
        return f"{filled}?{self.query}"


@pytest.fixture
async def target(client: httpx.AsyncClient, resources: Resources) -> Target:
    """Return the upload URL of a pending file. The vault has the object of another file."""
    proved = await upload(client, BODY)
    await complete(client, proved)
    declared = await declare(client, BODY)
    name = (await look_at(resources, proved)).row["minio_object_name"]
    return Target(declared["upload"]["url"], resources.vault.name, str(name))


async def check_untouched(resources: Resources, target: Target) -> None:
    """Check that the incoming key has no object, and that the vault object is unchanged."""
    found = [
        asyncio.to_thread(content, *place)
        for place in ((resources.incoming, target.key), (resources.vault, target.vault_key))
    ]
    assert await asyncio.gather(*found) == [None, BODY]


HEADERS = {"Content-Type": "text/plain", "If-None-Match": "*"}


async def test_an_upload_url_accepts_only_put(
    client: httpx.AsyncClient, resources: Resources, behind: Behind, target: Target
) -> None:
    for method in ("GET", "POST", "DELETE", "PATCH", "OPTIONS", "COPY"):
        assert ask(
            behind.nginx.url, method, target.with_path("/{incoming}/{key}"), headers=HEADERS
        ) == (405, True), method
    assert ask(behind.nginx.url, "HEAD", target.with_path("/{incoming}/{key}"))[0] == 405
    for listing in ("/{incoming}/", "/{incoming}/?list-type=2&"):
        assert ask(behind.nginx.url, "GET", target.with_path(listing).replace("??", "?")) == (
            405,
            True,
        )
    await check_untouched(resources, target)


LIKE_AN_UPLOAD = (
    "//{incoming}/{key}",
    "/{incoming}//{key}",
    "/./{incoming}/{key}",
    "/{incoming}/./{key}",
    "/{incoming}/{key}/",
    "/{incoming}/{key}/more",
    "/{vault}/../{incoming}/{key}",
    "/files/../{incoming}/{key}",
    "/{incoming}%2F{key}",
    "/{incoming}/%2e%2e/{incoming}/{key}",
    "/{incoming}/a%2Fb",
    "/{incoming}/a%00b",
    "/{incoming}/a%0Ab",
    "/{incoming}/a\\b",
    "/{incoming}/",
)
ELSEWHERE = (
    "/{vault}/{other}",
    "/{incoming}/../{vault}/{other}",
    "/{incoming}/%2e%2e/{vault}/{other}",
    "/{incoming}%2F..%2F{vault}%2F{other}",
    "/{incoming}/..//{vault}/{other}",
    "//{vault}/{other}",
    "/{incoming}",
    "/minio/admin/v3/info",
    "/minio/health/cluster",
    "/",
)
INSIDE = (
    "/metrics",
    "/metrics/",
    "//metrics",
    "/%6detrics",
    "/files/../metrics",
    "/webhooks/minio",
    "/webhooks/minio/",
    "/webhooks//minio",
)


async def test_a_path_that_only_looks_like_an_upload_is_refused(
    resources: Resources, behind: Behind, target: Target
) -> None:
    for path in LIKE_AN_UPLOAD:
        status, by_nginx = ask(
            behind.nginx.url, "PUT", target.with_path(path), body=BODY, headers=HEADERS
        )
        assert (status in (400, 403), by_nginx) == (True, True), path
    await check_untouched(resources, target)


async def test_all_other_requests_go_to_the_api_and_never_to_the_store(
    resources: Resources, behind: Behind, target: Target
) -> None:
    for path, method in itertools.product(ELSEWHERE, ("PUT", "GET", "DELETE")):
        body = BODY if method == "PUT" else b""
        status, by_nginx = ask(
            behind.nginx.url, method, target.with_path(path), body=body, headers=HEADERS
        )
        # The API serves its page at `/`, and answers 304 to `If-None-Match: *`.
        expected = (304,) if (method, path) == ("GET", "/") else (400, 401, 404, 405)
        assert (status in expected, by_nginx) == (True, False), (method, path, status)
    await check_untouched(resources, target)


async def test_internal_routes_get_404(behind: Behind) -> None:
    for path, method in itertools.product(INSIDE, ("GET", "POST", "PUT")):
        assert ask(behind.nginx.url, method, path) == (404, True), (method, path)


async def test_a_query_that_is_not_a_signature_of_assay_is_refused(
    resources: Resources, behind: Behind, target: Target
) -> None:
    signed = target.query
    unsigned, _, signature = signed.rpartition("&")
    others = (
        "uploads",
        "delete",
        "tagging",
        "acl",
        "retention",
        "legal-hold",
        "%75ploads",
        "x-amz-copy-source",
        "X-Amz-Security-Token",
    )
    queries = [
        "",
        unsigned,
        f"{unsigned}&{signature.replace('Signature', 'Other')}",
        signed[:-1],
        f"X-Amz-Signature={'0' * 64}&uploads=",
        f"delete&{signed}",
        f"acl=&{signed}",
        *[f"{signed}&{name}=" for name in others],
        f"{signed}&uploads",
        f"{signed};uploads=",
        f"{signed}&partNumber=1?uploads",
        f"{signed}#&acl",
        signed.replace("x-amz-tagging=", "x-amz-tagging=theirs"),
        signed.replace("snowball-auto-extract=no", "snowball-auto-extract=true"),
        signed.replace("x-minio-source-etag=%7F", "x-minio-source-etag="),
        f"{signed}&x-amz-meta-mine=yes",
        f"{signed}&content-language=tlh",
    ]
    for query in queries:
        asked = f"/{target.bucket}/{target.key}{'?' if query else ''}{query}"
        assert ask(behind.nginx.url, "PUT", asked, body=BODY, headers=HEADERS) == (403, True), query
    await check_untouched(resources, target)


async def test_a_body_in_aws_chunked_or_chunked_coding_is_refused(
    resources: Resources, behind: Behind, target: Target
) -> None:
    for name, value in (
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("X-Amz-Content-SHA256", "streaming-aws4-hmac-sha256-payload"),
        ("x-amz-decoded-content-length", "1"),
        ("Content-Encoding", "gzip, aws-chunked"),
        ("Transfer-Encoding", "chunked"),  # beside a Content-Length
    ):
        answer = ask(
            behind.nginx.url,
            "PUT",
            target.with_path("/{incoming}/{key}"),
            body=BODY,
            headers={**HEADERS, name: value},
        )
        assert answer == (400, True), name
    await check_untouched(resources, target)


async def test_a_body_of_unknown_length_is_refused(
    client: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await declare(client, BODY)
    async with httpx.AsyncClient(verify=TRUSTED) as anonymous:
        answer = await anonymous.put(
            declared["upload"]["url"],
            content=in_pieces(BODY),
            headers=declared["upload"]["headers"],
        )
    assert answer.status_code == 411
    assert (await look_at(resources, declared)).incoming is None


# Headers that are sent with an upload


async def test_an_event_cannot_be_suppressed_nor_an_etag_forged(
    client: httpx.AsyncClient, resources: Resources
) -> None:
    declared, status = await upload_silently(client, BODY)
    assert status == 200
    # Without the event, the schedule would check the file only after a minute.
    answer = await client.get(f"/files/{declared['file']['id']}/metadata", params={"wait": 20})
    assert answer.json()["state"] == "ready"
    assert (await look_at(resources, declared)).row["arrivals"] == 1
    await check_served(client, resources, declared, BODY)


async def test_an_upload_with_a_copy_header_stores_the_body(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient, resources: Resources
) -> None:
    victim = await upload(client, BODY)
    await complete(client, victim)
    name = (await look_at(resources, victim)).row["minio_object_name"]
    declared = await declare(intruder, b"")
    for header in ("x-amz-copy-source", "X-Amz-Copy-Source"):
        assert (
            await put(
                declared,
                b"",
                {header: f"/{resources.vault.name}/{name}", "x-amz-copy-source-range": "bytes=0-1"},
            )
        ).status in (
            200,
            412,
        )
    await complete(intruder, declared)
    await check_served(intruder, resources, declared, b"")
    await check_served(client, resources, victim, BODY)


async def test_a_tar_is_stored_and_not_unpacked(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await declare(client, BODY)
    assert await put_snowball(intruder, await find_key(resources, declared), OTHER) == 200
    assert (await look_at(resources, declared)).incoming is None
    await check_all(resources)


async def test_only_the_type_and_the_condition_reach_the_store(
    api: Api, resources: Resources
) -> None:
    """Check also that the API key does not reach the store, which would refuse it."""
    key = os.urandom(16).hex()
    signed = sign(resources.signer, resources.incoming, key, size=len(BODY), if_none_match=True)
    more = {
        "Authorization": "Bearer unknown",
        "Cookie": "a=b",
        "Cache-Control": "public",
        "Content-Disposition": "inline",
        "Content-Encoding": "gzip",
        "Content-Language": "tlh",
        "Expires": "Thu, 01 Jan 2099 00:00:00 GMT",
        "X-Amz-Acl": "public-read",
        "x-amz-meta-mine": "yes",
        "x-amz-object-lock-mode": "GOVERNANCE",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
        "x-amz-tagging": "delete=soon",
        "x-amz-website-redirect-location": "https://evil.example",
        "x-minio-source-mtime": "2001-01-01T00:00:00Z",
    }
    answer = await put(
        {"upload": {"method": "PUT", "url": signed.url, "headers": signed.headers}}, BODY, more
    )
    assert answer.status == 200, answer.body
    assert content(resources.incoming, key) == BODY
    headers, tags = await asyncio.to_thread(read_all_about, api.deployment, key)
    kept = {
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "expires",
        "x-amz-storage-class",
    }
    # The store may keep two of the neutral values, which are empty.
    assert not any(headers.get(name) for name in kept)
    assert not any(
        name.startswith(("x-amz-meta-mine", "x-amz-tagging", "x-amz-object-lock", "x-amz-website"))
        for name in headers
    )
    assert headers["content-type"] == "text/plain"
    assert tags == {}
    again = await put(
        {"upload": {"method": "PUT", "url": signed.url, "headers": signed.headers}}, BODY
    )
    assert again.status == (200 if api.store.kind == "embedded" else 412)
    await resources.incoming.delete(key)


def read_all_about(deployment: Deployment, key: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the headers of an incoming object, by their names in lower case, and its tags."""
    bucket = deployment.incoming_bucket
    return read_headers(deployment, bucket, key), read_tags(deployment, bucket, key)


# Attacks on URLs, through nginx


async def test_a_streaming_unsigned_body_is_never_served(
    client: httpx.AsyncClient, resources: Resources, expected: Answers
) -> None:
    await check_streaming_unsigned_body(client, resources, expected)


async def test_a_body_without_a_signature_is_never_served(
    client: httpx.AsyncClient, resources: Resources, expected: Answers
) -> None:
    await check_unsigned_body(client, resources, expected)


async def test_a_put_that_outlasts_its_url_ends_ready(
    client: httpx.AsyncClient, resources: Resources
) -> None:
    await check_slow_put(client, resources)


async def test_a_clients_encoding_and_tags_do_not_reach_readers(
    api: Api, client: httpx.AsyncClient, resources: Resources
) -> None:
    await check_clients_encoding(api, client, resources)
