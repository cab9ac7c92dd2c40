"""The contract that every store must hold for us, and what we make of one that does not answer as it should."""

import gzip
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator

import minio
import pytest

from service.bootstrap import Deployment
from service.object_store import (
    Bucket,
    ObjectChanged,
    ObjectMissing,
    ObjectReader,
    ObjectStore,
    RequestRefused,
    SentTooLate,
    StoredCopy,
    StoreUnavailable,
    UploadMissing,
)
from service.presign import Signer
from tests.proxies import FaultyProxy, faulty_proxy
from tests.servers import free_port
from tests.stores import REGION, StoreUnderTest, now, open_store, send

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


@pytest.fixture
def proxy(store: StoreUnderTest) -> Iterator[FaultyProxy]:
    with faulty_proxy(store.address) as running:
        yield running


@pytest.fixture
async def through_proxy(proxy: FaultyProxy, deployment: Deployment) -> AsyncIterator[Bucket]:
    """The vault, seen through the proxy."""
    with open_store(proxy.endpoint, deployment.access_key, secret_key=deployment.secret_key) as opened:
        yield opened.bucket(deployment.vault_bucket)


def put(bucket: Bucket, key: str, body: bytes, *, content_type: str = "text/plain", tags: dict[str, str] | None = None) -> str:
    return bucket.put_now(key, body, content_type=content_type, metadata={}, tags=tags or {}, timeout_seconds=20)


def read_all(bucket: Bucket, key: str, *, piece: int = MIB) -> bytes:
    with bucket.open(key, etag=None) as reader:
        return b"".join(iter(lambda: reader.read(piece), b""))


def read_into(received: bytearray, reader: ObjectReader) -> None:
    while piece := reader.read(100_000):
        received += piece


async def copy(incoming: Bucket, vault: Bucket, etag: str, *, source_key: str = "k", send_before: float | None = None) -> StoredCopy:
    return await vault.copy_from(
        incoming,
        source_key,
        etag=etag,
        key="copied",
        content_type="application/pdf",
        metadata={"file": "1", "filename": "a%20b"},
        tags={"assay": "vault"},
        send_before=time.monotonic() + 20 if send_before is None else send_before,
        timeout_seconds=20,
    )


def tags_of(deployment: Deployment, bucket: str, key: str) -> dict[str, str]:
    """By root and the plain SDK: the service identity may not even ask."""
    client = minio.Minio(
        deployment.endpoint.removeprefix("http://"), deployment.root_access_key, deployment.root_secret_key, secure=False, region=REGION
    )
    return dict(client.get_object_tags(bucket, key) or {})


async def test_a_store_that_serves_is_healthy(object_store: ObjectStore) -> None:
    await object_store.check_health()


async def test_a_store_that_does_not_know_us_is_not_healthy(store: StoreUnderTest) -> None:
    with open_store(store.endpoint, "nobody-we-know", secret_key="no-secret") as stranger, pytest.raises(StoreUnavailable):
        await stranger.check_health()


async def test_nothing_listening_is_unavailable_at_once() -> None:
    with open_store(f"http://127.0.0.1:{free_port()}", "key", secret_key="secret") as nowhere:
        with pytest.raises(StoreUnavailable):
            await nowhere.check_health()
        with pytest.raises(StoreUnavailable):
            await nowhere.bucket("vault").head("k")


async def test_what_was_put_is_described_as_it_was_put(vault: Bucket) -> None:
    body = secrets.token_bytes(1000)
    etag = vault.put_now(
        "k", body, content_type="image/jpeg; q=1", metadata={"file-id": "1", "filename": "%C3%A4"}, tags={}, timeout_seconds=20
    )
    found = await vault.head("k")
    assert (found.size, found.etag, found.content_type) == (1000, etag, "image/jpeg; q=1")
    assert found.metadata == {"file-id": "1", "filename": "%C3%A4"}
    assert abs((found.last_modified - now()).total_seconds()) < 60


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
async def test_any_buffer_can_be_put(vault: Bucket, buffer: type) -> None:
    put(vault, "k", buffer(b"some bytes"))
    assert read_all(vault, "k") == b"some bytes"


async def test_an_empty_object_is_an_object(incoming: Bucket, vault: Bucket) -> None:
    etag = put(incoming, "k", b"")
    await copy(incoming, vault, etag)
    assert (await vault.head("copied")).size == 0
    assert read_all(vault, "copied") == b""


