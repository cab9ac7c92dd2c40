"""The behaviour of each store for Assay's presigned URLs, as docs/store-facts.md describes it.

`EXPECTED`, `OPEN` and `ABUSES` in tests/support/presigned.py are the tables of that page. Where a
store accepts a request, the verification must not rely on a refusal. If a test fails here after an
update of a store, a row of the tables has changed. Then check the reasons that the protocol gives
for its steps.
"""

import base64
import hashlib
import http.client
import io
import math
import tarfile
import time
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlsplit

import minio
import pytest

from service.object_store import Bucket, ObjectStore, StoreError, signing
from service.object_store.presign import ABSENT_FROM_PUT, UNSENDABLE, PresignedPut, Signer
from service.object_store.signing import forbid
from service.settings import Deployment
from tests.support.presigned import (
    ABUSES,
    BODY,
    EXPECTED,
    FORMS,
    OPEN,
    OTHER,
    SNOWBALL,
    content,
    fill_form,
    forge,
    put,
    sign,
    stream_unsigned,
)
from tests.support.stores import (
    REGION,
    Answer,
    StoreUnderTest,
    listening,
    now,
    read_headers,
    read_metadata,
    receive,
    send,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def expect(server: str) -> Callable[[str, Answer], None]:
    """Return a function that compares a response with the table."""

    def check(row: str, answer: Answer) -> None:
        assert answer.status in EXPECTED[row][server], (row, answer.status, answer.code)

    return check


@pytest.fixture
def expect_open(server: str) -> Callable[[str, Answer], None]:
    """Return a function that compares the response to a URL without forbidden headers."""

    def check(row: str, answer: Answer) -> None:
        assert answer.status in OPEN[row][server], (row, answer.status, answer.code)

    return check


Expect = Callable[[str, Answer], None]


def test_an_upload_that_follows_its_url_is_stored(signer: Signer, incoming: Bucket) -> None:
    upload = sign(signer, incoming, "k", digest_of=BODY, if_none_match=True)
    assert put(upload).status == 200
    assert content(incoming, "k") == BODY


def test_an_empty_body_is_stored(signer: Signer, incoming: Bucket) -> None:
    assert (
        put(sign(signer, incoming, "k", size=0, digest_of=b"", if_none_match=True), b"").status
        == 200
    )
    assert content(incoming, "k") == b""


@pytest.mark.parametrize("body", [b"", BODY[:-1], BODY + b"!"])
def test_the_length_is_bound(signer: Signer, incoming: Bucket, expect: Expect, body: bytes) -> None:
    expect("another length", put(sign(signer, incoming, "k"), body))
    assert content(incoming, "k") is None


def test_the_type_is_bound(signer: Signer, incoming: Bucket, expect: Expect) -> None:
    upload = sign(signer, incoming, "k")
    expect(
        "another type", send("PUT", upload.url, body=BODY, headers={"Content-Type": "text/html"})
    )
    expect("no type", send("PUT", upload.url, body=BODY))
    assert content(incoming, "k") is None


def test_the_digest_is_bound(signer: Signer, incoming: Bucket, expect: Expect) -> None:
    expect("another body than the digest", put(sign(signer, incoming, "k", digest_of=BODY), OTHER))
    assert content(incoming, "k") is None


def test_a_streaming_unsigned_body_does_not_evade_the_digest(
    signer: Signer, incoming: Bucket, expect: Expect
) -> None:
    pieces, headers = stream_unsigned(OTHER)
    expect(
        "another body, streaming-unsigned",
        put(sign(signer, incoming, "k", size=len(pieces), digest_of=BODY), pieces, headers),
    )
    assert content(incoming, "k") is None


def test_without_the_policy_a_streaming_unsigned_body_may_evade_the_digest(
    root_signer: Signer, incoming: Bucket, expect_open: Expect
) -> None:
    """Sign as root, to which no policy applies."""
    pieces, headers = stream_unsigned(OTHER)
    answer = put(
        sign(root_signer, incoming, "k", size=len(pieces), digest_of=BODY), pieces, headers
    )
    expect_open("another body, streaming-unsigned", answer)
    assert content(incoming, "k") == (OTHER if answer.status == 200 else None)


def test_a_signed_checksum_may_not_be_enforced(
    signer: Signer, incoming: Bucket, expect: Expect
) -> None:
    headers = {"x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(BODY).digest()).decode()}
    url = signer.presign(
        "PUT", incoming.name, key="k", issued_at=now(), expires_in_seconds=60, headers=headers
    )
    answer = send("PUT", url, body=OTHER, headers=headers)
    expect("another body than the signed checksum", answer)
    assert content(incoming, "k") == (OTHER if answer.status == 200 else None)


def test_an_upload_with_if_none_match_may_still_overwrite(
    signer: Signer, incoming: Bucket, expect: Expect
) -> None:
    upload = sign(signer, incoming, "k", if_none_match=True)
    assert put(upload).status == 200
    answer = put(upload, OTHER)
    expect("if-none-match, key exists", answer)
    assert content(incoming, "k") == (OTHER if answer.status == 200 else BODY)


def test_the_condition_cannot_be_left_out(signer: Signer, incoming: Bucket, expect: Expect) -> None:
    upload = sign(signer, incoming, "k", if_none_match=True)
    expect(
        "if-none-match dropped",
        send("PUT", upload.url, body=BODY, headers={"Content-Type": "text/plain"}),
    )
    assert content(incoming, "k") is None


async def test_the_length_and_the_digest_of_a_part_are_bound(
    signer: Signer, incoming: Bucket, expect: Expect
) -> None:
    upload_id = await incoming.create_upload("k", content_type="text/plain", metadata={}, tags={})
    part = sign(
        signer, incoming, "k", digest_of=BODY, query={"partNumber": "1", "uploadId": upload_id}
    )
    expect("part of another length", put(part, BODY + b"!"))
    expect("part with another digest", put(part, OTHER))
    assert await incoming.list_parts("k", upload_id) == []
    assert put(part).status == 200
    assert [stored.size for stored in await incoming.list_parts("k", upload_id)] == [len(BODY)]


async def test_the_clients_own_metadata_may_be_stored(
    signer: Signer, incoming: Bucket, deployment: Deployment, expect: Expect
) -> None:
    answer = put(sign(signer, incoming, "k"), headers={"x-amz-meta-theirs": "1"})
    expect("unsigned metadata", answer)
    if answer.status == 200:
        assert read_metadata(deployment, incoming, "k")["theirs"] == "1"


@pytest.mark.parametrize("values", [[""], ["", "1"]])
async def test_the_clients_own_metadata_is_stored_after_an_empty_value(
    signer: Signer, incoming: Bucket, deployment: Deployment, expect: Expect, values: list[str]
) -> None:
    """Send names of metadata that the URL does not contain and so cannot forbid.

    The copy to the vault replaces all metadata.
    """
    expect(
        "unsigned metadata, empty",
        put(
            sign(signer, incoming, "k"), headers=[("x-amz-meta-theirs", value) for value in values]
        ),
    )
    assert "theirs" in read_metadata(deployment, incoming, "k")


# Headers that a URL forbids


def test_every_header_that_a_url_forbids_is_tried_below() -> None:
    assert set(ABUSES) == set(ABSENT_FROM_PUT.neutral)


@pytest.mark.parametrize("header", ABUSES)
async def test_a_header_that_the_url_forbids_is_refused_in_every_form(
    signer: Signer, incoming: Bucket, deployment: Deployment, header: str
) -> None:
    """Refuse every form of the header whose signature differs from that of an absent header.

    A form with the same signature must have no effect.
    """
    neutral = ABSENT_FROM_PUT.neutral[header]
    like_absent = (
        ("neutral", *(("empty", "a space") if neutral == "" else ()))
        if neutral != UNSENDABLE
        else ()
    )
    for form in FORMS:
        key = form.replace(" ", "-")
        values = fill_form(form, neutral=neutral, value=ABUSES[header])
        status = put_form(sign(signer, incoming, key), header, values)
        if form in like_absent:
            assert status == 200, form
            await check_plain(incoming, deployment, key)
        else:
            assert status in REFUSALS, form
            assert content(incoming, key) is None, form


REFUSALS = (400, 403, 501)
"""The statuses of a refusal.

The embedded store answers 501 to a request for encryption before it checks the signature.
"""


def put_form(upload: PresignedPut, header: str, values: list[str]) -> int:
    """Send the header with these values, and return the status.

    Go's HTTP server answers 400 to an unsendable value and closes the connection. The client may
    see the reset before the response.
    """
    try:
        return put(upload, headers=[(header, value) for value in values]).status
    except ConnectionResetError:
        assert UNSENDABLE in values
        return 400


async def check_plain(incoming: Bucket, deployment: Deployment, key: str) -> None:
    """Assert that the object is the same as after an honest upload."""
    found = await incoming.head(key)
    assert content(incoming, key) == BODY
    assert (found.size, found.content_type) == (len(BODY), "text/plain")
    assert read_metadata(deployment, incoming, key) == {"snowball-auto-extract": "no"}
    assert found.etag == hashlib.md5(BODY, usedforsecurity=False).hexdigest()
    assert found.last_modified is not None
    assert abs(found.last_modified - now()) < timedelta(minutes=1)


# Headers that browsers, curl, requests, axios and the SDKs of S3 add by themselves.
HONEST = {
    "plain": {},
    "a reload": {"Cache-Control": "no-cache", "Pragma": "no-cache"},
    "a browser": {
        "Accept": "*/*",
        "Accept-Encoding": "gzip, deflate, br",
        "Accept-Language": "de, en;q=0.5",
        "Origin": "http://localhost:8000",
        "Referer": "http://localhost:8000/",
        "Sec-Fetch-Mode": "cors",
        "User-Agent": "Mozilla/5.0",
    },
    "curl": {"Accept": "*/*", "Expect": "100-continue", "User-Agent": "curl/8.5.0"},
    "tracing": {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "X-Forwarded-For": "192.0.2.7",
    },
    "a digest": {
        "Content-MD5": base64.b64encode(hashlib.md5(BODY, usedforsecurity=False).digest()).decode()
    },
    "a checksum": {
        "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(BODY).digest()).decode()
    },
}


@pytest.mark.parametrize("digest_of", [None, BODY])
@pytest.mark.parametrize("client", HONEST)
async def test_headers_that_honest_clients_add_are_accepted(
    signer: Signer, incoming: Bucket, deployment: Deployment, client: str, digest_of: bytes | None
) -> None:
    assert (
        put(
            sign(signer, incoming, "k", digest_of=digest_of, if_none_match=True),
            headers=HONEST[client],
        ).status
        == 200
    )
    await check_plain(incoming, deployment, "k")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ],
)
async def test_every_declared_content_type_is_accepted(
    signer: Signer, incoming: Bucket, content_type: str
) -> None:
    upload = signer.presign_put(
        incoming.name,
        "k",
        size=len(BODY),
        content_type=content_type,
        sha256=None,
        if_none_match=True,
        issued_at=now(),
        expires_in_seconds=60,
    )
    assert put(upload).status == 200
    assert (await incoming.head("k")).content_type == content_type
    assert content(incoming, "k") == BODY


