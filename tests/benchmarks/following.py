"""500 clients connected to `/events`: their effect on declarations, and their memory.

The readers run in a separate process (`python -m tests.benchmarks.following URL`, with the keys on
standard input). Either each of them has its own files and gets no event, or all of them get an
event for every declaration.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO
from urllib.parse import urlsplit

import asyncpg
import uvloop

from service.auth.principals import make_key
from service.model import make_id
from tests.benchmarks.declaring import make_declare
from tests.benchmarks.figures import Figure, Series, alternate
from tests.benchmarks.ground import Ground
from tests.benchmarks.load import CLIENTS, drive, make_request, send
from tests.support.processes import read_peak_bytes, read_resident_bytes, reset_peak

READERS = 500
MOST_TIMES = 1.3
MIB = 1024**2


def measure(ground: Ground) -> list[Figure]:
    count, rounds, readers = (
        ground.choose(3000, 300),
        ground.choose(5, 2),
        ground.choose(READERS, 50),
    )
    with ground.new_site() as site:
        pid = site.start_api("--no-worker")
        keys = asyncio.run(make_keys(site.settings.database_url, readers))
        jobs = [send(make_declare(site, f"{site.url}/files"), expected=201)] * count
        rate = partial(drive, jobs, [site.url])
        rate()  # the first requests take memory that does not belong to the readers
        before = read_resident_bytes(pid)
        memory: dict[str, list[float]] = {"quiet": [], "told": []}

        def with_readers(name: str, of: Sequence[str], *, told: int) -> float:
            reset_peak(pid)
            with connected(site.url, of, told=told):
                found = rate()
            memory[name].append(read_peak_bytes(pid) / MIB)
            return found

        found = alternate(
            {
                "none": rate,
                "quiet": lambda: with_readers("quiet", keys, told=0),
                "told": lambda: with_readers("told", [site.key] * readers, told=count * readers),
            },
            rounds=rounds,
        )
    figures = []
    for name, what in (("quiet", "other files"), ("told", "these files")):
        work = f"declare, {CLIENTS} clients, with {readers} subscribers to {what}"
        figures.append(compare(work, found["none"], found[name]))
        figures.append(weigh(work, Series(tuple(memory[name])), before=before / MIB))
    return figures


def compare(work: str, none: Series, assay: Series) -> Figure:
    ratio = none.over(assay)
    return Figure(
        work,
        "no subscribers",
        f"{assay.show(0)} /s",
        f"{none.show(0)} /s",
        ratio.show(),
        f"≤ {MOST_TIMES}",
        ratio.median <= MOST_TIMES,
    )


def weigh(work: str, peaks: Series, *, before: float) -> Figure:
    ratio = Series(tuple(peak / before for peak in peaks.values))
    met = ratio.median <= MOST_TIMES
    return Figure(
        f"{work}: memory",
        "memory before the subscribers",
        f"{peaks.show(0)} MiB",
        f"{before:.0f} MiB",
        ratio.show(),
        f"≤ {MOST_TIMES}",
        met,
    )


async def make_keys(database_url: str, count: int) -> list[str]:
    """Insert `count` keys, each with its own owner, and return them."""
    made = [make_key() for _ in range(count)]
    connection = await asyncpg.connect(database_url)
    try:
        await connection.executemany(
            "INSERT INTO api_keys (id, owner, name, secret_sha256, scopes)"
            " VALUES ($1, $2, 'benchmark', $3, '{read}')",
            [
                (make_id(), f"reader-{number}", secret.digest)
                for number, (_, secret) in enumerate(made)
            ],
        )
    finally:
        await connection.close()
    return [text for text, _ in made]


@contextmanager
def connected(url: str, keys: Sequence[str], *, told: int) -> Iterator[None]:
    """Connect a reader for each key, and end them after `told` events in all have arrived."""
    command = [sys.executable, "-m", "tests.benchmarks.following", url, str(told)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("\n".join(keys) + "\n\n")
        process.stdin.flush()
        expect_line(process.stdout, "connected")
        yield
        expect_line(process.stdout, "told")
    finally:
        process.kill()
        process.wait()


def expect_line(said: IO[str], expected: str) -> None:
    """Read the next line of the readers' process. Raises AssertionError if it is another one.

    The process prints its errors to standard error.
    """
    line = said.readline()
    assert line == f"{expected}\n", f"the readers' process said {line!r} instead of {expected!r}"


class Reader(asyncio.Protocol):
    """A reader of one event stream, which counts the events."""

    def __init__(self, begun: "asyncio.Future[None]") -> None:
        self.begun = begun
        self.events = 0
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        if not self.begun.done():
            if data.startswith(b"HTTP/1.1 200 "):
                self.begun.set_result(None)
            else:
                self.begun.set_exception(AssertionError(f"not an event stream: {data[:500]!r}"))
        text = self.rest + data
        self.events += text.count(b"\nevent: transition\n")
        self.rest = text[-len(b"\nevent: transition") :]


async def read_all(url: str, keys: Sequence[str], told: int) -> None:
    loop = asyncio.get_running_loop()
    address = urlsplit(url)
    readers = [Reader(loop.create_future()) for _ in keys]
    waiting = list(readers)
    for key in keys:
        reader = waiting[-1]
        transport, _ = await loop.create_connection(
            waiting.pop, address.hostname or "", address.port or 80
        )
        transport.write(
            make_request("GET", f"{url}/events", headers={"Authorization": f"Bearer {key}"})
        )
        await reader.begun
    print("connected", flush=True)
    while sum(reader.events for reader in readers) < told:  # noqa: ASYNC110  # a count is polled
        await asyncio.sleep(0.05)
    print("told", flush=True)
    await asyncio.sleep(3600)  # until the parent process kills this one


if __name__ == "__main__":
    uvloop.run(
        read_all(
            sys.argv[1], list(iter(lambda: sys.stdin.readline().strip(), "")), int(sys.argv[2])
        )
    )
