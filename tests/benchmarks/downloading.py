"""The speed of one large download, and the memory of two hundred slow ones.

The references are a download from the store and the memory before.
"""

import asyncio
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx
import uvloop

from service.http.budget import THREADS
from tests.benchmarks.figures import Figure, alternate, compare_times
from tests.benchmarks.ground import GIB, Ground, Site
from tests.benchmarks.hand import check_answer, curl
from tests.benchmarks.large import MIB, make_file
from tests.benchmarks.load import make_request
from tests.support.processes import (
    count_threads,
    read_peak_bytes,
    read_resident_bytes,
    reset_peak,
)

READERS = 200
OTHER_THREADS = 4
"""The threads that send requests to the store and verify."""
MOST_GROWTH_MIB = 64
RECEIVE_BUFFER_BYTES = 64 * 1024
BYTES_A_SECOND = 256 * 1024


# One large download


def measure_speed(ground: Ground) -> list[Figure]:
    size, rounds = ground.choose(GIB, 64 * MIB), ground.choose(9, 2)
    with ground.new_site() as site:
        site.start_api()
        file = upload(site, size)
        direct = site.hand.sign("GET", file["minio_object_name"], bucket=site.settings.vault_bucket)
        assay = partial(curl, f"{site.url}/files/{file['id']}", headers=site.headers)
        found = alternate({"assay": assay, "direct": partial(curl, direct)}, rounds=rounds)
    work = f"download of {size // MIB:,} MiB"
    return [
        compare_times(
            work,
            "a direct GET of the same object, both by curl",
            found["assay"],
            found["direct"],
            least=0.9,
        )
    ]


def upload(site: Site, size: int) -> Any:
    body = make_file(site.ground.folder / "download.bin", size)
    declared = site.declare(size)
    curl(declared["upload"]["url"], headers=declared["upload"]["headers"], body=body)
    body.unlink()
    return site.complete(declared["file"]["id"])


# Many slow downloads


@dataclass(frozen=True)
class Observed:
    """The number of threads of the process, and the time of another client's download."""

    threads: int
    download_seconds: float


def measure_memory(ground: Ground) -> list[Figure]:
    size, seconds = ground.choose(256 * MIB, 32 * MIB), ground.choose(45, 12)
    with ground.new_site() as site:
        pid = site.start_api()
        slow, other = upload(site, size), upload(site, MIB)
        alone = look(site, other, pid=pid)  # also warms up the process
        curl(f"{site.url}/files/{slow['id']}", headers=site.headers)
        before, threads_before = read_resident_bytes(pid), count_threads(pid)
        reset_peak(pid)
        observed, read = uvloop.run(read_slowly(site, slow, other, pid=pid, seconds=seconds))
        growth = (read_peak_bytes(pid) - before) / MIB
    assert min(read) > MIB, f"a reader got {min(read)} bytes"
    work = f"{READERS} slow downloads of {size // MIB} MiB at once"
    met = growth < MOST_GROWTH_MIB
    most_threads = threads_before + THREADS + OTHER_THREADS
    return [
        Figure(
            work,
            "memory before",
            f"+ {growth:.1f} MiB at most",
            f"{before / MIB:.0f} MiB",
            "",
            f"< {MOST_GROWTH_MIB} MiB",
            met,
        ),
        Figure(
            work,
            "threads before",
            f"{observed.threads}",
            f"{threads_before}",
            "",
            f"≤ {most_threads}, none per reader",
            observed.threads <= most_threads,
        ),
        Figure(
            "a download of 1 MiB meanwhile",
            "the same download alone",
            *show_times(observed.download_seconds, alone.download_seconds),
            "",
            None,
        ),
    ]


def show_times(assay: float, alone: float) -> tuple[str, str, str]:
    return f"{assay * 1000:.0f} ms", f"{alone * 1000:.0f} ms", f"{alone / assay:.2f}"


def look(site: Site, other: Any, *, pid: int) -> Observed:
    begun = time.perf_counter()
    answer = httpx.get(f"{site.url}/files/{other['id']}", headers=site.headers, timeout=60)
    seconds = time.perf_counter() - begun
    check_answer(answer, 200)
    return Observed(count_threads(pid), seconds)


async def read_slowly(
    site: Site, slow: Any, other: Any, *, pid: int, seconds: float
) -> tuple[Observed, list[int]]:
    """Return what was observed towards the end, and the number of bytes that each reader got."""
    until = asyncio.get_running_loop().time() + seconds
    request = make_request("GET", f"{site.url}/files/{slow['id']}", headers=site.headers)
    readers = [
        asyncio.create_task(read_one(site.url, request, until=until)) for _ in range(READERS)
    ]
    await asyncio.sleep(seconds * 0.8)
    observed = await asyncio.to_thread(partial(look, site, other, pid=pid))
    return observed, await asyncio.gather(*readers)


async def read_one(url: str, request: bytes, *, until: float) -> int:
    """Read slowly, with a small buffer in the kernel, and leave before the end.

    Return the number of bytes that were read.
    """
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        connection.setblocking(False)
        await loop.sock_connect(connection, (parts.hostname, parts.port))
        await loop.sock_sendall(connection, request)
        first = await loop.sock_recv(connection, BYTES_A_SECOND // 4)
        assert first.startswith(b"HTTP/1.1 200 "), first[:200]
        received = len(first)
        while loop.time() < until:
            received += len(await loop.sock_recv(connection, BYTES_A_SECOND // 4))
            await asyncio.sleep(0.25)
        return received
