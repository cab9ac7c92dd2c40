"""The contract that every store must fulfil, and the errors that are raised if it does not."""

import asyncio
import gzip
import hashlib
import os
import secrets
from typing import Any

import pytest

from service.object_store import (
    Bucket,
    ObjectChanged,
    ObjectMissing,
    ObjectStore,
    RequestRefused,
    StoreUnavailable,
    UploadMissing,
)
from service.object_store.presign import Signer
from service.settings import Deployment
from tests.support.objects import MIB, copy, put_object, read_all
from tests.support.stores import StoreUnderTest, now, open_store, read_metadata, read_tags, send

pytestmark = pytest.mark.anyio


async def test_a_store_that_answers_is_healthy(object_store: ObjectStore) -> None:
    await object_store.check_health()


async def test_a_store_that_rejects_the_credentials_is_not_healthy(store: StoreUnderTest) -> None:
    with (
        open_store(store.endpoint, "nobody-we-know", secret_key="no-secret") as stranger,
        pytest.raises(StoreUnavailable),
    ):
        await stranger.check_health()


async def test_head_describes_an_object_as_it_was_put(vault: Bucket) -> None:
    body = secrets.token_bytes(1000)
    etag = vault.put_now(
        "k",
        body,
        content_type="image/jpeg; q=1",
        metadata={"assay-file-id": "1", "assay-filename": "%C3%A4"},
        tags={},
        timeout_seconds=20,
    )
    found = await vault.head("k")
    assert (found.size, found.etag, found.content_type) == (1000, etag, "image/jpeg; q=1")
    assert found.metadata == {"assay-file-id": "1", "assay-filename": "%C3%A4"}
    assert found.last_modified is not None
    assert abs((found.last_modified - now()).total_seconds()) < 60


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
async def test_any_buffer_can_be_put(vault: Bucket, buffer: type) -> None:
    put_object(vault, "k", buffer(b"some bytes"))
    assert read_all(vault, "k") == b"some bytes"


async def test_an_empty_object_can_be_put_copied_and_read(incoming: Bucket, vault: Bucket) -> None:
    etag = put_object(incoming, "k", b"")
    await copy(incoming, vault, etag)
    assert (await vault.head("copied")).size == 0
    assert read_all(vault, "copied") == b""


async def test_the_store_enforces_the_digest_of_a_put(vault: Bucket) -> None:
    right, wrong = hashlib.sha256(b"right").hexdigest(), hashlib.sha256(b"wrong").hexdigest()
    vault.put_now(
        "k",
        b"right",
        content_type="text/plain",
        metadata={},
        tags={},
        sha256=right,
        timeout_seconds=20,
    )
    with pytest.raises(RequestRefused):
        vault.put_now(
            "k",
            b"right",
            content_type="text/plain",
            metadata={},
            tags={},
            sha256=wrong,
            timeout_seconds=20,
        )


async def test_every_request_reports_a_missing_object_as_missing(
    incoming: Bucket, vault: Bucket
) -> None:
    with pytest.raises(ObjectMissing):
        await vault.head("absent")
    with pytest.raises(ObjectMissing):
        await vault.get("absent", most_bytes=1)
    with pytest.raises(ObjectMissing):
        vault.open("absent", etag=None)
    with pytest.raises(ObjectMissing):
        vault.open("absent", etag="0" * 32)
    with pytest.raises(ObjectMissing):
        await copy(incoming, vault, "0" * 32)


@pytest.mark.parametrize("size", [0, 1, 100_000])
async def test_a_small_object_is_read_with_its_description(vault: Bucket, size: int) -> None:
    body = os.urandom(size)
    etag = put_object(vault, "k", body)
    found, read = await vault.get("k", most_bytes=100_000)
    assert (found.size, found.etag, read) == (size, etag, body)


async def test_an_object_above_the_limit_is_described_and_not_read(vault: Bucket) -> None:
    put_object(vault, "k", bytes(100_001))
    found, read = await vault.get("k", most_bytes=100_000)
    assert (found.size, read) == (100_001, None)