async def test_a_copy_has_no_trace_of_the_headers_that_its_url_forbade(
    signer: Signer, incoming: Bucket, vault: Bucket, deployment: Deployment
) -> None:
    """Copy an object with which MinIO has stored some of the neutral values."""
    assert put(sign(signer, incoming, "k")).status == 200
    etag = (await incoming.head("k")).etag
    await vault.copy_from(
        incoming,
        "k",
        etag=etag,
        key="v",
        content_type="text/plain",
        metadata={},
        tags={},
        send_before=math.inf,
        timeout_seconds=10,
    )
    headers = read_headers(deployment, vault.name, "v")
    assert not {
        "content-disposition",
        "content-encoding",
        "x-amz-storage-class",
        "x-amz-tagging-count",
    }.intersection(headers)
    assert not any(name.startswith(("x-amz-meta-", "x-minio-")) for name in headers)


UNREADABLE = [
    "x-minio-replication-server-side-encryption-sealed-key",
    "x-minio-replication-server-side-encryption-seal-algorithm",
    "x-minio-replication-server-side-encryption-iv",
    "x-minio-replication-encrypted-multipart",
]


@pytest.mark.parametrize("header", UNREADABLE)
async def test_a_client_may_make_its_own_object_unreadable(
    signer: Signer, incoming: Bucket, server: str, expect: Expect, header: str
) -> None:
    expect("unreadable", put(sign(signer, incoming, "k"), headers={header: "QUFB"}))
    await check_readable(incoming, "k", server=server)


