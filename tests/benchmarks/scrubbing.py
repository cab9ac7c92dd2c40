"""The scrub: bytes per second of processor time, and what it costs other requests.

The reference of the first is a direct GET of each object through `openssl dgst`. The start of the
command is measured apart, by a run that has nothing to read, and subtracted.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import asyncpg

from service.queries import locks
from tests.benchmarks.declaring import make_declare
from tests.benchmarks.downloading import upload
from tests.benchmarks.figures import Figure, Series, alternate, compare_rates, compare_times
from tests.benchmarks.ground import Ground, Site
from tests.benchmarks.hand import curl
from tests.benchmarks.large import MIB
from tests.benchmarks.load import drive, send
from tests.e2e.commands import clean_environment
from tests.support.environments import make_environment
from tests.support.servers import wait_until

FILE_BYTES: Final = 256 * MIB
NO_LIMIT: Final = "1TiB"
DEFAULT_RATE: Final = "20MiB"
LEAST_RATIO: Final = 0.9
IS_LOCKED: Final = """
    SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid::bigint = $1)
"""
NOTHING_FOUND: Final = "0 files damaged, 0 damaged still, 0 whole again\n"


def measure(ground: Ground) -> list[Figure]:
    files, rounds = ground.choose(8, 2), ground.choose(5, 1)
    with ground.new_site() as site:
        site.start_api()
        stored = [upload(site, ground.choose(FILE_BYTES, 32 * MIB)) for _ in range(files)]
        size = sum(file["size"] for file in stored)
        start = Series(tuple(run_scrub(site) for _ in range(3))).median
        found = alternate(
            {
                "assay": lambda: size / MIB / (run_scrub(site, "--all") - start),
                "direct": lambda: size / MIB / sum(digest(site, file) for file in stored),
            },
            rounds=rounds,
        )
    return [
        compare_rates(
            f"scrub of {files} files of {size // files // MIB} MiB",
            "a direct GET of each by curl into `openssl dgst -sha256`",
            found["assay"],
            found["direct"],
            unit="MiB per second of processor time",
            least=LEAST_RATIO,
        )
    ]


def measure_beside(ground: Ground) -> list[Figure]:
    """Compare declarations and a download with and without a scrub at its default rate."""
    count, rounds = ground.choose(3000, 300), ground.choose(7, 1)
    with ground.new_site() as site:
        site.start_api("--no-worker")
        worker, stop_worker = site.start_worker_alone()
        assert worker
        stored = [upload(site, ground.choose(FILE_BYTES, 64 * MIB)) for _ in range(4)]
        stop_worker()
        declare = [send(make_declare(site, f"{site.url}/files"), expected=201)] * count
        declaring = partial(drive, declare, [site.url])
        download = partial(curl, f"{site.url}/files/{stored[0]['id']}", headers=site.headers)
        declared = alternate(
            {"beside": beside_scrub(site, declaring), "alone": declaring}, rounds=rounds
        )
        fetched = alternate(
            {"beside": beside_scrub(site, download), "alone": download}, rounds=rounds
        )
    return [
        compare_rates(
            f"declare while a scrub reads {DEFAULT_RATE}/s",
            "the same without a scrub",
            declared["beside"],
            declared["alone"],
            unit="/s",
            least=LEAST_RATIO,
        ),
        compare_times(
            f"download of {stored[0]['size'] // MIB} MiB while a scrub reads {DEFAULT_RATE}/s",
            "the same without a scrub",
            fetched["beside"],
            fetched["alone"],
            least=LEAST_RATIO,
        ),
    ]


def run_scrub(site: Site, *arguments: str) -> float:
    """Run `assay scrub` without a limit of its rate, and return its seconds of processor time."""
    before = os.times()
    done = subprocess.run(
        scrub_command(*arguments, rate=NO_LIMIT),
        env=make_scrub_environment(site),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, NOTHING_FOUND), done.stdout + done.stderr
    return children_seconds(before, os.times())


def digest(site: Site, file: Any) -> float:
    """Return the seconds of processor time of curl and openssl for one object."""
    url = site.hand.sign("GET", file["minio_object_name"], bucket=site.settings.vault_bucket)
    before = os.times()
    with subprocess.Popen(["curl", "-sK", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as (
        reading
    ):
        assert reading.stdin is not None
        with reading.stdin as config:
            config.write(f'url = "{url}"\n'.encode())
        done = subprocess.run(
            ["openssl", "dgst", "-sha256"], stdin=reading.stdout, capture_output=True, check=True
        )
    assert file["hash"] in done.stdout.decode()
    return children_seconds(before, os.times())


def children_seconds(before: os.times_result, after: os.times_result) -> float:
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def beside_scrub(site: Site, side: Callable[[], float]) -> Callable[[], float]:
    """Return the same side, with a scrub at the default rate beside it."""

    def run() -> float:
        with scrubbing(site):
            return side()

    return run


@contextmanager
def scrubbing(site: Site) -> Iterator[None]:
    """Run a scrub of everything until the end of the block. It must not end before."""
    with subprocess.Popen(
        scrub_command("--all", rate=DEFAULT_RATE),
        env=make_scrub_environment(site),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_until(lambda: asyncio.run(has_begun(site)))
        yield
        assert process.poll() is None, "the scrub ended during the measurement"
        process.terminate()


async def has_begun(site: Site) -> bool:
    """Return whether a scrub holds its lock."""
    connection = await asyncpg.connect(site.settings.database_url)
    try:
        return bool(await connection.fetchval(IS_LOCKED, locks.SCRUB & 0xFFFFFFFF))
    finally:
        await connection.close()


def scrub_command(*arguments: str, rate: str) -> list[str]:
    return [sys.executable, "-m", "service", "scrub", "--rate", rate, *arguments]


def make_scrub_environment(site: Site) -> dict[str, str]:
    return {**clean_environment(), **make_environment(site.settings)}