async def test_only_the_requested_range_is_read(vault: Bucket) -> None:
    body = secrets.token_bytes(3 * MIB)
    etag = put_object(vault, "k", body)
    with vault.open("k", etag=etag, offset=MIB - 7, length=MIB) as reader:
        assert reader.content_length == MIB
        assert reader.etag == etag
        assert b"".join(iter(lambda: reader.read(100_000), b"")) == body[MIB - 7 : 2 * MIB - 7]
    with vault.open("k", etag=etag, offset=3 * MIB - 1) as reader:
        assert reader.read(10) == body[-1:]


async def test_a_range_past_the_end_is_refused(vault: Bucket) -> None:
    put_object(vault, "k", b"short")
    with pytest.raises(RequestRefused) as raised:
        vault.open("k", etag=None, offset=5)
    assert raised.value.status == 416


async def test_an_object_that_has_changed_is_not_read(vault: Bucket) -> None:
    etag = put_object(vault, "k", b"first")
    put_object(vault, "k", b"second")
    with pytest.raises(ObjectChanged):
        vault.open("k", etag=etag)


async def test_bytes_are_not_decoded_if_the_client_claimed_an_encoding(
    incoming: Bucket, vault: Bucket, open_signer: Signer
) -> None:
    body = gzip.compress(b"x" * 100_000)
    upload = open_signer.presign_put(
        incoming.name,
        "k",
        size=len(body),
        content_type="text/plain",
        sha256=None,
        if_none_match=False,
        issued_at=now(),
        expires_in_seconds=60,
    )
    assert (
        send(
            "PUT", upload.url, body=body, headers={**upload.headers, "Content-Encoding": "gzip"}
        ).status
        == 200
    )
    assert read_all(incoming, "k") == body
    assert (await incoming.get("k", most_bytes=len(body)))[1] == body
    await copy(incoming, vault, (await incoming.head("k")).etag)
    assert read_all(vault, "copied") == body


async def test_a_reader_that_is_closed_early_does_not_affect_the_next_one(vault: Bucket) -> None:
    body = secrets.token_bytes(2 * MIB)
    put_object(vault, "k", body)
    for _ in range(3):
        with vault.open("k", etag=None) as reader:
            assert reader.read(10) == body[:10]
    assert read_all(vault, "k") == body


async def test_a_copy_keeps_the_bytes_and_nothing_else_of_the_source(
    deployment: Deployment, incoming: Bucket, vault: Bucket
) -> None:
    etag = incoming.put_now(
        "k",
        b"bytes",
        content_type="text/html",
        metadata={"theirs": "1"},
        tags={"lifecycle": "delete-me"},
        timeout_seconds=20,
    )
    copied = await copy(incoming, vault, etag)
    found = await vault.head("copied")
    assert read_all(vault, "copied") == b"bytes"
    assert (found.etag, found.content_type) == (copied.etag, "application/pdf")
    assert read_metadata(deployment, vault, "copied") == {
        "assay-file-id": "1",
        "assay-filename": "a%20b",
    }
    assert read_tags(deployment, vault.name, "copied") == {"assay": "vault"}


async def test_an_object_that_has_changed_is_not_copied(incoming: Bucket, vault: Bucket) -> None:
    etag = put_object(incoming, "k", b"first")
    put_object(incoming, "k", b"second")
    with pytest.raises(ObjectChanged):
        await copy(incoming, vault, etag)
    with pytest.raises(ObjectMissing):
        await vault.head("copied")