@pytest.mark.parametrize("header", UNREADABLE)
async def test_forbidding_these_headers_would_make_every_object_unreadable(
    signer: Signer, incoming: Bucket, server: str, header: str
) -> None:
    """Sign neutral values, which MinIO reads from the query as if the client had sent them."""
    absent = forbid({header: ""})
    query = {
        "issued_at": now(),
        "expires_in_seconds": 60,
        "headers": absent.neutral,
        "query": absent.neutral,
    }
    url = signer.presign(
        "PUT",
        incoming.name,
        key="k",
        **query,  # type: ignore[arg-type]  # options in a dict
    )
    assert send("PUT", url, body=BODY).status == 200
    await check_readable(incoming, "k", server=server)


async def check_readable(incoming: Bucket, key: str, *, server: str) -> None:
    if server == "minio":
        with pytest.raises(StoreError):
            content(incoming, key)
        with pytest.raises(StoreError):
            await incoming.head(key)
    elif server == "embedded":
        assert content(incoming, key) == BODY


@pytest.mark.parametrize("form", FORMS)
async def test_no_header_changes_a_stored_part(
    signer: Signer, incoming: Bucket, deployment: Deployment, form: str
) -> None:
    """Send each header with a part, whose URL forbids only a copy.

    The other headers have no effect on a part, although some of them are refused.
    """
    for header, value in ABUSES.items():
        upload_id = await incoming.create_upload(
            "k", content_type="text/plain", metadata={}, tags={}
        )
        part = sign(signer, incoming, "k", query={"partNumber": "1", "uploadId": upload_id})
        status = put_form(
            part, header, fill_form(form, neutral=ABSENT_FROM_PUT.neutral[header], value=value)
        )
        sent = await incoming.list_parts("k", upload_id)
        if status == 200:
            assert header != "x-amz-copy-source"
            await incoming.complete_upload("k", upload_id, [(one.number, one.etag) for one in sent])
            found = await incoming.head("k")
            metadata = read_metadata(deployment, incoming, "k")
            assert (content(incoming, "k"), found.content_type, metadata) == (
                BODY,
                "text/plain",
                {},
            ), header
            assert found.last_modified is not None
            assert abs(found.last_modified - now()) < timedelta(minutes=1)
        else:
            assert status in REFUSALS, header
            assert sent == [], header


