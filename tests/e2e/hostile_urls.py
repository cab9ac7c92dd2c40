"""Attacks on upload URLs that the tests run both directly against the store and behind nginx."""

import asyncio
import gzip
import http.client
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import msgspec

from service.files.lookup import find_file
from service.model import UnprovedFile
from service.resources import Resources
from service.uploads.signing import sign_upload
from tests.e2e.attacks import put_unsigned
from tests.e2e.conftest import Api
from tests.e2e.jobs import (
    check_all,
    check_served,
    complete,
    declare,
    digest,
    download,
    find_key,
    look_at,
    open_upload,
    put,
    read_metadata,
    sweep_incoming,
)
from tests.support.presigned import Answers, stream_unsigned
from tests.support.stores import read_tags, receive

BODY = b"what was sent" * 1000
OTHER = BODY.upper()


async def check_streaming_unsigned_body(
    client: httpx.AsyncClient, resources: Resources, expected: Answers
) -> None:
    """Check that a body sent with `STREAMING-UNSIGNED-PAYLOAD-TRAILER` is never served."""
    pieces, headers = stream_unsigned(OTHER)
    declared = await declare(client, pieces, sha256=digest(BODY))
    answer = await put(declared, pieces, headers)
    assert answer.status in expected["another body, streaming-unsigned"]
    await check_refused(
        client, resources, declared, landed=answer.status == 200, reason="size-mismatch"
    )


async def check_unsigned_body(
    client: httpx.AsyncClient, resources: Resources, expected: Answers
) -> None:
    """Check that an object written without a signature is never served as the declared file."""
    declared = await declare(client, BODY, sha256=digest(BODY))
    bucket, key = resources.settings.incoming_bucket, await find_key(resources, declared)
    status = await put_unsigned(resources.signer, bucket, key, body=OTHER)
    assert status in expected["no signature"]
    await check_refused(client, resources, declared, landed=status == 200, reason="digest-mismatch")


async def check_clients_encoding(api: Api, client: httpx.AsyncClient, resources: Resources) -> None:
    """Check that a client's Content-Encoding and tags are not part of the proved object."""
    packed = gzip.compress(bytes(1024**2))
    declared = await declare(client, packed)
    headers = {
        "Content-Encoding": "gzip",
        "x-amz-tagging": "delete=soon",
        "Content-Disposition": "inline",
        "Cache-Control": "public",
    }
    assert (await put(await open_upload(resources, declared), packed, headers)).status == 200
    assert (await complete(client, declared))["hash"] == digest(packed)
    answer = await client.get(
        f"/files/{declared['file']['id']}", headers={"Accept-Encoding": "identity"}
    )
    assert (answer.content, answer.headers["content-length"]) == (packed, str(len(packed)))
    assert "content-encoding" not in answer.headers
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["cache-control"] == "private, no-cache, no-transform"
    name = str((await look_at(resources, declared)).row["minio_object_name"])
    tags = await asyncio.to_thread(read_tags, api.deployment, api.deployment.vault_bucket, name)
    assert tags == {"assay-file-id": declared["file"]["id"]}
    await check_served(client, resources, declared, packed)


async def check_slow_put(client: httpx.AsyncClient, resources: Resources) -> None:
    """Check that a PUT that begins before the URL expires and ends after it proves the file."""
    declared = await declare(client, BODY)
    file = await find_file(resources, UUID(declared["file"]["id"]), owner=None)
    short = msgspec.structs.replace(
        resources,
        settings=msgspec.structs.replace(resources.settings, upload_url_ttl=timedelta(seconds=2)),
    )
    assert isinstance(file, UnprovedFile)
    signed = sign_upload(short, file, now=await resources.pool.fetchval("SELECT now()"))
    assert await asyncio.to_thread(put_slowly, signed.url, signed.headers, BODY) == 200
    assert (await put({"upload": msgspec.to_builtins(signed)}, OTHER)).status == 403
    assert (await read_metadata(client, declared, wait=20))["state"] == "ready"
    await check_served(client, resources, declared, BODY)


async def check_refused(
    client: httpx.AsyncClient,
    resources: Resources,
    declared: Mapping[str, Any],
    *,
    landed: bool,
    reason: str,
) -> None:
    """Check that nothing of the attack is served, and that neither bucket keeps an object of it.

    If the store accepted the request (`landed`), the file must be rejected with `reason`.
    Otherwise the file must still be pending.
    """
    answer = await client.post(f"/files/{declared['file']['id']}/complete", params={"wait": 20})
    if landed:
        assert (
            answer.status_code,
            answer.json()["state"],
            answer.json()["rejection"]["reason"],
        ) == (200, "rejected", reason)
        await sweep_incoming(resources, declared)
    else:
        assert (answer.status_code, answer.json()["type"]) == (
            409,
            "urn:assay:problem:not-uploaded",
        )
    assert (await download(client, declared)).status_code == 409
    traces = await look_at(resources, declared)
    assert (traces.row["hash"], traces.incoming, traces.vault) == (None, None, None)
    await check_all(resources)


def put_slowly(url: str, headers: Mapping[str, str], body: bytes) -> int:
    """Send the body in nine pieces, one second apart, and return the status."""
    parts, pause = urlsplit(url), threading.Event()
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.putrequest("PUT", f"{parts.path}?{parts.query}", skip_accept_encoding=True)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        connection.putheader(name, value)
    connection.endheaders()
    piece = -(-len(body) // 9)
    for start in range(0, len(body), piece):
        if start:
            pause.wait(1)  # the URL expires while the body is sent
        connection.send(body[start : start + piece])
    status = receive(connection).status
    connection.close()
    return status