async def test_parts_become_one_object(vault: Bucket) -> None:
    parts = [secrets.token_bytes(5 * MIB), b"the last one may be small"]
    upload_id = await vault.create_upload(
        "k", content_type="video/mp4", metadata={"assay-file-id": "1"}, tags={}
    )
    etags = [
        (number, vault.put_part("k", upload_id, number, part, timeout_seconds=20))
        for number, part in enumerate(parts, 1)
    ]
    listed = await vault.list_parts("k", upload_id)
    assert [(part.number, part.size, part.etag) for part in listed] == [
        (number, len(part), etag) for (number, etag), part in zip(etags, parts, strict=True)
    ]
    etag = await vault.complete_upload("k", upload_id, etags)
    found = await vault.head("k")
    assert (found.etag, found.content_type, found.metadata) == (
        etag,
        "video/mp4",
        {"assay-file-id": "1"},
    )
    assert read_all(vault, "k") == b"".join(parts)


async def test_a_part_with_another_digest_is_refused(vault: Bucket) -> None:
    upload_id = await vault.create_upload("k", content_type="text/plain", metadata={}, tags={})
    with pytest.raises(RequestRefused):
        vault.put_part(
            "k",
            upload_id,
            1,
            b"bytes",
            sha256=hashlib.sha256(b"others").hexdigest(),
            timeout_seconds=20,
        )
    assert await vault.list_parts("k", upload_id) == []


async def test_an_upload_can_be_completed_only_once(vault: Bucket) -> None:
    upload_id = await vault.create_upload("k", content_type="text/plain", metadata={}, tags={})
    parts = [(1, vault.put_part("k", upload_id, 1, b"bytes", timeout_seconds=20))]
    await vault.complete_upload("k", upload_id, parts)
    with pytest.raises(UploadMissing):
        await vault.complete_upload("k", upload_id, parts)
    with pytest.raises(UploadMissing):
        await vault.list_parts("k", upload_id)
    await vault.abort_upload("k", upload_id)
    assert read_all(vault, "k") == b"bytes"


async def test_aborting_an_upload_removes_its_parts(vault: Bucket) -> None:
    upload_id = await vault.create_upload("k", content_type="text/plain", metadata={}, tags={})
    vault.put_part("k", upload_id, 1, b"bytes", timeout_seconds=20)
    await vault.abort_upload("k", upload_id)
    await vault.abort_upload("k", upload_id)
    with pytest.raises(UploadMissing):
        vault.put_part("k", upload_id, 2, b"bytes", timeout_seconds=20)
    with pytest.raises(ObjectMissing):
        await vault.head("k")


async def test_an_upload_cannot_be_completed_with_a_part_that_was_not_sent(vault: Bucket) -> None:
    upload_id = await vault.create_upload("k", content_type="text/plain", metadata={}, tags={})
    # The embedded store reports the upload as missing.
    with pytest.raises((RequestRefused, UploadMissing)):
        await vault.complete_upload("k", upload_id, [(1, "0" * 32)])
    with pytest.raises(ObjectMissing):
        await vault.head("k")


async def test_deleting_a_missing_object_succeeds(vault: Bucket) -> None:
    put_object(vault, "k", b"bytes")
    await vault.delete("k")
    await vault.delete("k")
    with pytest.raises(ObjectMissing):
        await vault.head("k")


async def test_a_listing_of_several_pages_contains_every_key(vault: Bucket) -> None:
    keys = sorted(f"{number:04}-{'ä &+%' if number % 100 == 0 else ''}" for number in range(1005))
    options: dict[str, Any] = {"content_type": "text/plain", "metadata": {}, "tags": {}}
    await asyncio.gather(*[vault.put(key, b"", **options, timeout_seconds=60) for key in keys])
    assert [listed.key async for listed in vault.list_keys()] == keys
    assert [listed.key async for listed in vault.list_keys("00", keys[50])] == keys[51:100]


async def test_a_missing_bucket_is_not_reported_as_a_missing_object(
    object_store: ObjectStore, store: StoreUnderTest
) -> None:
    gone = object_store.bucket("no-such-bucket-anywhere")
    with pytest.raises(StoreUnavailable):
        gone.open("k", etag=None)
    # The embedded store's response to HEAD does not say what is missing.
    if store.kind != "embedded":
        with pytest.raises(StoreUnavailable):
            await gone.head("k")