async def test_even_a_signer_that_may_read_copies_nothing(
    root_signer: Signer, deployment: Deployment, incoming: Bucket, vault: Bucket
) -> None:
    """Sign as root, so that only the URL prevents the copy.

    The rights of the signer normally prevent it as well.
    """
    vault.put_now(
        "secret", BODY, content_type="text/plain", metadata={}, tags={}, timeout_seconds=10
    )
    binding = Signer(
        deployment.s3_endpoint,
        access_key=deployment.s3_root_access_key,
        secret_key=deployment.s3_root_secret_key,
        region=REGION,
    )
    source = {"x-amz-copy-source": f"/{vault.name}/secret"}
    assert put(sign(root_signer, incoming, "copied", size=0), b"", source).status == 200
    assert put(sign(binding, incoming, "k", size=0), b"", source).status == 403
    upload_id = await incoming.create_upload("k", content_type="text/plain", metadata={}, tags={})
    part = {"partNumber": "1", "uploadId": upload_id}
    assert put(sign(root_signer, incoming, "k", size=0, query=part), b"", source).status == 200
    assert (
        put(
            sign(binding, incoming, "k", size=0, query=part | {"partNumber": "2"}), b"", source
        ).status
        == 403
    )
    assert [one.number for one in await incoming.list_parts("k", upload_id)] == [1]
    assert content(incoming, "k") is None


