"""The verification of 6 GiB that were sent in parts.

The time from `complete` to `ready` covers assembling, copying in parts and hashing. The reference
is the store's own part copies and openssl.
"""

import asyncio
import os
import shutil
import time
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx

from service.model import cut
from service.object_store import Bucket, ObjectStore
from service.worker.copying import PARTS_AT_ONCE
from tests.benchmarks.figures import Figure, Series, compare_times
from tests.benchmarks.ground import GIB, Ground, Site
from tests.benchmarks.hand import check_answer, curl
from tests.benchmarks.large import MIB, forget, hash_file, make_file, time_hash
from tests.support.servers import wait_until
from tests.support.stores import open_store

SOURCE: Final = "assembled"
COPY: Final = "copied in parts"
COPY_PART_BYTES: Final = 512 * MIB
SIGNED_AT_ONCE: Final = 100
TRASH_SECONDS: Final = 400
"""The longest time in which MinIO empties its trash, which it does every five minutes."""


def measure(ground: Ground) -> list[Figure]:
    size, rounds = ground.choose(6 * GIB, 64 * MIB), ground.choose(2, 1)
    body = make_file(ground.folder / "assembled.bin", size)
    digest = hash_file(body)
    free = shutil.disk_usage(ground.folder).free
    found: dict[str, list[float]] = {"assay": [], "by hand": []}
    with ground.new_site() as site, open_as_root(site) as store:
        site.start_api()
        bucket = store.bucket(site.hand.bucket)
        sides = {
            "assay": partial(prove, site, body, digest),
            "by hand": partial(prove_by_hand, site, bucket, body),
        }
        for number in range(rounds):
            for name in sides if number % 2 else reversed(list(sides)):
                found[name].append(sides[name]())
                wait_until(partial(has_room, ground.folder, free), seconds=TRASH_SECONDS)
    body.unlink()
    work = f"verification of {size // MIB:,} MiB in parts, `complete` → `ready`"
    against = (
        "the store's own part copies, four at once,"
        " then the longer of a direct GET and `openssl dgst -sha256`"
    )
    return [
        compare_times(
            work, against, Series(tuple(found["assay"])), Series(tuple(found["by hand"])), least=0.8
        )
    ]


def has_room(folder: Path, free: int) -> bool:
    """Return whether the disk space of the deleted objects is free again.

    The store empties its trash later. Without a wait, the deleted copies would fill the disk.
    """
    return shutil.disk_usage(folder).free > free - GIB


def open_as_root(site: Site) -> AbstractContextManager[ObjectStore]:
    deployment = site.deployment
    return open_store(
        deployment.s3_endpoint,
        deployment.s3_root_access_key,
        secret_key=deployment.s3_root_secret_key,
    )


def prove(site: Site, body: Path, digest: str) -> float:
    declared = site.declare(body.stat().st_size, multipart=True)
    send_parts(site, declared, body)
    os.sync()
    begun = time.perf_counter()
    file = site.complete(declared["file"]["id"])
    seconds = time.perf_counter() - begun
    assert file["hash"] == digest
    forget(site, file)
    return seconds


def send_parts(site: Site, declared: dict[str, Any], body: Path) -> None:
    about = declared["upload"]["multipart"]
    numbers = range(1, about["parts"] + 1)
    with body.open("rb") as source, httpx.Client(timeout=60) as client:
        for start in range(0, len(numbers), SIGNED_AT_ONCE):
            wanted = [{"number": number} for number in numbers[start : start + SIGNED_AT_ONCE]]
            for part in site.call(
                "POST", f"/files/{declared['file']['id']}/parts", {"parts": wanted}
            )["parts"]:
                check_answer(client.put(part["url"], content=source.read(part["size"])), 200)


def prove_by_hand(site: Site, bucket: Bucket, body: Path) -> float:
    """Return the time to copy and hash an object of the same size, which was sent before."""
    size = body.stat().st_size
    etag = asyncio.run(put_in_parts(bucket, body, size))
    os.sync()
    begun = time.perf_counter()
    asyncio.run(copy_in_parts(bucket, size, etag))
    copied = time.perf_counter() - begun
    seconds = copied + max(curl(site.hand.sign("GET", COPY)), time_hash(body))
    for key in (SOURCE, COPY):
        check_answer(httpx.delete(site.hand.sign("DELETE", key), timeout=90), 204)
    return seconds


async def put_in_parts(bucket: Bucket, body: Path, size: int) -> str:
    parts = cut(size, usual_part_size=16 * MIB)
    upload_id = await bucket.create_upload(
        SOURCE, content_type="application/octet-stream", metadata={}, tags={}
    )
    sent = []
    with body.open("rb") as source:
        for number in range(1, parts.count + 1):
            piece = source.read(parts.size_of(number))
            sent.append(
                (number, bucket.put_part(SOURCE, upload_id, number, piece, timeout_seconds=60))
            )
    return await bucket.complete_upload(SOURCE, upload_id, sent, timeout_seconds=120)


async def copy_in_parts(bucket: Bucket, size: int, etag: str) -> None:
    parts = cut(size, usual_part_size=COPY_PART_BYTES)
    upload_id = await bucket.create_upload(
        COPY, content_type="application/octet-stream", metadata={}, tags={}
    )
    places = asyncio.Semaphore(PARTS_AT_ONCE)

    async def copy(number: int) -> tuple[int, str]:
        async with places:
            part = await bucket.copy_part_from(
                bucket,
                SOURCE,
                etag=etag,
                key=COPY,
                upload_id=upload_id,
                number=number,
                offset=(number - 1) * parts.part_size,
                length=parts.size_of(number),
                timeout_seconds=300,
            )
        return number, part.etag

    copied = await asyncio.gather(*(copy(number) for number in range(1, parts.count + 1)))
    await bucket.complete_upload(COPY, upload_id, copied, timeout_seconds=120)
