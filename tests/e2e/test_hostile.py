"""Tests of upload URLs that are used again, over each store and its known vulnerabilities.

The bytes that are served must never change, and must always match their hash.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import msgspec
import pytest

from service.object_store.presign import Signer
from service.resources import Resources
from tests.e2e.attacks import overwrite, put_forged_as_root
from tests.e2e.conftest import Apart
from tests.e2e.jobs import (
    announce,
    check_all,
    check_served,
    complete,
    declare,
    download,
    find_key,
    look_at,
    read_metadata,
    sweep_incoming,
    upload,
    working,
)
from tests.support.faults import FaultyBucket, Gate
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

BODY = b"what was sent" * 100_000  # the store copies it, because it is not small
OTHER = BODY.upper()


@pytest.mark.parametrize("moment", ["before the copy", "after the copy"])
async def test_a_url_used_again_during_verification_does_not_change_the_result(
    apart: Apart, root_signer: Signer, server: str, moment: str
) -> None:
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
        overwritten = await overwrite(
            apart.resources, apart.client, root_signer, declared=declared, body=OTHER, server=server
        )
        gate.opened.set()
        assert (await read_metadata(apart.client, declared, wait=20))["state"] == "ready"
    # The copy in the vault does not change. An object that changes before it is copied is checked
    # again, and its new bytes are copied and hashed.
    await check_served(
        apart.client,
        apart.resources,
        declared,
        OTHER if overwritten and moment == "before the copy" else BODY,
    )
    await check_all(apart.resources)


async def complete_now(apart: Apart, declared: Mapping[str, Any]) -> None:
    assert (await apart.client.post(f"/files/{declared['file']['id']}/complete")).status_code == 202


async def test_bytes_that_are_exchanged_under_a_forged_etag_are_hashed(
    apart: Apart, server: str
) -> None:
    """Exchange the object between the worker's HEAD and its copy.

    MinIO lets a client set the ETag, so If-Match does not detect the exchange.
    """
    declared = await declare(apart.client, BODY)
    incoming, etags = FaultyBucket(apart.resources.incoming), []
    key = await find_key(apart.resources, declared)
    put_forged_as_root(apart.root_incoming, key, BODY)

    async def exchange() -> None:
        """Replace the object after each HEAD of the worker, even after a refused copy."""
        etags.append((await apart.resources.incoming.head(key)).etag)
        await asyncio.to_thread(put_forged_as_root, apart.root_incoming, key, OTHER)
        etags.append((await apart.resources.incoming.head(key)).etag)

    incoming.after["head"] = exchange
    await complete_now(apart, declared)
    async with working(msgspec.structs.replace(apart.resources, incoming=incoming)):
        assert (await read_metadata(apart.client, declared, wait=20))["state"] == "ready"
    assert server == "silo" or (etags[0] == etags[1]) is (server == "minio"), etags
    await check_served(apart.client, apart.resources, declared, OTHER)
    await check_all(apart.resources)


async def test_a_url_used_again_after_ready_changes_nothing(
    client: httpx.AsyncClient,
    intruder: httpx.AsyncClient,
    resources: Resources,
    root_signer: Signer,
    server: str,
) -> None:
    declared = await upload(client, BODY)
    proved = await complete(client, declared)
    # When the object is gone, the URL's If-None-Match no longer prevents a PUT.
    await sweep_incoming(resources, declared)
    await overwrite(resources, intruder, root_signer, declared=declared, body=OTHER, server=server)
    await announce(
        client,
        resources.settings,
        await find_key(resources, declared),
        size=len(OTHER),
        eTag="0" * 32,
    )
    assert await complete(client, declared) == proved
    await check_served(client, resources, declared, BODY)
    await sweep_incoming(resources, declared)
    await check_served(client, resources, declared, BODY)
    await check_all(resources)


async def test_a_url_used_after_the_deletion_restores_nothing(
    client: httpx.AsyncClient,
    intruder: httpx.AsyncClient,
    resources: Resources,
    root_signer: Signer,
    server: str,
) -> None:
    declared = await upload(client, BODY)
    await complete(client, declared)
    await client.delete(f"/files/{declared['file']['id']}")
    await sweep_incoming(resources, declared)
    await overwrite(resources, intruder, root_signer, declared=declared, body=OTHER, server=server)
    await announce(client, resources.settings, await find_key(resources, declared))
    assert (await download(client, declared)).status_code == 410
    assert (await read_metadata(client, declared))["state"] == "deleted"
    await sweep_incoming(resources, declared)

    async def gone() -> bool:
        return (await look_at(resources, declared)).vault is None

    await until(gone)
    await check_all(resources)
