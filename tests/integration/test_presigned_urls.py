"""What each store enforces on a URL of ours, row by row: the table "Presigned URLs" of storage-facts.md, executed.

`EXPECTED` (tests/presigned.py) is that table. Where a store lets something through, the verification must not rely on it. A test that
fails here after an update of a store means that its row has changed: look again at the reasons that the protocol gives.
"""

import base64
import hashlib
import http.client
import io
import tarfile
import time
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlsplit

import minio
import pytest

from service import presign
from service.bootstrap import Deployment
from service.object_store import Bucket, ObjectStore
from service.presign import Signer
from tests.presigned import BODY, EXPECTED, OTHER, content, forge, put, sign, stream_unsigned
from tests.stores import REGION, Answer, StoreUnderTest, listening, now, receive, send

pytestmark = pytest.mark.anyio


@pytest.fixture
def expect(server: str) -> Callable[[str, Answer], None]:
    """Compare an answer with the table."""

    def check(row: str, answer: Answer) -> None:
        assert answer.status in EXPECTED[row][server], (row, answer.status, answer.code)

    return check


Expect = Callable[[str, Answer], None]


def test_what_is_sent_as_agreed_is_stored(signer: Signer, incoming: Bucket) -> None:
    upload = sign(signer, incoming, "k", digest_of=BODY, if_none_match=True)
    assert put(upload).status == 200
    assert content(incoming, "k") == BODY


def test_an_empty_body_is_stored(signer: Signer, incoming: Bucket) -> None:
    assert put(sign(signer, incoming, "k", size=0, digest_of=b"", if_none_match=True), b"").status == 200
    assert content(incoming, "k") == b""


@pytest.mark.parametrize("body", [b"", BODY[:-1], BODY + b"!"])
def test_the_length_is_bound(signer: Signer, incoming: Bucket, expect: Expect, body: bytes) -> None:
    expect("another length", put(sign(signer, incoming, "k"), body))
    assert content(incoming, "k") is None


def test_the_type_is_bound(signer: Signer, incoming: Bucket, expect: Expect) -> None:
    upload = sign(signer, incoming, "k")
    expect("another type", send("PUT", upload.url, body=BODY, headers={"Content-Type": "text/html"}))
    expect("no type", send("PUT", upload.url, body=BODY))
    assert content(incoming, "k") is None


def test_the_digest_is_bound(signer: Signer, incoming: Bucket, expect: Expect) -> None:
    expect("another body than the digest", put(sign(signer, incoming, "k", digest_of=BODY), OTHER))
    assert content(incoming, "k") is None


def test_a_streaming_unsigned_body_may_get_around_the_digest(signer: Signer, incoming: Bucket, expect: Expect) -> None:
    pieces, headers = stream_unsigned(OTHER)
    answer = put(sign(signer, incoming, "k", size=len(pieces), digest_of=BODY), pieces, headers)
    expect("another body, streaming-unsigned", answer)
    assert content(incoming, "k") == (OTHER if answer.status == 200 else None)