async def test_the_signature_covers_the_whole_query(signer: Signer, incoming: Bucket) -> None:
    """Refuse a URL in which the client has removed, changed or added a parameter."""
    url = sign(signer, incoming, "k").url
    forged = [
        url.replace("&x-amz-tagging=", ""),
        url.replace("&x-amz-tagging=", "&x-amz-tagging=theirs%3D1"),
        url.replace(
            "&x-amz-meta-snowball-auto-extract=no", "&x-amz-meta-snowball-auto-extract=true"
        ),
        url.replace("%3Bx-amz-tagging%3B", "%3B"),
        f"{url}&x-amz-meta-theirs=1",
        f"{url}&content-language=de",
    ]
    for other in forged:
        assert other != url
        assert send("PUT", other, body=BODY, headers={"Content-Type": "text/plain"}).status in (
            400,
            403,
        ), other
    assert content(incoming, "k") is None


# URLs that forbid no header


def test_the_clients_own_headers_are_stored(
    open_signer: Signer, incoming: Bucket, deployment: Deployment, server: str, expect_open: Expect
) -> None:
    headers = {
        "Content-Encoding": "gzip",
        "Content-Disposition": "inline",
        "Cache-Control": "max-age=1",
        "x-amz-tagging": "theirs=1",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
    }
    expect_open(
        "unsigned headers of the object", put(sign(open_signer, incoming, "k"), headers=headers)
    )
    client = minio.Minio(
        deployment.s3_endpoint.removeprefix("http://"),
        deployment.s3_root_access_key,
        deployment.s3_root_secret_key,
        secure=False,
        region=REGION,
    )
    stored = client.stat_object(incoming.name, "k").metadata or {}
    assert stored.get("Content-Disposition") == "inline"
    if server != "embedded":
        assert stored.get("Content-Encoding") == "gzip"
        assert dict(client.get_object_tags(incoming.name, "k") or {}) == {"theirs": "1"}


@pytest.mark.parametrize("value", ["true", "", "no"])
def test_a_client_can_suppress_the_event(
    signer: Signer,
    open_signer: Signer,
    incoming: Bucket,
    store: StoreUnderTest,
    expect_open: Expect,
    value: str,
) -> None:
    """Send several values of the header, whose presence alone suppresses the event.

    Therefore no value that a client can send is neutral.
    """
    with listening(store) as log:
        expect_open(
            "suppressed event",
            put(
                sign(open_signer, incoming, "silent"),
                headers={"x-minio-source-replication-request": value},
            ),
        )
        assert put(sign(signer, incoming, "announced")).status == 200
        log.wait_for(f"{incoming.name}/announced")
        assert f"{incoming.name}/silent" not in log.keys


async def test_a_copy_cannot_be_made_with_an_upload_url(
    signer: Signer, incoming: Bucket, vault: Bucket, expect: Expect
) -> None:
    vault.put_now(
        "secret", BODY, content_type="text/plain", metadata={}, tags={}, timeout_seconds=10
    )
    upload = sign(signer, incoming, "k", size=0)
    expect("copy-source", put(upload, b"", {"x-amz-copy-source": f"/{vault.name}/secret"}))
    assert content(incoming, "k") is None


