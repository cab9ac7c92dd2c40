"""The protocols of the HTTP server, each in its own process.

They are uvicorn's httptools and h11, and `service/http/server`. All of them are measured in every
round: declarations by 16 clients, 1 GiB to `POST /files/upload`, and 1 GiB from `GET /files/{id}`.
The figures are the time and the processor time of the API's process.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.benchmarks.declaring import make_declare
from tests.benchmarks.figures import Figure, Series
from tests.benchmarks.ground import GIB, Ground, Site
from tests.benchmarks.hand import check_answer, curl
from tests.benchmarks.large import MIB, make_file
from tests.benchmarks.load import CLIENTS, drive, send
from tests.support.processes import read_cpu_seconds
from tests.support.servers import free_port

SIDES = ("httptools", "h11", "assay")
Measured = dict[tuple[str, str], list[float]]


def measure(ground: Ground) -> list[Figure]:
    size, count, rounds = (
        ground.choose(GIB, 64 * MIB),
        ground.choose(2000, 200),
        ground.choose(5, 2),
    )
    body = make_file(ground.folder / "body.bin", size)
    with ground.new_site() as site:
        apis = {side: start(site, side) for side in SIDES}
        urls = {side: url for side, (url, _) in apis.items()}
        file = stream(urls["assay"], site, body)[1]
        works = {
            "declare": {side: partial(declare, site, url, count) for side, url in urls.items()},
            "upload": {side: partial(upload, site, url, body) for side, url in urls.items()},
            "download": {
                side: partial(curl, f"{url}/files/{file['id']}", headers=site.headers)
                for side, url in urls.items()
            },
        }
        pids = {side: pid for side, (_, pid) in apis.items()}
        found = {work: alternate(sides, pids, rounds=rounds) for work, sides in works.items()}
    body.unlink()
    names = {
        "declare": f"{count:,} declares, {CLIENTS} clients",
        "upload": f"`POST /files/upload` of {size // MIB:,} MiB",
        "download": f"download of {size // MIB:,} MiB",
    }
    return [figure for work, name in names.items() for figure in compare(name, found[work])]


def start(site: Site, side: str) -> tuple[str, int]:
    url = f"http://127.0.0.1:{free_port()}"
    return url, site.start("tests.benchmarks.neighbours", side, url.rpartition(":")[2], url=url)


def alternate(
    sides: Mapping[str, Callable[[], float]], pids: dict[str, int], *, rounds: int
) -> Measured:
    """Return the seconds, and the processor seconds of the API, of each side.

    Each round begins with another side. A first round warms up and does not count.
    """
    found: Measured = {(side, of): [] for side in sides for of in ("time", "cpu")}
    for number in range(rounds + 1):
        for side in [*SIDES, *SIDES][number % len(SIDES) :][: len(SIDES)]:
            before = read_cpu_seconds([pids[side]])
            seconds = sides[side]()
            if number:
                found[side, "time"].append(seconds)
                found[side, "cpu"].append(read_cpu_seconds([pids[side]]) - before)
    return found


def declare(site: Site, url: str, count: int) -> float:
    return count / drive([send(make_declare(site, f"{url}/files"), expected=201)] * count, [url])


def upload(site: Site, url: str, body: Path) -> float:
    """Upload the body and delete the object again. Return the seconds of the upload."""
    os.sync()  # flush what the other side has written
    seconds, file = stream(url, site, body)
    answer = httpx.delete(
        site.hand.sign("DELETE", file["minio_object_name"], bucket=site.settings.vault_bucket),
        timeout=60,
    )
    check_answer(answer, 204)
    return seconds


def stream(url: str, site: Site, body: Path) -> tuple[float, Any]:
    answer = site.ground.folder / "answer.json"
    address = f"{url}/files/upload?filename=benchmark.bin"
    seconds = curl(
        address, method="POST", headers=site.headers, body=body, target=answer, expected=201
    )
    listed = check_answer(httpx.get(f"{url}/files?limit=1", headers=site.headers, timeout=60), 200)
    return seconds, listed.json()["files"][0]


def compare(work: str, found: Measured) -> list[Figure]:
    """Compare h11 and Assay with httptools. A ratio above 1 is a higher cost."""
    figures = []
    for of, name in (("time", ""), ("cpu", ": the API's processor time")):
        base = Series(tuple(found["httptools", of]))
        for side in ("h11", "assay"):
            mine = Series(tuple(found[side, of]))
            ratio = mine.over(base).show()
            figures.append(
                Figure(
                    f"{work}{name}, {side}",
                    "the same, httptools",
                    f"{mine.show()} s",
                    f"{base.show()} s",
                    ratio,
                    "",
                    None,
                )
            )
    return figures