async def test_a_digest_given_along_is_held(vault: Bucket) -> None:
    right, wrong = hashlib.sha256(b"right").hexdigest(), hashlib.sha256(b"wrong").hexdigest()
    vault.put_now("k", b"right", content_type="text/plain", metadata={}, tags={}, sha256=right, timeout_seconds=20)
    with pytest.raises(RequestRefused):
        vault.put_now("k", b"right", content_type="text/plain", metadata={}, tags={}, sha256=wrong, timeout_seconds=20)


async def test_a_missing_object_is_missing_however_it_is_asked_for(incoming: Bucket, vault: Bucket) -> None:
    with pytest.raises(ObjectMissing):
        await vault.head("absent")
    with pytest.raises(ObjectMissing):
        vault.open("absent", etag=None)
    with pytest.raises(ObjectMissing):
        vault.open("absent", etag="0" * 32)
    with pytest.raises(ObjectMissing):
        await copy(incoming, vault, "0" * 32)


async def test_a_range_is_read_and_nothing_else(vault: Bucket) -> None:
    body = secrets.token_bytes(3 * MIB)
    etag = put(vault, "k", body)
    with vault.open("k", etag=etag, offset=MIB - 7, length=MIB) as reader:
        assert reader.content_length == MIB
        assert reader.etag == etag
        assert b"".join(iter(lambda: reader.read(100_000), b"")) == body[MIB - 7 : 2 * MIB - 7]
    with vault.open("k", etag=etag, offset=3 * MIB - 1) as reader:
        assert reader.read(10) == body[-1:]


async def test_a_range_past_the_end_is_refused(vault: Bucket) -> None:
    put(vault, "k", b"short")
    with pytest.raises(RequestRefused) as raised:
        vault.open("k", etag=None, offset=5)
    assert raised.value.status == 416


async def test_an_object_that_changed_is_not_read(vault: Bucket) -> None:
    etag = put(vault, "k", b"first")
    put(vault, "k", b"second")
    with pytest.raises(ObjectChanged):
        vault.open("k", etag=etag)


async def test_bytes_come_raw_whatever_encoding_the_client_claimed(incoming: Bucket, vault: Bucket, signer: Signer) -> None:
    body = gzip.compress(b"x" * 100_000)
    upload = signer.presign_put(
        incoming.name,
        "k",
        size=len(body),
        content_type="text/plain",
        sha256=None,
        if_none_match=False,
        issued_at=now(),
        expires_in_seconds=60,
    )
    assert send("PUT", upload.url, body=body, headers={**upload.headers, "Content-Encoding": "gzip"}).status == 200
    assert read_all(incoming, "k") == body
    await copy(incoming, vault, (await incoming.head("k")).etag)
    assert read_all(vault, "copied") == body


async def test_a_reader_closed_early_leaves_the_next_one_unharmed(vault: Bucket) -> None:
    body = secrets.token_bytes(2 * MIB)
    put(vault, "k", body)
    for _ in range(3):
        with vault.open("k", etag=None) as reader:
            assert reader.read(10) == body[:10]
    assert read_all(vault, "k") == body


async def test_a_connection_read_to_its_end_is_used_again(through_proxy: Bucket, proxy: FaultyProxy) -> None:
    put(through_proxy, "k", b"some bytes")
    for _ in range(3):
        assert read_all(through_proxy, "k") == b"some bytes"
    assert proxy.connections == 1


async def test_a_copy_keeps_the_bytes_and_nothing_else_of_the_source(deployment: Deployment, incoming: Bucket, vault: Bucket) -> None:
    etag = incoming.put_now(
        "k", b"bytes", content_type="text/html", metadata={"theirs": "1"}, tags={"lifecycle": "delete-me"}, timeout_seconds=20
    )
    copied = await copy(incoming, vault, etag)
    found = await vault.head("copied")
    assert read_all(vault, "copied") == b"bytes"
    assert (found.etag, found.content_type) == (copied.etag, "application/pdf")
    assert found.metadata == {"file": "1", "filename": "a%20b"}
    assert tags_of(deployment, vault.name, "copied") == {"assay": "vault"}


