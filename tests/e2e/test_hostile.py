"""Clients that cheat, over each store with the holes that it has: what is served never changes, and never differs from its hash."""

import asyncio
import gzip
import http.client
import io
import tarfile
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import msgspec
import pytest

from service.object_store import Bucket
from service.object_store.connection import calling
from service.resources import Resources, open_resources
from service.settings import Settings
from service.uploads import find_file, sign_upload
from tests.e2e.conftest import Api
from tests.e2e.jobs import (
    TEXT,
    announce,
    api_apart,
    check_all,
    check_served,
    complete,
    content,
    declare,
    digest,
    download,
    find_key,
    look_at,
    put,
    read_metadata,
    sweep_incoming,
    until,
    upload,
    working,
)
from tests.faults import FaultyBucket, Gate
from tests.presigned import EXPECTED, forge, stream_unsigned
from tests.stores import StoreUnderTest, now, open_store, receive, send

pytestmark = pytest.mark.anyio

BODY = b"what was sent" * 1000
OTHER = BODY.upper()


@pytest.fixture
def expected(store: StoreUnderTest) -> Mapping[str, set[int]]:
    """What this store answers to a URL that is used in another way than agreed (tests/presigned.py)."""
    kind = "silo" if store.kind in ("docker", "external") else store.kind
    return {case: answers[kind] for case, answers in EXPECTED.items()}


