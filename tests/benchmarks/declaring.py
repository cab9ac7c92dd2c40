"""Declarations per second, by 16 clients.

The references are a bare Litestar route that runs the same two statements, asyncpg alone, an empty
route, and Assay with URLs that forbid no headers. The last one is a second API that runs beside the
first. `measure_signing` compares them with the library by which Uppy's Companion signs URLs.
"""

import asyncio
import hashlib
import secrets
import shutil
import subprocess
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec
import uvloop

from service import database
from service.queries import files
from tests.benchmarks.figures import Figure, alternate, compare_rates
from tests.benchmarks.ground import Ground, NotPossible, Site
from tests.benchmarks.load import CLIENTS, drive, make_request, send

DECLARATION = {"filename": "photo.jpg", "size": 482113, "content_type": "image/jpeg"}


FORBIDS: Final = b"&x-minio-source-replication-request=%7F&X-Amz-Signature="
FORBIDS_NOTHING: Final = (
    b"&X-Amz-SignedHeaders=content-length%3Bcontent-type%3Bhost%3Bif-none-match&X-Amz-Signature="
)


def measure(ground: Ground) -> list[Figure]:
    count, rounds = ground.choose(3000, 300), ground.choose(9, 2)
    with ground.new_site() as site:
        api = site.start_api("--no-worker")
        unbound = site.start_another_api({"ASSAY_S3_BIND_ABSENT_HEADERS": "no"})
        bare, neighbour = site.start_neighbour("bare")
        costs = site.measure_costs(API=api, route=neighbour)
        assay, reference = (
            make_declare(site, f"{site.url}/files"),
            make_declare(site, f"{bare}/declare"),
        )
        without = make_declare(site, f"{unbound}/files")
        empty = make_request("GET", f"{bare}/empty")
        found = alternate(
            {
                "assay": costs.measure(
                    "assay",
                    partial(drive, [send(assay, expected=201, holds=FORBIDS)] * count, [site.url]),
                    jobs=count,
                ),
                "without": partial(
                    drive, [send(without, expected=201, holds=FORBIDS_NOTHING)] * count, [unbound]
                ),
                "bare": costs.measure(
                    "bare",
                    partial(
                        drive,
                        [send(reference, expected=201, holds=b'"created_at":')] * count,
                        [bare],
                    ),
                    jobs=count,
                ),
                "insert": partial(insert_rows, site, count),
                "empty": partial(drive, [send(empty, expected=200)] * count, [bare]),
            },
            rounds=rounds,
        )
    work = f"declare, {CLIENTS} clients"
    return [
        compare_rates(
            work,
            "a bare Litestar route that runs the same two statements",
            found["assay"],
            found["bare"],
            unit="/s",
            least=1.0,
            costs=(costs.show("assay"), costs.show("bare")),
        ),
        compare_rates(
            work,
            "the same, with URLs that forbid no headers",
            found["assay"],
            found["without"],
            unit="/s",
            least=None,
        ),
        compare_rates(
            work,
            "INSERT … RETURNING alone through asyncpg",
            found["assay"],
            found["insert"],
            unit="/s",
            least=None,
        ),
        compare_rates(
            work, "Litestar's empty route", found["assay"], found["empty"], unit="/s", least=None
        ),
    ]


def measure_signing(ground: Ground) -> list[Figure]:
    """Compare declarations with signatures alone. Raises NotPossible without Node.js and npm."""
    count, rounds = ground.choose(3000, 300), ground.choose(7, 2)
    library = install_library(ground.folder / "companion")
    with ground.new_site() as site:
        site.start_api("--no-worker")
        declare = make_declare(site, f"{site.url}/files")
        found = alternate(
            {
                "assay": partial(drive, [send(declare, expected=201)] * count, [site.url]),
                "sign": partial(sign_all, library, site.settings.s3_endpoint, count),
            },
            rounds=rounds,
        )
    return [
        compare_rates(
            f"declare, {CLIENTS} clients",
            "Companion's signing of a PUT URL, as a library in one Node.js process, without a row",
            found["assay"],
            found["sign"],
            unit="/s",
            least=3.0,
        )
    ]


def install_library(folder: Path) -> Path:
    """Install the library of `companion/package.json`, and return the script that uses it."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise NotPossible("`sign` needs Node.js and npm on the PATH.")
    shutil.copytree(Path(__file__).parent / "companion", folder)
    options = ["--no-package-lock", "--no-audit", "--no-fund", "--silent"]
    subprocess.run([npm, "install", *options], cwd=folder, check=True)
    return folder / "sign.js"


def sign_all(script: Path, endpoint: str, count: int) -> float:
    command = ["node", str(script), endpoint, str(count), str(CLIENTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def make_declare(site: Site, url: str) -> bytes:
    headers = site.headers | {"Content-Type": "application/json"}
    return make_request("POST", url, headers=headers, body=msgspec.json.encode(DECLARATION))


def insert_rows(site: Site, count: int) -> float:
    """Return the rows per second, with CLIENTS coroutines and a pool of the service's size."""
    return uvloop.run(insert_all(site, count))


async def insert_all(site: Site, count: int) -> float:
    arguments: tuple[Any, ...] = (
        "photo.jpg",
        482113,
        "image/jpeg",
        hashlib.sha256(b"photo").digest(),
        {},
    )
    async with await database.open_pool(site.settings) as pool:

        async def insert_some() -> None:
            for _ in range(count // CLIENTS):
                ends = (timedelta(hours=24), timedelta(minutes=15))
                row = await pool.fetchrow(
                    files.DECLARE,
                    uuid4(),
                    "benchmark",
                    *arguments,
                    secrets.token_hex(16),
                    *ends,
                    None,
                )
                assert row["state"] == "pending", row

        # Open all connections of the pool before the clock starts.
        await asyncio.gather(*(pool.fetchval("SELECT pg_sleep(0.05)") for _ in range(CLIENTS)))
        begun = time.perf_counter()
        await asyncio.gather(*(insert_some() for _ in range(CLIENTS)))
        return count // CLIENTS * CLIENTS / (time.perf_counter() - begun)