async def test_what_changed_since_it_was_seen_is_not_copied(incoming: Bucket, vault: Bucket) -> None:
    etag = put(incoming, "k", b"first")
    put(incoming, "k", b"second")
    with pytest.raises(ObjectChanged):
        await copy(incoming, vault, etag)
    with pytest.raises(ObjectMissing):
        await vault.head("copied")


async def test_a_copy_whose_moment_has_passed_is_never_sent(incoming: Bucket, through_proxy: Bucket, proxy: FaultyProxy) -> None:
    etag = put(incoming, "k", b"bytes")
    with pytest.raises(SentTooLate):
        await copy(incoming, through_proxy, etag, send_before=time.monotonic())
    assert proxy.requests == b""


async def test_a_copy_asks_once_and_for_nothing_else(incoming: Bucket, through_proxy: Bucket, proxy: FaultyProxy) -> None:
    await copy(incoming, through_proxy, put(incoming, "k", b"bytes"))
    assert proxy.requests.count(b" HTTP/1.1\r\n") == 1
    assert proxy.requests.startswith(b"PUT ")


async def test_a_copy_without_an_answer_is_not_sent_again(incoming: Bucket, through_proxy: Bucket, proxy: FaultyProxy) -> None:
    etag = put(incoming, "k", b"bytes")
    proxy.silent = True
    started = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await through_proxy.copy_from(
            incoming,
            "k",
            etag=etag,
            key="copied",
            content_type="text/plain",
            metadata={},
            tags={},
            send_before=time.monotonic() + 20,
            timeout_seconds=0.5,
        )
    assert time.monotonic() - started < 5
    assert proxy.requests.count(b"PUT ") == 1


async def test_a_silent_store_is_unavailable_after_the_calls_own_time(through_proxy: Bucket, proxy: FaultyProxy) -> None:
    proxy.silent = True
    started = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await through_proxy.head("k", timeout_seconds=0.5)
    with pytest.raises(StoreUnavailable):
        through_proxy.open("k", etag=None, timeout_seconds=0.5)
    assert time.monotonic() - started < 5


async def test_a_read_that_is_cut_short_is_never_taken_for_the_end(vault: Bucket, through_proxy: Bucket, proxy: FaultyProxy) -> None:
    body = secrets.token_bytes(2 * MIB)
    put(vault, "k", body)
    proxy.cut_answers_after = MIB
    received = bytearray()
    with through_proxy.open("k", etag=None) as reader, pytest.raises(StoreUnavailable):
        read_into(received, reader)
    assert 0 < len(received) < len(body)
    assert body.startswith(received)


async def test_a_put_that_is_cut_short_is_unavailable(through_proxy: Bucket, proxy: FaultyProxy) -> None:
    proxy.cut_answers_after = 5
    with pytest.raises(StoreUnavailable):
        put(through_proxy, "k", b"bytes")
    assert proxy.requests.count(b"PUT ") == 1


async def test_a_head_over_a_connection_that_was_closed_is_asked_again_once(
    vault: Bucket, through_proxy: Bucket, proxy: FaultyProxy
) -> None:
    put(vault, "k", b"bytes")
    proxy.cut_answers_after = 5
    with pytest.raises(StoreUnavailable):
        await through_proxy.head("k")
    assert proxy.requests.count(b"HEAD ") == 2


async def test_no_error_names_a_query_or_a_key_id(deployment: Deployment, through_proxy: Bucket, proxy: FaultyProxy) -> None:
    proxy.silent = True
    with pytest.raises(StoreUnavailable) as silent:
        await through_proxy.list_parts("k", "upload-1", timeout_seconds=0.2)
    with open_store(deployment.endpoint, "nobody-we-know", secret_key="no-secret") as stranger, pytest.raises(StoreUnavailable) as foreign:
        await stranger.bucket(deployment.vault_bucket).head("k")
    for text in (str(silent.value), str(foreign.value)):
        assert "?" not in text
        assert "upload-1" not in text
        assert "nobody-we-know" not in text
        assert "Signature" not in text


