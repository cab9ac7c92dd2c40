"""Tests of uploads with hostile headers, or with bytes other than the declared ones.

The store must refuse them, or Assay must never serve them.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service.object_store.presign import ABSENT_FROM_PUT, Signer
from service.resources import Resources
from tests.e2e.attacks import put_forged_as_root, put_snowball, put_unsigned
from tests.e2e.conftest import Apart, Api
from tests.e2e.hostile_urls import (
    BODY,
    OTHER,
    check_clients_encoding,
    check_refused,
    check_slow_put,
    check_streaming_unsigned_body,
    check_unsigned_body,
)
from tests.e2e.jobs import (
    TEXT,
    check_all,
    check_served,
    complete,
    declare,
    digest,
    download,
    find_key,
    look_at,
    put,
    read_metadata,
    upload,
    upload_silently,
    working,
)
from tests.support.invariants import list_bucket
from tests.support.presigned import ABUSES, OPEN, Answers, content, forge
from tests.support.stores import send

pytestmark = pytest.mark.anyio


async def test_a_url_cannot_make_the_store_copy_an_object_of_another_owner(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient, resources: Resources, expected: Answers
) -> None:
    victim = await upload(client, BODY)
    await complete(client, victim)
    name = (await look_at(resources, victim)).row["minio_object_name"]
    declared = await declare(intruder, b"")
    answer = await put(declared, b"", {"x-amz-copy-source": f"/{resources.vault.name}/{name}"})
    assert answer.status in expected["copy-source"]
    traces = await look_at(resources, declared)
    assert (traces.row["state"], traces.incoming) == ("pending", None)
    await check_served(client, resources, victim, BODY)


async def test_a_streaming_unsigned_body_is_never_served(
    client: httpx.AsyncClient, resources: Resources, expected: Answers
) -> None:
    await check_streaming_unsigned_body(client, resources, expected)


async def test_a_body_without_a_signature_is_never_served(
    client: httpx.AsyncClient, resources: Resources, expected: Answers
) -> None:
    await check_unsigned_body(client, resources, expected)


async def test_an_unsigned_body_with_roots_key_id_is_never_served(
    client: httpx.AsyncClient, resources: Resources, root_signer: Signer, expected: Answers
) -> None:
    """Check that Assay does not rely on the secrecy of root's key id.

    No policy applies to root.
    """
    declared = await declare(client, BODY, sha256=digest(BODY))
    bucket, key = resources.settings.incoming_bucket, await find_key(resources, declared)
    status = await put_unsigned(root_signer, bucket, key, body=OTHER)
    assert status in expected["no signature, root's key id"]
    await check_refused(client, resources, declared, landed=status == 200, reason="digest-mismatch")


SNOWBALL_FORMS = (["true"], ["", "true"], ["no", "true"], ["true", "true"], ["no, true"])


@pytest.mark.parametrize("values", SNOWBALL_FORMS, ids=", then ".join)
async def test_no_tar_is_unpacked_over_an_upload_of_another_owner(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient, resources: Resources, values: list[str]
) -> None:
    """Check that an owner who knows the key of another upload cannot replace its object.

    A URL that does not forbid the header would let the store do this, despite `If-None-Match`.
    """
    declared = await upload_unreported(client, resources)
    key = await find_key(resources, declared)
    before = [await list_bucket(bucket) for bucket in (resources.incoming, resources.vault)]
    rows = await resources.pool.fetchval("SELECT count(*) FROM files")
    assert await put_snowball(intruder, key, OTHER, values=values) == 403
    assert await put_snowball(intruder, "ec" * 16, OTHER, values=values) == 403
    after = [await list_bucket(bucket) for bucket in (resources.incoming, resources.vault)]
    # Objects may disappear, because the sweeper deletes what other tests left.
    assert [now_there - there for now_there, there in zip(after, before, strict=True)] == [
        set(),
        set(),
    ]
    # The two new rows are the declarations of the tars.
    assert await resources.pool.fetchval("SELECT count(*) FROM files") == rows + 2
    assert await asyncio.to_thread(content, resources.incoming, key) == BODY
    assert (await complete(client, declared))["hash"] == digest(BODY)
    await check_served(client, resources, declared, BODY)


async def upload_unreported(client: httpx.AsyncClient, resources: Resources) -> dict[str, Any]:
    """Upload an object without an event, which stays in incoming until a client calls `complete`.

    Skip the test if the store refuses the headers that suppress the event.
    """
    declared, status = await upload_silently(client, BODY, unbound=resources)
    if status != 200:
        pytest.skip("a client of this store cannot suppress an event")
    return declared


async def test_a_tar_unpacked_over_another_file_is_never_served(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient, resources: Resources, server: str
) -> None:
    """Send the tar with a URL that forbids no header."""
    declared = await declare(client, BODY, sha256=digest(BODY), content_type=None)
    key = await find_key(resources, declared)
    status = await put_snowball(intruder, key, OTHER, values=["", "true"], unbound=resources)
    assert status in OPEN["snowball, empty and set"][server]
    await check_refused(client, resources, declared, landed=status == 200, reason="digest-mismatch")


@pytest.mark.parametrize("only", [None, *forge(datetime.now(UTC))])
async def test_no_event_is_suppressed_and_no_etag_or_date_forged(
    client: httpx.AsyncClient, resources: Resources, only: str | None
) -> None:
    """Send all headers with which one store replicates to another, or only one of them."""
    declared = await declare(client, BODY)
    headers = {
        name: value for name, value in forge(datetime.now(UTC)).items() if only in (None, name)
    }
    for sent in (headers, dict.fromkeys(headers, "")):
        assert (await put(declared, BODY, sent)).status == 403
    assert (await look_at(resources, declared)).incoming is None
    assert (await put(declared, BODY)).status == 200
    assert (await read_metadata(client, declared, wait=20))["state"] == "ready"
    assert (await look_at(resources, declared)).row["arrivals"] == 1


@pytest.mark.parametrize("header", sorted(ABSENT_FROM_PUT.neutral))
async def test_a_redirected_upload_forbids_the_same_headers(
    client: httpx.AsyncClient, resources: Resources, header: str
) -> None:
    answer = await client.put(
        "/upload/a.txt", content=BODY, headers={"Content-Length": str(len(BODY))}
    )
    assert answer.status_code == 307
    url = answer.headers["location"]
    key = urlsplit(url).path.rpartition("/")[2]
    assert (
        await asyncio.to_thread(send, "PUT", url, body=BODY, headers={header: ABUSES[header]})
    ).status in (400, 403, 501)
    assert await asyncio.to_thread(content, resources.incoming, key) is None
    assert (await asyncio.to_thread(send, "PUT", url, body=BODY)).status == 200


async def test_a_clients_encoding_and_tags_do_not_reach_readers(
    api: Api, client: httpx.AsyncClient, resources: Resources
) -> None:
    await check_clients_encoding(api, client, resources)


# Bytes that differ from the declaration


@pytest.mark.parametrize(
    ("case", "fields"),
    [
        ("size-mismatch", {"size": len(BODY) + 1}),
        ("content-type-mismatch", {"content_type": "image/png"}),
        ("digest-mismatch", {"sha256": digest(OTHER)}),
    ],
)
async def test_bytes_that_differ_from_the_declaration_are_refused_or_rejected(
    apart: Apart, case: str, fields: Mapping[str, Any]
) -> None:
    declared = await declare(apart.client, BODY, **fields)
    by_url = await put(
        declared, BODY, {"Content-Type": TEXT} if case == "content-type-mismatch" else None
    )
    assert by_url.status in (400, 403)
    assert (await look_at(apart.resources, declared)).incoming is None
    put_forged_as_root(apart.root_incoming, await find_key(apart.resources, declared), BODY)
    answer = await apart.client.post(f"/files/{declared['file']['id']}/complete")
    assert answer.status_code == (202 if case == "size-mismatch" else 200)
    async with working(apart.resources):
        metadata = await read_metadata(apart.client, declared, wait=20)
    assert (metadata["state"], metadata["hash"], metadata["rejection"]["reason"]) == (
        "rejected",
        None,
        case,
    )
    refused = await download(apart.client, declared)
    assert (refused.status_code, refused.json()["reason"]) == (409, case)
    assert "retry-after" not in refused.headers
    await check_all(apart.resources)


# The expiry of a URL


async def test_a_put_that_outlasts_its_url_ends_ready(
    client: httpx.AsyncClient, resources: Resources
) -> None:
    await check_slow_put(client, resources)
