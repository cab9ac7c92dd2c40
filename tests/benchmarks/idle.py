"""The memory of the API under idle connections and under heads that do not end.

1. 5,000 connections send one request each, with a head of nearly 64 KiB, and stay open.
2. As many connections each send most of a head, and never its end.
3. 200 connections each send 40 MiB of one header field, as fast as the server takes it.

During 2 and 3, the time of another client's `GET /health/live` is measured.
"""

import asyncio
import resource
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import uvloop

from tests.benchmarks.figures import Figure, find_percentile
from tests.benchmarks.ground import Ground, is_ready, started
from tests.benchmarks.hand import check_answer
from tests.benchmarks.large import MIB
from tests.benchmarks.load import check, connect, make_request
from tests.support.environments import make_environment
from tests.support.processes import (
    read_cpu_seconds,
    read_peak_bytes,
    read_resident_bytes,
    reset_peak,
)
from tests.support.servers import free_port, wait_until

CONNECTIONS = 5000
MOST_GROWTH_MIB = 64
FLOODS = 200
FLOOD_BYTES = 40 * MIB
AT_ONCE = 100
PART_OF_A_HEAD = b"GET /health/live HTTP/1.1\r\nHost: h\r\nX-Long: " + b"a" * 60_000


@dataclass(frozen=True)
class Observed:
    """The memory of the API in MiB, and the seconds that another client waited."""

    before: float
    most: float
    waited: list[float]
    cpu: float
    """The processor seconds of the API."""

    @property
    def growth(self) -> float:
        return self.most - self.before


def measure(ground: Ground) -> list[Figure]:
    count, floods = ground.choose(CONNECTIONS, 500), ground.choose(FLOODS, 20)
    raise_file_limit(count + 500)
    with serving(ground, count + 100) as (url, pid):
        idle = observe(url, pid, lambda: hold_idle(url, count))
        heads = observe(url, pid, lambda: send_heads(url, count))
        flood = observe(url, pid, lambda: flood_all(url, floods))
    each = idle.growth * 1024 / count
    return [
        describe(f"{count:,} idle connections ({each:.1f} KiB each)", idle),
        describe(
            f"{count:,} connections with {len(PART_OF_A_HEAD) // 1024} KiB of a head each", heads
        ),
        show_wait("`GET /health/live` meanwhile, p99", heads),
        describe(
            f"{floods} connections that send {FLOOD_BYTES // MIB} MiB of a header field each", flood
        ),
        show_wait("`GET /health/live` during the flood, p99", flood),
    ]


def describe(work: str, seen: Observed) -> Figure:
    met = seen.growth < MOST_GROWTH_MIB
    return Figure(
        work,
        "memory before",
        f"+ {seen.growth:.1f} MiB at most",
        f"{seen.before:.0f} MiB",
        "",
        f"< {MOST_GROWTH_MIB} MiB",
        met,
    )


def show_wait(work: str, seen: Observed) -> Figure:
    waited = (
        f"{find_percentile(seen.waited, 99) * 1000:.0f} ms (most {max(seen.waited) * 1000:.0f})"
    )
    return Figure(work, "", f"{waited}; {seen.cpu:.2f} s of processor time", "", "", "", None)


def raise_file_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= wanted, (
        f"ulimit -Hn is {hard}, but {wanted} file descriptors are needed"
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


@contextmanager
def serving(ground: Ground, connections: int) -> Iterator[tuple[str, int]]:
    """Run `assay serve --no-worker` with room for `connections`, and yield its URL and its pid."""
    url = f"http://127.0.0.1:{free_port()}"
    with ground.new_site() as site:
        environ = make_environment(site.settings) | {"ASSAY_MAX_CONNECTIONS": str(connections)}
        arguments = (
            "serve",
            "--no-worker",
            "--host",
            "127.0.0.1",
            "--port",
            url.rpartition(":")[2],
        )
        with started(
            "service", *arguments, environ=environ, log=ground.folder / "processes.log"
        ) as process:
            wait_until(lambda: is_ready(url))
            yield url, process.pid


def observe(url: str, pid: int, work: Callable[[], Coroutine[Any, Any, None]]) -> Observed:
    """Run the work while another client, in its own thread, sends requests continuously."""
    before, cpu = read_resident_bytes(pid), read_cpu_seconds([pid])
    waited: list[float] = []
    end = threading.Event()
    reset_peak(pid)
    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(ask, url, waited, end)
        wait_until(lambda: bool(waited))
        try:
            uvloop.run(work())
        finally:
            end.set()
        asking.result()
    return Observed(before / MIB, read_peak_bytes(pid) / MIB, waited, read_cpu_seconds([pid]) - cpu)


def ask(url: str, waited: list[float], end: threading.Event) -> None:
    with httpx.Client(timeout=60) as client:
        while not end.wait(0.01):
            begun = time.perf_counter()
            check_answer(client.get(f"{url}/health/live"), 200)
            waited.append(time.perf_counter() - begun)


async def hold_idle(url: str, count: int) -> None:
    request = make_request("GET", f"{url}/health/live", headers={"X-Long": "a" * 60_000})
    clients = []
    for _ in range(0, count, AT_ONCE):
        some = await asyncio.gather(*(connect(url) for _ in range(AT_ONCE)))
        answers = await asyncio.gather(*(client.exchange(request) for client in some))
        for answer in answers:
            check(answer, 200)
        clients += some
    assert not any(client.transport.is_closing() for client in clients)
    for client in clients:
        client.transport.close()


async def send_heads(url: str, count: int) -> None:
    sockets = [await open_socket(url) for _ in range(count)]
    for one in sockets:
        await send_all(one, PART_OF_A_HEAD)
    for one in sockets:
        one.close()


async def flood_all(url: str, count: int) -> None:
    async def flood() -> None:
        with await open_socket(url) as one:
            await send_all(one, b"GET /health/live HTTP/1.1\r\nHost: h\r\nX-Long: ")
            for _ in range(FLOOD_BYTES // MIB):
                await send_all(one, b"a" * MIB)

    await asyncio.gather(*(flood() for _ in range(count)))


async def open_socket(url: str) -> socket.socket:
    parts = urlsplit(url)
    one = socket.socket()
    one.setblocking(False)
    await asyncio.get_running_loop().sock_connect(one, (parts.hostname, parts.port))
    return one


async def send_all(one: socket.socket, data: bytes) -> None:
    """Send the data. The server may close the connection, because it refuses an endless head."""
    try:
        await asyncio.get_running_loop().sock_sendall(one, data)
    except ConnectionError:
        return