async def test_parts_become_one_object(vault: Bucket) -> None:
    parts = [secrets.token_bytes(5 * MIB), b"the last one may be small"]
    upload_id = await vault.create_upload("k", content_type="video/mp4", metadata={"file": "1"}, tags={})
    etags = [(number, vault.put_part("k", upload_id, number, part, timeout_seconds=20)) for number, part in enumerate(parts, 1)]
    listed = await vault.list_parts("k", upload_id)
    assert [(part.number, part.size, part.etag) for part in listed] == [
        (number, len(part), etag) for (number, etag), part in zip(etags, parts, strict=True)
    ]
    etag = await vault.complete_upload("k", upload_id, etags)
    found = await vault.head("k")
    assert (found.etag, found.content_type, found.metadata) == (etag, "video/mp4", {"file": "1"})
    assert read_all(vault, "k") == b"".join(parts)


async def test_a_part_with_another_digest_is_refused(vault: Bucket) -> None:
    upload_id = await vault.create_upload("k", content_type="text/plain", metadata={}, tags={})
    with pytest.raises(RequestRefused):
        vault.put_part("k", upload_id, 1, b"bytes", sha256=hashlib.sha256(b"others").hexdigest(), timeout_seconds=20)
    assert await vault.list_parts("k", upload_id) == []


async def test_an_upload_ends_once(vault: Bucket) -> None:
    upload_id = await vault.create_upload("k", content_type="text/plain", metadata={}, tags={})
    parts = [(1, vault.put_part("k", upload_id, 1, b"bytes", timeout_seconds=20))]
    await vault.complete_upload("k", upload_id, parts)
    with pytest.raises(UploadMissing):
        await vault.complete_upload("k", upload_id, parts)
    with pytest.raises(UploadMissing):
        await vault.list_parts("k", upload_id)
    await vault.abort_upload("k", upload_id)
    assert read_all(vault, "k") == b"bytes"


async def test_an_aborted_upload_takes_its_parts_along(vault: Bucket) -> None:
    upload_id = await vault.create_upload("k", content_type="text/plain", metadata={}, tags={})
    vault.put_part("k", upload_id, 1, b"bytes", timeout_seconds=20)
    await vault.abort_upload("k", upload_id)
    await vault.abort_upload("k", upload_id)
    with pytest.raises(UploadMissing):
        vault.put_part("k", upload_id, 2, b"bytes", timeout_seconds=20)
    with pytest.raises(ObjectMissing):
        await vault.head("k")


async def test_a_part_that_was_never_sent_does_not_complete(vault: Bucket) -> None:
    upload_id = await vault.create_upload("k", content_type="text/plain", metadata={}, tags={})
    with pytest.raises((RequestRefused, UploadMissing)):  # the latter is what the embedded store says
        await vault.complete_upload("k", upload_id, [(1, "0" * 32)])
    with pytest.raises(ObjectMissing):
        await vault.head("k")


async def test_deleting_is_done_when_nothing_is_there(vault: Bucket) -> None:
    put(vault, "k", b"bytes")
    await vault.delete("k")
    await vault.delete("k")
    with pytest.raises(ObjectMissing):
        await vault.head("k")


async def test_many_go_in_one_request(through_proxy: Bucket, proxy: FaultyProxy) -> None:
    for number in range(5):
        put(through_proxy, f"k{number}", b"bytes")
    before = proxy.requests.count(b" HTTP/1.1\r\n")
    assert await through_proxy.delete_many([f"k{number}" for number in range(5)] + ["absent"]) == []
    assert proxy.requests.count(b" HTTP/1.1\r\n") == before + 1
    assert [listed.key async for listed in through_proxy.list_keys()] == []


async def test_deleting_nothing_asks_nobody(through_proxy: Bucket, proxy: FaultyProxy) -> None:
    assert await through_proxy.delete_many([]) == []
    assert proxy.connections == 0


async def test_a_listing_has_every_key_over_any_number_of_pages(vault: Bucket) -> None:
    keys = sorted(f"{number:04}-{'ä &+%' if number % 100 == 0 else ''}" for number in range(1005))
    for key in keys:
        put(vault, key, b"")
    assert [listed.key async for listed in vault.list_keys()] == keys
    assert [listed.key async for listed in vault.list_keys("00", keys[50])] == keys[51:100]


async def test_a_bucket_that_is_gone_is_no_missing_object(object_store: ObjectStore, store: StoreUnderTest) -> None:
    gone = object_store.bucket("no-such-bucket-anywhere")
    with pytest.raises(StoreUnavailable):
        gone.open("k", etag=None)
    if store.kind != "embedded":  # it answers HEAD without saying what is missing
        with pytest.raises(StoreUnavailable):
            await gone.head("k")