def test_a_signed_checksum_is_no_promise(signer: Signer, incoming: Bucket, expect: Expect) -> None:
    headers = {"x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(BODY).digest()).decode()}
    url = signer.presign("PUT", incoming.name, key="k", issued_at=now(), expires_in_seconds=60, headers=headers)
    answer = send("PUT", url, body=OTHER, headers=headers)
    expect("another body than the signed checksum", answer)
    assert content(incoming, "k") == (OTHER if answer.status == 200 else None)


def test_an_upload_that_must_be_the_first_may_still_overwrite(signer: Signer, incoming: Bucket, expect: Expect) -> None:
    upload = sign(signer, incoming, "k", if_none_match=True)
    assert put(upload).status == 200
    answer = put(upload, OTHER)
    expect("if-none-match, key exists", answer)
    assert content(incoming, "k") == (OTHER if answer.status == 200 else BODY)


def test_the_condition_cannot_be_left_out(signer: Signer, incoming: Bucket, expect: Expect) -> None:
    upload = sign(signer, incoming, "k", if_none_match=True)
    expect("if-none-match dropped", send("PUT", upload.url, body=BODY, headers={"Content-Type": "text/plain"}))
    assert content(incoming, "k") is None


async def test_a_part_is_bound_like_a_whole(signer: Signer, incoming: Bucket, expect: Expect) -> None:
    upload_id = await incoming.create_upload("k", content_type="text/plain", metadata={}, tags={})
    part = sign(signer, incoming, "k", digest_of=BODY, query={"partNumber": "1", "uploadId": upload_id})
    expect("part of another length", put(part, BODY + b"!"))
    expect("part with another digest", put(part, OTHER))
    assert await incoming.list_parts("k", upload_id) == []
    assert put(part).status == 200
    assert [stored.size for stored in await incoming.list_parts("k", upload_id)] == [len(BODY)]


async def test_metadata_of_the_clients_own_may_be_stored(signer: Signer, incoming: Bucket, expect: Expect) -> None:
    answer = put(sign(signer, incoming, "k"), headers={"x-amz-meta-theirs": "1"})
    expect("unsigned metadata", answer)
    if answer.status == 200:
        assert (await incoming.head("k")).metadata == {"theirs": "1"}


def test_headers_of_the_clients_own_are_stored(
    signer: Signer, incoming: Bucket, deployment: Deployment, server: str, expect: Expect
) -> None:
    headers = {
        "Content-Encoding": "gzip",
        "Content-Disposition": "inline",
        "Cache-Control": "max-age=1",
        "x-amz-tagging": "theirs=1",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
    }
    expect("unsigned headers of the object", put(sign(signer, incoming, "k"), headers=headers))
    client = minio.Minio(
        deployment.endpoint.removeprefix("http://"), deployment.root_access_key, deployment.root_secret_key, secure=False, region=REGION
    )
    stored = client.stat_object(incoming.name, "k").metadata or {}
    assert stored.get("Content-Disposition") == "inline"
    if server != "embedded":
        assert stored.get("Content-Encoding") == "gzip"
        assert dict(client.get_object_tags(incoming.name, "k") or {}) == {"theirs": "1"}


def test_a_client_can_suppress_the_event(signer: Signer, incoming: Bucket, store: StoreUnderTest, expect: Expect) -> None:
    with listening(store) as log:
        expect("suppressed event", put(sign(signer, incoming, "silent"), headers={"x-minio-source-replication-request": "true"}))
        assert put(sign(signer, incoming, "announced")).status == 200
        log.wait_for(f"{incoming.name}/announced")
        assert f"{incoming.name}/silent" not in log.keys


async def test_a_copy_cannot_be_made_with_an_upload_url(signer: Signer, incoming: Bucket, vault: Bucket, expect: Expect) -> None:
    vault.put_now("secret", BODY, content_type="text/plain", metadata={}, tags={}, timeout_seconds=10)
    upload = sign(signer, incoming, "k", size=0)
    expect("copy-source", put(upload, b"", {"x-amz-copy-source": f"/{vault.name}/secret"}))
    assert content(incoming, "k") is None


def test_an_unpatched_store_takes_a_known_key_id_for_a_signature(signer: Signer, incoming: Bucket, vault: Bucket, expect: Expect) -> None:
    """CVE-2026-41145: what the signer may write, everybody may who has ever seen a URL. Hence its rights, and the vault."""
    pieces, headers = stream_unsigned(OTHER)
    for bucket in (incoming, vault):
        forged = signer.presign("PUT", bucket.name, key="k", issued_at=now(), expires_in_seconds=60)[:-64] + "0" * 64
        answer = send("PUT", forged, body=pieces, headers=headers)
        if bucket is incoming:
            expect("no signature", answer)
            assert content(incoming, "k") == (OTHER if answer.status == 200 else None)
    assert content(vault, "k") is None


async def test_a_tar_may_be_unpacked_over_any_key_of_incoming(signer: Signer, incoming: Bucket, expect: Expect) -> None:
    victim, archive = "victim", io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(victim)
        member.size = len(OTHER)
        tar.addfile(member, io.BytesIO(OTHER))
    assert put(sign(signer, incoming, victim)).status == 200
    body = archive.getvalue()
    upload = sign(signer, incoming, "k", size=len(body), digest_of=body)
    answer = put(upload, body, {"x-amz-meta-snowball-auto-extract": "true"})
    expect("snowball", answer)
    assert content(incoming, victim) == (OTHER if answer.status == 200 else BODY)


async def test_time_and_etag_may_be_forged(signer: Signer, incoming: Bucket, server: str, expect: Expect) -> None:
    forged_time = (now() - timedelta(days=1)).replace(microsecond=0)
    answer = put(sign(signer, incoming, "k"), headers=forge(forged_time))
    expect("forged time and ETag", answer)
    if server != "silo":
        found = await incoming.head("k")
        assert (found.etag == "0" * 32, found.last_modified == forged_time) == (server == "minio", server == "minio")


async def test_a_forged_age_hides_an_upload_behind_the_lifecycle_rule(signer: Signer, incoming: Bucket, server: str) -> None:
    """Its sender has harmed nobody else: the file ends `expired`, as if nothing had come."""
    put(sign(signer, incoming, "k"), headers=forge(now() - timedelta(days=40)))
    if server != "silo":
        assert content(incoming, "k") == (None if server == "minio" else BODY)


def test_an_upload_may_end_after_its_url(signer: Signer, incoming: Bucket, expect: Expect) -> None:
    """So the protocol's grace: the URL's end bounds when a PUT may start."""
    upload = sign(signer, incoming, "k", lives_seconds=2)
    ended = time.monotonic() + 3
    parts = urlsplit(upload.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.putrequest("PUT", f"{parts.path}?{parts.query}", skip_accept_encoding=True)
    connection.putheader("Content-Type", "text/plain")
    connection.putheader("Content-Length", str(len(BODY)))
    connection.endheaders(BODY[:4])
    while time.monotonic() < ended:
        time.sleep(0.1)  # the URL's end is what this test waits for
    assert put(upload).status == 403
    connection.send(BODY[4:])
    expect("ends after the URL", receive(connection))
    connection.close()
    assert content(incoming, "k") == BODY


def test_no_upload_begins_after_its_url(signer: Signer, incoming: Bucket, expect: Expect) -> None:
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


def test_a_key_sent_along_is_refused(signer: Signer, incoming: Bucket, expect: Expect) -> None:
    expect("key sent along", put(sign(signer, incoming, "k"), headers={"Authorization": "Bearer of-a-client"}))
    assert content(incoming, "k") is None


@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_chunked_body_is_refused(signer: Signer, incoming: Bucket, expect: Expect, size: int | None) -> None:
    upload = sign(signer, incoming, "k", size=size)
    expect("chunked", send("PUT", upload.url, body=BODY, headers=upload.headers, chunked=True))
    assert content(incoming, "k") is None


def test_no_url_lives_for_longer_than_a_week(signer: Signer, incoming: Bucket, expect: Expect, monkeypatch: pytest.MonkeyPatch) -> None:
    week = presign.LONGEST_EXPIRY_SECONDS
    assert put(sign(signer, incoming, "k", lives_seconds=week)).status == 200
    monkeypatch.setattr(presign, "LONGEST_EXPIRY_SECONDS", week + 1)
    expect("lives for longer than 7 days", put(sign(signer, incoming, "l", lives_seconds=week + 1)))


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "POST"])
def test_a_url_is_for_one_method(signer: Signer, incoming: Bucket, method: str) -> None:
    upload = sign(signer, incoming, "k", size=None)
    assert put(upload).status == 200
    assert send(method, upload.url, headers=upload.headers).status in (400, 403)
    assert content(incoming, "k") == BODY


def test_a_url_is_for_one_key_and_one_bucket(signer: Signer, incoming: Bucket, vault: Bucket, object_store: ObjectStore) -> None:
    upload = sign(signer, incoming, "k")
    elsewhere = [upload.url.replace("/k?", "/l?"), upload.url.replace(f"/{incoming.name}/", f"/{vault.name}/")]
    assert [send("PUT", url, body=BODY, headers=upload.headers).status for url in elsewhere] == [403, 403]
    assert put(sign(signer, object_store.bucket(vault.name), "k")).status == 403
    assert (content(incoming, "l"), content(vault, "k")) == (None, None)
