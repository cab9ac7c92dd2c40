"""1 GiB: the PUT to a declared URL, and its verification.

The references are the same steps by hand, in the same rounds.
"""

import asyncio
import hashlib
import os
import subprocess
import time
from functools import partial
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx

from tests.benchmarks.figures import Figure, Series, compare_times
from tests.benchmarks.ground import GIB, Ground, Site
from tests.benchmarks.hand import check_answer, curl
from tests.support.processes import read_cpu_seconds
from tests.support.servers import wait_until

MIB = 1024**2
MOST_CPU_MILLISECONDS = 10


def measure(ground: Ground) -> list[Figure]:
    size, rounds = ground.choose(GIB, 64 * MIB), ground.choose(5, 2)
    body = make_file(ground.folder / "large.bin", size)
    digest = hash_file(body)
    found: dict[str, list[float]] = {
        name: [] for name in ("put", "cpu", "proof", "plain put", "by hand")
    }
    with ground.new_site() as site:
        sides = [
            partial(upload, site, body, pids=[site.start_api()], digest=digest),
            partial(upload_by_hand, site, body),
        ]
        for number in range(rounds + 1):
            for side in sides if number % 2 else sides[::-1]:
                os.sync()  # flush what the other side has written
                for name, value in side().items():
                    found[name] += [value] if number else []
    body.unlink()
    series = {name: Series(tuple(values)) for name, values in found.items()}
    return [*describe_put(series, size), describe_proof(series, size)]


def describe_put(found: dict[str, Series], size: int) -> list[Figure]:
    work = f"PUT of {size // MIB:,} MiB through a declared URL"
    cpu = found["cpu"]
    met = cpu.median < MOST_CPU_MILLISECONDS
    return [
        compare_times(
            work,
            "the same PUT with a plain presigned URL",
            found["put"],
            found["plain put"],
            least=0.97,
        ),
        Figure(
            work,
            "CPU time of Assay's processes until `complete`",
            f"{cpu.show(1)} ms",
            "",
            "",
            f"< {MOST_CPU_MILLISECONDS} ms",
            met,
        ),
    ]


def describe_proof(found: dict[str, Series], size: int) -> Figure:
    work = f"verification of {size // MIB:,} MiB, `complete` → `ready`"
    against = "the store's own copy, then the longer of a direct GET and `openssl dgst -sha256`"
    return compare_times(work, against, found["proof"], found["by hand"], least=0.8)


def make_file(path: Path, size: int) -> Path:
    """Write a file of random bytes, and return when it is on the disk."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    os.sync()
    return path


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def upload(site: Site, body: Path, *, pids: list[int], digest: str) -> dict[str, float]:
    """Return the seconds of the PUT and of the proof, and the milliseconds of CPU time.

    The CPU time is measured from after the declaration until the end of the PUT.
    """
    declared = site.declare(body.stat().st_size)
    begun_cpu = read_cpu_seconds(pids)
    put = curl(declared["upload"]["url"], headers=declared["upload"]["headers"], body=body)
    cpu = read_cpu_seconds(pids) - begun_cpu
    begun = time.perf_counter()
    file = site.complete(declared["file"]["id"])
    proof = time.perf_counter() - begun
    assert file["hash"] == digest
    forget(site, file)
    return {"put": put, "cpu": cpu * 1000, "proof": proof}


def forget(site: Site, file: dict[str, str]) -> None:
    """Delete the file, and wait until its objects are gone from both buckets."""
    site.call("DELETE", f"/files/{file['id']}")
    settings = site.settings
    key = asyncio.run(find_incoming_key(settings.database_url, file["id"]))
    for bucket, name in (
        (settings.vault_bucket, file["minio_object_name"]),
        (settings.incoming_bucket, key),
    ):
        wait_until(partial(is_gone, site.hand.sign("HEAD", name, bucket=bucket)), seconds=90)


def is_gone(url: str) -> bool:
    return httpx.head(url).status_code == 404


async def find_incoming_key(database_url: str, file_id: str) -> str:
    connection = await asyncpg.connect(database_url)
    try:
        key: str = await connection.fetchval(
            "SELECT incoming_key FROM files WHERE id = $1", UUID(file_id)
        )
    finally:
        await connection.close()
    return key


def upload_by_hand(site: Site, body: Path) -> dict[str, float]:
    hand = site.hand
    put = curl(hand.sign("PUT", "plain"), body=body)
    begun = time.perf_counter()
    url, headers = hand.sign_copy("plain", "copied")
    copied = httpx.put(url, headers=headers, timeout=300)
    copy = time.perf_counter() - begun
    check_answer(copied, 200)
    get = curl(hand.sign("GET", "copied"))
    hashed = time_hash(body)
    for key in ("plain", "copied"):
        check_answer(httpx.delete(hand.sign("DELETE", key), timeout=90), 204)
    return {"plain put": put, "by hand": copy + max(get, hashed)}


def time_hash(path: Path) -> float:
    begun = time.perf_counter()
    subprocess.run(["openssl", "dgst", "-sha256", path], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun
