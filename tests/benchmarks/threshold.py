"""The two ways to prove a file: in memory, or by a copy that is read back, by the size of the file.

In memory: GET, digest, PUT. By a copy: HEAD, copy, GET with a digest. Both are sent by the store
client of the service, eight files at once. No statement is part of either. `SMALL_BYTES`
(service/worker/small_files.py) should not exceed the sizes at which the first is faster.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import uuid4

import uvloop

from service import clock
from service.object_store import Bucket
from service.resources import WorkerResources, open_worker_resources
from service.worker.small_files import digest_body
from service.worker.verification import CHUNK_BYTES
from tests.benchmarks.figures import Figure, alternate, compare_rates
from tests.benchmarks.ground import Ground, Site

KIB = 1024
SIZES = (64 * KIB, 256 * KIB, 1024 * KIB, 2048 * KIB, 4096 * KIB, 16_384 * KIB)
AT_ONCE = 8
SECONDS = 60.0
DESCRIPTION: dict[str, Any] = {
    "content_type": "application/octet-stream",
    "metadata": {},
    "tags": {},
}
Proof = Callable[[WorkerResources, str, int], Awaitable[None]]


def measure(ground: Ground) -> list[Figure]:
    with ground.new_site() as site:
        return [measure_size(site, size) for size in SIZES]


def measure_size(site: Site, size: int) -> Figure:
    total = site.ground.choose(256, 8) * KIB * KIB
    count, rounds = min(600, max(AT_ONCE, total // size)), site.ground.choose(5, 1)
    costs = site.measure_costs()
    sides = {
        name: costs.measure(name, partial(run, site, proof, count, size), jobs=count)
        for name, proof in (("memory", prove_in_memory), ("copy", prove_by_copy))
    }
    found = alternate(sides, rounds=rounds)
    return compare_rates(
        f"proof of {size // KIB:,} KiB in memory, {AT_ONCE} at once",
        "HEAD, copy, and a GET of the copy with its digest",
        found["memory"],
        found["copy"],
        unit="files/s",
        least=None,
        costs=(costs.show("memory"), costs.show("copy")),
    )


def run(site: Site, proof: Proof, count: int, size: int) -> float:
    """Return the proofs per second."""
    return uvloop.run(prove_all(site, proof, count, size))


async def prove_all(site: Site, proof: Proof, count: int, size: int) -> float:
    async with open_worker_resources(site.settings) as resources:
        keys = [uuid4().hex for _ in range(AT_ONCE)]
        for key in keys:
            await resources.vault.put(key, os.urandom(size), **DESCRIPTION, timeout_seconds=SECONDS)
        shared = iter(range(count))

        async def prove_in_turn(key: str) -> None:
            for _ in shared:
                await proof(resources, key, size)

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(prove_in_turn(key))
        return count / (time.perf_counter() - begun)


async def prove_in_memory(resources: WorkerResources, key: str, size: int) -> None:
    _, body = await resources.vault.get(key, most_bytes=size, timeout_seconds=SECONDS)
    assert body is not None
    sha256 = await digest_body(body)
    await resources.vault.put(
        f"{key}-proved", body, **DESCRIPTION, sha256=str(sha256), timeout_seconds=SECONDS
    )


async def prove_by_copy(resources: WorkerResources, key: str, size: int) -> None:
    vault = resources.vault
    seen = await vault.head(key)
    copy = await vault.copy_from(
        vault,
        key,
        etag=seen.etag,
        key=f"{key}-proved",
        **DESCRIPTION,
        send_before=clock.read_seconds() + SECONDS,
        timeout_seconds=SECONDS,
    )
    read = await asyncio.to_thread(hash_object, vault, copy.key, copy.etag)
    assert read == size


def hash_object(vault: Bucket, key: str, etag: str) -> int:
    """Hash the object, and return its size."""
    digest, size = hashlib.sha256(), 0
    with vault.open(key, etag=etag) as reader:
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    digest.digest()
    return size
