"""Tests that flood a separate server process.

Its memory must not grow, and it must answer other clients during the flood.
"""

import contextlib
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.embedded.processes import answers
from tests.e2e.commands import started
from tests.e2e.conftest import Api
from tests.e2e.hostile_http.cases import CHUNKED, HOST, KIB, get, head
from tests.e2e.hostile_http.site import Site, check_answer
from tests.support.environments import make_environment
from tests.support.processes import read_cpu_seconds, read_peak_bytes, read_resident_bytes
from tests.support.servers import free_port, wait_until
from tests.support.wire import ANSWER_SECONDS, Silence, Wire, connected

MIB = KIB**2
FLAT_BYTES = 8 * MIB
"""The most memory that four concurrent floods may add. At most 1 MiB was measured."""
HELD_BYTES = 32 * MIB
"""The most memory that IDLE connections, or incomplete heads up to their limit, may add.

17 MiB was measured.
"""
MOST_CPU_SECONDS = 1.5
"""The most CPU time that the server may use before it answers a probe during a flood.

Without a limit on heads, it used 3.4 s. Without a flood, it uses 5 ms. CPU time is measured because
it does not depend on the load of the machine.
"""
STALLED_SECONDS = 0.5
"""The time after which a flood stops sending to a server that no longer reads."""
IDLE = 2000
BEYOND = 200


@dataclass(frozen=True)
class Process:
    """An `assay serve` with default settings, except for the number of connections."""

    url: str
    pid: int


@pytest.fixture(scope="module")
def process(one_api: Api, site: Site, folder: Path) -> Iterator[Process]:
    port = free_port()
    arguments = ["serve", "--host", "127.0.0.1", "--port", str(port), "--no-worker"]
    environ = {**make_environment(one_api.settings), "ASSAY_MAX_CONNECTIONS": str(IDLE)}
    environ["ASSAY_KEEP_ALIVE"] = "10m"
    with started(arguments, folder / f"floods-{port}.log", environ=environ) as running:
        wait_until(lambda: answers(port, "/health/ready", host="127.0.0.1", status=200))
        yield Process(f"http://127.0.0.1:{port}", running.pid)


FLOODS: dict[str, tuple[Sequence[bytes], set[int]]] = {
    "a field of 40 MiB": ([get(HOST)[:-2] + b"X-A: ", *[b"a" * MIB] * 40], {431}),
    "5 MB of short fields": ([get(HOST)[:-2], b"a:b\r\n" * MIB], {431}),
    "40 MiB of a request line": ([b"GET /", *[b"a" * MIB] * 40], {414, 431}),
    "40 MiB of empty lines": ([b"\r\n" * (MIB // 2)] * 40, {400, 431}),
    "40 MiB that are not HTTP": ([b"\x00" * MIB] * 40, {400, 431}),
    "40 MiB behind a refused upload": (
        [head(b"POST /files/upload?filename=a HTTP/1.1", HOST, b"Content-Length: %d" % (40 * MIB))]
        + [b"a" * MIB] * 40,
        {401},
    ),
    "5 MB of chunks of one byte": (
        [head(b"POST /files/upload?filename=a HTTP/1.1", HOST, CHUNKED), b"1\r\na\r\n" * MIB],
        {401},
    ),
}


def flood(url: str, segments: Sequence[bytes], statuses: set[int]) -> None:
    """Send the segments until the server stops reading, and check its one response."""
    with Wire(url, seconds=STALLED_SECONDS) as wire:
        with contextlib.suppress(Silence):
            for segment in segments:
                if not wire.write(segment):
                    break
        wire.seconds = ANSWER_SECONDS
        check_answer(wire.read_answer(), frozenset(statuses))


@pytest.mark.parametrize("name", FLOODS)
def test_floods_do_not_block_other_connections(process: Process, name: str) -> None:
    flood(process.url, *FLOODS[name])  # later floods reuse the memory that this one allocates
    before = reset_peak(process.pid)
    slowest = probe_during(process, [lambda: flood(process.url, *FLOODS[name])] * 4)
    assert slowest < MOST_CPU_SECONDS
    assert read_peak_bytes(process.pid) - before < FLAT_BYTES


def reset_peak(pid: int) -> int:
    """Reset the kernel's record of the process's peak memory, and return its current memory."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return read_resident_bytes(pid)


def probe_during(process: Process, jobs: Sequence[Callable[[], None]]) -> float:
    """Run the jobs concurrently, and return the CPU seconds of the slowest probe meanwhile."""
    failures: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # it is raised again in the test's thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    slowest = probe(process)
    while any(thread.is_alive() for thread in threads):
        slowest = max(slowest, probe(process))
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return slowest


def probe(process: Process) -> float:
    """Send one request, and return the CPU seconds that the server used until it answered."""
    before = read_cpu_seconds([process.pid])
    with Wire(process.url) as wire:
        wire.check_in_step()
    return read_cpu_seconds([process.pid]) - before


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """Raise this process's limit of open files to its maximum."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_idle_connections_cost_little_and_have_a_limit(process: Process) -> None:
    """Open as many connections as the setting allows, send one request on each, and open more."""
    before = reset_peak(process.pid)
    with many_files(), contextlib.ExitStack() as stack:
        wires = []
        for _ in range(IDLE):  # The first request of a connection has to arrive within 15 s.
            wires.append(stack.enter_context(Wire(process.url)))
            wires[-1].check_in_step()
        assert read_peak_bytes(process.pid) - before < HELD_BYTES
        with connected(process.url, BEYOND) as newer:
            for wire in newer:
                wire.check_in_step()
            for wire in wires[:BEYOND]:
                wire.check_closed()
            for wire in wires[BEYOND:]:
                wire.check_in_step()
            assert read_peak_bytes(process.pid) - before < HELD_BYTES


def test_incomplete_heads_share_one_memory_limit(process: Process) -> None:
    """Open 1,000 connections, and send 60 KiB of an incomplete head on each."""
    before = reset_peak(process.pid)
    with many_files(), connected(process.url, 1000) as wires:
        for wire in wires:
            wire.write(get(HOST)[:-2] + b"X-A: " + b"a" * 60 * KIB)
        assert probe(process) < MOST_CPU_SECONDS
        assert read_peak_bytes(process.pid) - before < HELD_BYTES
