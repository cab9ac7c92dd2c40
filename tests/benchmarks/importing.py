"""The import of objects of 16 KiB from another bucket of the store.

The reference consists of the store's own copies, eight at once, sent by hand.
"""

import io
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import uvloop

from tests.benchmarks.figures import Figure, Series, compare_rates
from tests.benchmarks.ground import Ground, Site
from tests.benchmarks.load import Connection, Job, check, run_jobs
from tests.e2e.commands import clean_environment
from tests.support.environments import make_environment
from tests.support.stores import root_sdk

SIZE = 16 * 1024
AT_ONCE = 8
LEAST_RATIO = 0.6


def measure(ground: Ground) -> list[Figure]:
    count, rounds = ground.choose(20_000, 200), ground.choose(2, 1)
    with ground.new_site() as site:
        fill(site, count)
        imported, copied = [], []
        for number in range(rounds):
            imported.append(count / import_all(site, count, owner=f"round-{number}"))
            copied.append(count / uvloop.run(copy_all(site, count)))
    return [
        compare_rates(
            f"import of {count:,} objects of 16 KiB",
            f"the store's own copies, {AT_ONCE} at once",
            Series(tuple(imported)),
            Series(tuple(copied)),
            unit="files/s",
            least=LEAST_RATIO,
        )
    ]


def fill(site: Site, count: int) -> None:
    """Put the objects into the bucket of the reference."""
    sdk, body = root_sdk(site.deployment), os.urandom(SIZE)

    def put(number: int) -> None:
        sdk.put_object(site.hand.bucket, f"photos/{number:06}", io.BytesIO(body), SIZE)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(put, range(count)))


def import_all(site: Site, count: int, *, owner: str) -> float:
    """Run `assay import` and return its seconds."""
    environ = {
        **clean_environment(),
        **make_environment(site.settings),
        "ASSAY_S3_IMPORT_ACCESS_KEY": site.deployment.s3_root_access_key,
        "ASSAY_S3_IMPORT_SECRET_KEY": site.deployment.s3_root_secret_key,
    }
    command = ["import", f"s3://{site.hand.bucket}/photos/", "--owner", owner]
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "service", *command],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    assert done.stdout.startswith(f"{count} files imported"), done.stdout + done.stderr
    return seconds


async def copy_all(site: Site, count: int) -> float:
    def make_job(number: int) -> Job:
        request = site.hand.copy(f"photos/{number:06}", f"copies/{uuid4()}")

        async def copy(connections: Sequence[Connection]) -> None:
            check(await connections[0].exchange(request), 200)

        return copy

    jobs = list(map(make_job, range(count)))
    return await run_jobs(jobs, [site.settings.s3_endpoint], clients=AT_ONCE)
