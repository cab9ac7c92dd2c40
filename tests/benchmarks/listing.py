"""The work that lists whole buckets: `assay scrub --orphans` and `assay reconcile`.

The reference lists the same buckets with the same client, and does nothing with the result. Rows
name all objects: in the vault those of `ready` files, and in incoming, a tenth as many, those of
files that wait for their verification.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

from service.object_store import Bucket
from service.operations.orphans import scrub_orphans
from service.operations.reconciling import Options, reconcile
from service.resources import WorkerResources, open_worker_resources
from service.settings import WorkerSettings
from tests.benchmarks.figures import Figure, Series, Side, alternate
from tests.benchmarks.ground import Ground
from tests.support.processes import read_peak_bytes, read_resident_bytes, reset_peak

BODY = b"one of many objects"
INCOMING_PART = 10
ROWS_AT_ONCE = 10_000
MOST_ORPHANS_RATIO = 1.3
MOST_RECONCILE_RATIO = 2.0
MOST_GROWTH_MIB = 32
MIB = 1024**2
READY = """
    INSERT INTO files (id, owner, filename, size, metadata, state, changed_by, hash,
                       minio_object_name, vault_etag, upload_date, expires_at, grace_until,
                       final_at)
    SELECT gen_random_uuid(), 'benchmark', 'f', $2, '{}', 'ready', 'worker', sha256($3), key, $4,
           now(), now(), now(), now()
    FROM unnest($1::uuid[]) AS key
"""
WAITING = """
    INSERT INTO files (id, owner, filename, size, metadata, state, changed_by, incoming_key,
                       expires_at, grace_until, due_at)
    SELECT gen_random_uuid(), 'benchmark', 'f', $2, '{}', 'pending', 'client', key,
           now() + interval '1 day', now() + interval '1 day', now()
    FROM unnest($1::text[]) AS key
"""

Work = Callable[[WorkerResources], Awaitable[None]]


def measure_orphans(ground: Ground) -> list[Figure]:
    return measure(ground, "scrub --orphans", scrub_both, list_both, most_ratio=MOST_ORPHANS_RATIO)


def measure_reconcile(ground: Ground) -> list[Figure]:
    return measure(ground, "reconcile", reconcile_all, list_vault, most_ratio=MOST_RECONCILE_RATIO)


def measure(
    ground: Ground, name: str, work: Work, reference: Work, *, most_ratio: float
) -> list[Figure]:
    count, rounds = ground.objects or ground.choose(20_000, 2_000), ground.choose(3, 1)
    with ground.new_site() as site:

        async def run(one: Work) -> float:
            async with open_worker_resources(site.settings) as resources:
                await resources.guard.check()
                begun = time.perf_counter()
                await one(resources)
                return time.perf_counter() - begun

        asyncio.run(fill(site.settings, count, ground.folder / "store"))
        growths: list[float] = []
        sides: dict[str, Side] = {
            "assay": lambda: measure_growth(lambda: asyncio.run(run(work)), growths),
            "store": lambda: asyncio.run(run(reference)),
        }
        found = alternate(sides, rounds=rounds)
    what = f"`{name}` over {count:,} objects in the vault"
    ratio = found["assay"].over(found["store"])
    growth = Series(tuple(growths[1:]))  # the first round warms up
    return [
        Figure(
            what,
            "the store's own listing",
            f"{found['assay'].show()} s",
            f"{found['store'].show()} s",
            ratio.show(),
            f"≤ {most_ratio}",
            ratio.median <= most_ratio,
        ),
        Figure(
            what,
            "memory before",
            f"+ {growth.show(0)} MiB at most",
            "",
            "",
            f"< {MOST_GROWTH_MIB} MiB",
            max(growth.values) < MOST_GROWTH_MIB,
        ),
    ]


async def scrub_both(resources: WorkerResources) -> None:
    found = [one async for one in scrub_orphans(resources, delete=False)]
    assert not found, f"rows name all objects, but not {found[:3]}"


async def reconcile_all(resources: WorkerResources) -> None:
    found = [one async for one in reconcile(resources, Options())]
    assert not found, f"nothing differs, but {found[:3]}"


async def list_both(resources: WorkerResources) -> None:
    for bucket in (resources.incoming, resources.vault):
        async for _ in bucket.list_keys():
            pass


async def list_vault(resources: WorkerResources) -> None:
    async for _ in resources.vault.list_keys():
        pass


def measure_growth(side: Side, growths: list[float]) -> float:
    """Run the side, and append the growth of this process's memory at its peak, in MiB."""
    reset_peak(os.getpid())
    before = read_resident_bytes(os.getpid())
    result = side()
    growths.append((read_peak_bytes(os.getpid()) - before) / MIB)
    return result


async def fill(settings: WorkerSettings, count: int, store: Path) -> None:
    """Put the objects into both buckets, and insert the rows that name them."""
    async with open_worker_resources(settings) as resources:
        for start in range(0, count, ROWS_AT_ONCE):
            keys = [str(uuid4()) for _ in range(min(ROWS_AT_ONCE, count - start))]
            await put_all(resources.vault, keys, store)
            etag = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
            await resources.pool.execute(READY, keys, len(BODY), BODY, etag)
            waiting = [uuid4().hex for _ in keys[::INCOMING_PART]]
            await put_all(resources.incoming, waiting, store)
            await resources.pool.execute(WAITING, waiting, len(BODY))
        await resources.pool.execute("ANALYZE files")


async def put_all(bucket: Bucket, keys: list[str], store: Path) -> None:
    """Store an object under each key: the first through the store, and its copies on the disk.

    A folder of MinIO with a single drive has all that belongs to an object, and does not have its
    key. A million requests would take half an hour.
    """
    await bucket.put(
        keys[0], BODY, content_type="text/plain", metadata={}, tags={}, timeout_seconds=60
    )
    await asyncio.to_thread(copy_on_disk, store, bucket.name, keys[0], keys[1:])


def copy_on_disk(store: Path, bucket: str, key: str, copies: list[str]) -> None:
    folder = store / "minio" / "data" / bucket
    written = (folder / key / "xl.meta").read_bytes()
    for name in copies:
        copy = folder / name
        copy.mkdir()
        (copy / "xl.meta").write_bytes(written)