@pytest.fixture
async def intruder(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    """Another owner, with files of their own."""
    async with httpx.AsyncClient(base_url=api.url, headers=api.new_owner().headers, timeout=30) as client:
        yield client


@dataclass(frozen=True)
class Apart:
    """An API without a worker, so that the test can stop its own worker where it likes."""

    client: httpx.AsyncClient
    resources: Resources
    root_incoming: Bucket


@pytest.fixture
async def apart(settings: Settings, root_incoming: Bucket, logs: object) -> AsyncIterator[Apart]:
    async with api_apart(settings, with_worker=False) as client, open_resources(settings) as resources:
        yield Apart(client, resources, root_incoming)


async def write_through_every_hole(
    resources: Resources, client: httpx.AsyncClient, declared: Mapping[str, Any], body: bytes
) -> Mapping[str, int]:
    """Try to have `body` at the incoming key of a file, by whoever has its URL and a file of their own; the store's answers."""
    return {
        "the same URL": (await put(declared, body)).status,
        "no signature": await put_unsigned(resources, await find_key(resources, declared), body),
        "snowball": await put_snowball(client, await find_key(resources, declared), body),
    }


async def put_unsigned(resources: Resources, key: str, body: bytes) -> int:
    """CVE-2026-41145: the key id that stands in every URL, and no signature."""
    bucket = resources.settings.incoming_bucket
    unsigned = resources.signer.presign("PUT", bucket, key=key, issued_at=now(), expires_in_seconds=60)[:-64] + "0" * 64
    pieces, headers = stream_unsigned(body)
    return (await asyncio.to_thread(send, "PUT", unsigned, body=pieces, headers={"Content-Type": TEXT, **headers})).status


async def put_snowball(client: httpx.AsyncClient, key: str, body: bytes) -> int:
    """A tar for a file of one's own, which the store unpacks over another key."""
    archive = pack(key, body)
    declared = await declare(client, archive, sha256=digest(archive))
    return (await put(declared, archive, {"x-amz-meta-snowball-auto-extract": "true"})).status


def pack(name: str, body: bytes) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(body)
        tar.addfile(member, io.BytesIO(body))
    return archive.getvalue()


async def overwrite(resources: Resources, client: httpx.AsyncClient, declared: Mapping[str, Any], body: bytes) -> None:
    """Through every hole; one of them is open in each of the stores that are known to have any."""
    answers = await write_through_every_hole(resources, client, declared, body)
    if 200 in answers.values():
        assert content(resources.incoming, await find_key(resources, declared)) == body


# The URL used again


@pytest.mark.parametrize("moment", ["before the copy", "after the copy"])
async def test_a_url_used_again_during_the_verification_changes_nothing_that_is_served(apart: Apart, moment: str) -> None:
    declared = await upload(apart.client, BODY, content_type=None)
    gate = Gate()
    incoming, vault = FaultyBucket(apart.resources.incoming), FaultyBucket(apart.resources.vault)
    if moment == "before the copy":
        incoming.after["head"] = gate
    else:
        vault.after["copy_from"] = gate
    await complete_now(apart, declared)
    paused = msgspec.structs.replace(apart.resources, incoming=incoming, vault=vault)
    async with working(paused):
        await gate.reached.wait()
        await overwrite(apart.resources, apart.client, declared, OTHER)
        lies_there = content(apart.resources.incoming, await find_key(apart.resources, declared))
        gate.opened.set()
        assert (await read_metadata(apart.client, declared, wait=20))["state"] == "ready"
    # A copy that was made stays what it is; an object that changed before its copy is looked at again, and copied and hashed as it is.
    await check_served(apart.client, apart.resources, declared, BODY if moment == "after the copy" else lies_there or b"")
    await check_all(apart.resources)


async def complete_now(apart: Apart, declared: Mapping[str, Any]) -> None:
    assert (await apart.client.post(f"/files/{declared['file']['id']}/complete")).status_code == 202


async def test_a_forged_etag_cannot_bring_other_bytes_past_the_hash(apart: Apart) -> None:
    """MinIO lets a client write the ETag: the object changes between look and copy, and If-Match does not notice."""
    declared = await declare(apart.client, BODY)
    put_as_root(apart, await find_key(apart.resources, declared), BODY)
    incoming = FaultyBucket(apart.resources.incoming)
    key = await find_key(apart.resources, declared)

    async def exchange() -> None:
        await asyncio.to_thread(put_as_root, apart, key, OTHER)

    incoming.after["head"] = exchange
    await complete_now(apart, declared)
    async with working(msgspec.structs.replace(apart.resources, incoming=incoming)):
        assert (await read_metadata(apart.client, declared, wait=20))["state"] == "ready"
    await check_served(apart.client, apart.resources, declared, OTHER)
    await check_all(apart.resources)


def put_as_root(apart: Apart, key: str, body: bytes) -> None:
    """With the ETag of any other object."""
    with calling(timeout_seconds=10):
        apart.root_incoming._client._execute(
            "PUT", apart.root_incoming.name, key, body=body, headers={"Content-Type": TEXT, **forge(now())}
        )


async def test_a_url_used_again_after_ready_changes_nothing(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await upload(client, BODY)
    proved = await complete(client, declared)
    await sweep_incoming(resources, declared)  # without the object in its way, the URL's own condition holds once more
    await overwrite(resources, intruder, declared, OTHER)
    await announce(client, resources.settings, await find_key(resources, declared), size=len(OTHER), eTag="0" * 32)
    assert await complete(client, declared) == proved
    await check_served(client, resources, declared, BODY)
    await sweep_incoming(resources, declared)
    await check_served(client, resources, declared, BODY)
    await check_all(resources)


async def test_a_url_used_after_the_deletion_brings_nothing_back(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await upload(client, BODY)
    await complete(client, declared)
    await client.delete(f"/files/{declared['file']['id']}")
    await sweep_incoming(resources, declared)
    await overwrite(resources, intruder, declared, OTHER)
    await announce(client, resources.settings, await find_key(resources, declared))
    assert (await download(client, declared)).status_code == 410
    assert (await read_metadata(client, declared))["state"] == "deleted"
    await sweep_incoming(resources, declared)

    async def gone() -> bool:
        return (await look_at(resources, declared)).vault is None

    await until(gone)
    await check_all(resources)


# What else may be sent along with a URL


async def test_a_url_cannot_make_the_store_copy_somebody_elses_object(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient, resources: Resources, expected: Mapping[str, set[int]]
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


async def test_a_body_that_asks_not_to_be_compared_with_its_digest_is_never_served(
    client: httpx.AsyncClient, resources: Resources, expected: Mapping[str, set[int]]
) -> None:
    pieces, headers = stream_unsigned(OTHER)
    declared = await declare(client, pieces, sha256=digest(BODY))
    answer = await put(declared, pieces, headers)
    assert answer.status in expected["another body, streaming-unsigned"]
    await check_refused(client, resources, declared, landed=answer.status == 200, reason="size-mismatch")


async def test_a_body_without_any_signature_is_never_served_as_what_was_declared(
    client: httpx.AsyncClient, resources: Resources, expected: Mapping[str, set[int]]
) -> None:
    declared = await declare(client, BODY, sha256=digest(BODY))
    status = await put_unsigned(resources, await find_key(resources, declared), OTHER)
    assert status in expected["no signature"]
    await check_refused(client, resources, declared, landed=status == 200, reason="digest-mismatch")


async def test_a_tar_that_the_store_unpacks_over_another_file_is_never_served_as_that_file(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient, resources: Resources, expected: Mapping[str, set[int]]
) -> None:
    declared = await declare(client, BODY, sha256=digest(BODY), content_type=None)
    status = await put_snowball(intruder, await find_key(resources, declared), OTHER)
    assert status in expected["snowball"]
    await check_refused(client, resources, declared, landed=status == 200, reason="digest-mismatch")


async def check_refused(client: httpx.AsyncClient, resources: Resources, declared: Mapping[str, Any], *, landed: bool, reason: str) -> None:
    """What got past the store is rejected; what did not has left nothing, and the file waits for its bytes still."""
    answer = await client.post(f"/files/{declared['file']['id']}/complete", params={"wait": 20})
    if landed:
        assert (answer.status_code, answer.json()["state"], answer.json()["rejection"]["reason"]) == (200, "rejected", reason)
        await sweep_incoming(resources, declared)
    else:
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:assay:problem:not-uploaded")
    assert (await download(client, declared)).status_code == 409
    traces = await look_at(resources, declared)
    assert (traces.row["hash"], traces.incoming, traces.vault) == (None, None, None)
    await check_all(resources)


async def test_an_encoding_and_tags_of_the_clients_own_do_not_reach_who_downloads(
    api: Api, client: httpx.AsyncClient, resources: Resources
) -> None:
    packed = gzip.compress(bytes(1024**2))
    declared = await declare(client, packed)
    headers = {"Content-Encoding": "gzip", "x-amz-tagging": "delete=soon", "Content-Disposition": "inline", "Cache-Control": "public"}
    assert (await put(declared, packed, headers)).status == 200
    assert (await complete(client, declared))["hash"] == digest(packed)
    answer = await client.get(f"/files/{declared['file']['id']}", headers={"Accept-Encoding": "identity"})
    assert (answer.content, answer.headers["content-length"]) == (packed, str(len(packed)))
    assert "content-encoding" not in answer.headers
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["cache-control"] == "private, no-cache"
    assert await asyncio.to_thread(read_tags, api, (await look_at(resources, declared)).row["minio_object_name"]) == {
        "assay-file-id": declared["file"]["id"]
    }
    await check_served(client, resources, declared, packed)


def read_tags(api: Api, name: UUID) -> dict[str, str]:
    keys = api.deployment
    with open_store(keys.endpoint, keys.root_access_key, secret_key=keys.root_secret_key) as root, calling(timeout_seconds=10):
        return dict(root._client.get_object_tags(keys.vault_bucket, str(name)) or {})


# Other bytes than declared


@pytest.mark.parametrize(
    ("case", "fields"),
    [
        ("size-mismatch", {"size": len(BODY) + 1}),
        ("content-type-mismatch", {"content_type": "image/png"}),
        ("digest-mismatch", {"sha256": digest(OTHER)}),
    ],
)
async def test_what_is_not_what_was_declared_is_refused_by_the_store_or_rejected(
    apart: Apart, case: str, fields: Mapping[str, Any]
) -> None:
    declared = await declare(apart.client, BODY, **fields)
    by_url = await put(declared, BODY, {"Content-Type": TEXT} if case == "content-type-mismatch" else None)
    assert by_url.status in (400, 403)
    assert (await look_at(apart.resources, declared)).incoming is None
    put_as_root(apart, await find_key(apart.resources, declared), BODY)
    await complete_now(apart, declared)
    async with working(apart.resources):
        metadata = await read_metadata(apart.client, declared, wait=20)
    assert (metadata["state"], metadata["hash"], metadata["rejection"]["reason"]) == ("rejected", None, case)
    refused = await download(apart.client, declared)
    assert (refused.status_code, refused.json()["reason"]) == (409, case)
    assert "retry-after" not in refused.headers
    await check_all(apart.resources)


# A URL's end


async def test_a_put_of_eight_seconds_on_a_url_of_two_ends_ready(client: httpx.AsyncClient, resources: Resources) -> None:
    declared = await declare(client, BODY)
    file = await find_file(resources, UUID(declared["file"]["id"]), owner=None)
    short = msgspec.structs.replace(resources, settings=msgspec.structs.replace(resources.settings, upload_url_ttl=timedelta(seconds=2)))
    signed = sign_upload(short, file, now=await resources.pool.fetchval("SELECT now()"))
    assert await asyncio.to_thread(put_slowly, signed.url, signed.headers, BODY) == 200
    assert (await put({"upload": msgspec.to_builtins(signed)}, OTHER)).status == 403
    assert (await read_metadata(client, declared, wait=20))["state"] == "ready"
    await check_served(client, resources, declared, BODY)


def put_slowly(url: str, headers: Mapping[str, str], body: bytes) -> int:
    """In nine pieces, a second apart."""
    parts, pause = urlsplit(url), threading.Event()
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.putrequest("PUT", f"{parts.path}?{parts.query}", skip_accept_encoding=True)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        connection.putheader(name, value)
    connection.endheaders()
    piece = -(-len(body) // 9)
    for start in range(0, len(body), piece):
        if start:
            pause.wait(1)  # the URL's end is what this test waits for
        connection.send(body[start : start + piece])
    status = receive(connection).status
    connection.close()
    return status