@pytest.fixture
def service_signer(deployment: Deployment) -> Signer:
    """Return a signer with the service identity, which signs no upload URL in the service.

    Its key id is a secret. Only this test puts it into a URL.
    """
    return Signer(
        deployment.s3_endpoint,
        access_key=deployment.s3_access_key,
        secret_key=deployment.s3_secret_key,
        region=REGION,
    )


BESIDE_THE_SIGNATURE: list[tuple[str, list[tuple[str, str]]]] = [
    ("", []),
    ("&authType=REST-QUERY-STRING", []),
    ("&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&x-amz-content-sha256=UNSIGNED-PAYLOAD", []),
    ("", [("x-amz-content-sha256", "UNSIGNED-PAYLOAD")]),
    ("", [("x-minio-source-replication-request", "true"), ("x-amz-tagging", "theirs=1")]),
    ("", [(SNOWBALL, "true")]),
]


@pytest.mark.parametrize("who", ["signer", "service_signer"])
@pytest.mark.parametrize(("more_query", "more_headers"), BESIDE_THE_SIGNATURE)
def test_a_known_key_id_does_not_replace_a_signature(
    request: pytest.FixtureRequest,
    incoming: Bucket,
    vault: Bucket,
    expect: Expect,
    who: str,
    more_query: str,
    more_headers: list[tuple[str, str]],
) -> None:
    """Try CVE-2026-41145: an unpatched MinIO does not check the signature of such a request.

    It still applies the policy of the key id, which refuses unsigned bodies.
    """
    pieces, headers = stream_unsigned(OTHER)
    signer: Signer = request.getfixturevalue(who)
    for bucket in (incoming, vault):
        forged = (
            signer.presign("PUT", bucket.name, key="k", issued_at=now(), expires_in_seconds=60)[
                :-64
            ]
            + "0" * 64
        )
        answer = send(
            "PUT", forged + more_query, body=pieces, headers=[*headers.items(), *more_headers]
        )
        expect("no signature", answer)
        assert content(bucket, "k") is None


def test_an_unpatched_store_needs_only_the_key_id_of_root(
    root_signer: Signer, incoming: Bucket, expect: Expect
) -> None:
    """Forge a signature of root, to which no policy applies.

    For this reason, the key id of root is random, secret and in no URL.
    """
    pieces, headers = stream_unsigned(OTHER)
    forged = (
        root_signer.presign("PUT", incoming.name, key="k", issued_at=now(), expires_in_seconds=60)[
            :-64
        ]
        + "0" * 64
    )
    answer = send("PUT", forged, body=pieces, headers=headers)
    expect("no signature, root's key id", answer)
    assert content(incoming, "k") == (OTHER if answer.status == 200 else None)


@pytest.mark.parametrize(
    ("row", "values"), [("snowball", ["true"]), ("snowball, empty and set", ["", "true"])]
)
async def test_a_tar_may_be_extracted_over_any_key_of_incoming(
    signer: Signer,
    open_signer: Signer,
    incoming: Bucket,
    expect_open: Expect,
    row: str,
    values: list[str],
) -> None:
    victim, archive = "victim", io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(victim)
        member.size = len(OTHER)
        tar.addfile(member, io.BytesIO(OTHER))
    assert put(sign(signer, incoming, victim)).status == 200
    body = archive.getvalue()
    upload = sign(open_signer, incoming, "k", size=len(body), digest_of=body)
    answer = put(upload, body, [(SNOWBALL, value) for value in values])
    expect_open(row, answer)
    assert content(incoming, victim) == (OTHER if answer.status == 200 else BODY)


async def test_time_and_etag_may_be_forged(
    open_signer: Signer, incoming: Bucket, server: str, expect_open: Expect
) -> None:
    forged_time = (now() - timedelta(days=1)).replace(microsecond=0)
    answer = put(sign(open_signer, incoming, "k"), headers=forge(forged_time))
    expect_open("forged time and ETag", answer)
    if server != "silo":
        found = await incoming.head("k")
        assert (found.etag == "0" * 32, found.last_modified == forged_time) == (
            server == "minio",
            server == "minio",
        )


async def test_an_upload_with_a_forged_age_is_hidden_by_the_lifecycle_rule(
    open_signer: Signer, incoming: Bucket, server: str
) -> None:
    """Forge the age of an upload, which affects only the sender's own file.

    That file becomes `expired`, as if nothing had been sent.
    """
    put(sign(open_signer, incoming, "k"), headers=forge(now() - timedelta(days=40)))
    if server != "silo":
        assert content(incoming, "k") == (None if server == "minio" else BODY)


# The expiry, the method and the key of a URL


def test_an_upload_may_end_after_its_url_has_expired(
    signer: Signer, incoming: Bucket, expect: Expect
) -> None:
    """End a PUT after its URL has expired, because the expiry limits only when a PUT may start.

    For this reason, the protocol has a grace period.
    """
    upload = sign(signer, incoming, "k", lives_seconds=2)
    ended = time.monotonic() + 3
    parts = urlsplit(upload.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.putrequest("PUT", f"{parts.path}?{parts.query}", skip_accept_encoding=True)
    connection.putheader("Content-Type", "text/plain")
    connection.putheader("Content-Length", str(len(BODY)))
    connection.endheaders(BODY[:4])
    while time.monotonic() < ended:
        # The test waits until the URL has expired.
        time.sleep(0.1)
    assert put(upload).status == 403
    connection.send(BODY[4:])
    expect("ends after the URL", receive(connection))
    connection.close()
    assert content(incoming, "k") == BODY


def test_no_upload_begins_after_its_url_has_expired(
    signer: Signer, incoming: Bucket, expect: Expect
) -> None:
    upload = signer.presign_put(
        incoming.name,
        "k",
        size=len(BODY),
        content_type="text/plain",
        sha256=None,
        if_none_match=True,
        issued_at=now() - timedelta(seconds=61),
        expires_in_seconds=60,
    )
    expect("begins after the URL", put(upload))
    assert content(incoming, "k") is None


def test_an_api_key_sent_to_the_store_is_refused(
    signer: Signer, incoming: Bucket, expect: Expect
) -> None:
    expect(
        "key sent along",
        put(sign(signer, incoming, "k"), headers={"Authorization": "Bearer of-a-client"}),
    )
    assert content(incoming, "k") is None


@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_chunked_body_is_refused(
    signer: Signer, incoming: Bucket, expect: Expect, size: int | None
) -> None:
    upload = sign(signer, incoming, "k", size=size)
    expect("chunked", send("PUT", upload.url, body=BODY, headers=upload.headers, chunked=True))
    assert content(incoming, "k") is None


def test_no_url_is_valid_for_longer_than_a_week(
    signer: Signer, incoming: Bucket, expect: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    week = signing.LONGEST_EXPIRY_SECONDS
    assert put(sign(signer, incoming, "k", lives_seconds=week)).status == 200
    monkeypatch.setattr(signing, "LONGEST_EXPIRY_SECONDS", week + 1)
    expect("lives for longer than 7 days", put(sign(signer, incoming, "l", lives_seconds=week + 1)))


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "POST"])
def test_a_url_permits_only_its_own_method(signer: Signer, incoming: Bucket, method: str) -> None:
    upload = sign(signer, incoming, "k", size=None)
    assert put(upload).status == 200
    assert send(method, upload.url, headers=upload.headers).status in (400, 403)
    assert content(incoming, "k") == BODY


def test_a_url_permits_only_its_own_key_and_bucket(
    signer: Signer, incoming: Bucket, vault: Bucket, object_store: ObjectStore
) -> None:
    upload = sign(signer, incoming, "k")
    elsewhere = [
        upload.url.replace("/k?", "/l?"),
        upload.url.replace(f"/{incoming.name}/", f"/{vault.name}/"),
    ]
    assert [send("PUT", url, body=BODY, headers=upload.headers).status for url in elsewhere] == [
        403,
        403,
    ]
    assert put(sign(signer, object_store.bucket(vault.name), "k")).status == 403
    assert (content(incoming, "l"), content(vault, "k")) == (None, None)
