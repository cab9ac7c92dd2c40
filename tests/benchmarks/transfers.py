"""Transfers of 1 GiB by the Python client, in a separate process, compared with curl.

Both are measured in the same rounds. `assay put` and `assay get` run such a process as well.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from assay import Client
from tests.benchmarks.figures import Figure, Series, Side
from tests.benchmarks.ground import GIB, Ground, Site
from tests.benchmarks.hand import curl
from tests.benchmarks.large import MIB, forget, hash_file, make_file
from tests.e2e.commands import clean_environment

MOST_MIB = 120
TRANSFER_SECONDS = 600
PROGRAM = "tests.benchmarks.transfer_once"
Peaks = dict[str, list[float]]


def measure(ground: Ground) -> list[Figure]:
    size, rounds = ground.choose(GIB, 64 * MIB), ground.choose(5, 2)
    body = make_file(ground.folder / "transfer.bin", size)
    peaks: Peaks = {}
    with ground.new_site() as site:
        site.start_api()
        found = alternate_settled(
            {
                "curl -T": partial(put_by_curl, site, body),
                "one PUT": partial(put, site, body, peaks, "single"),
                "parts": partial(put, site, body, peaks, "auto"),
                "hash='parts'": partial(put, site, body, peaks, "parts"),
                "hash='none'": partial(put, site, body, peaks, "none"),
            },
            rounds=rounds,
        )
        received = measure_get(site, body, peaks, rounds)
    body.unlink()
    mib, by_curl = f"{size // MIB:,} MiB", found["curl -T"]
    upload, parts = f"client: upload of {mib}", f"client: upload of {mib}, four parts at once"
    return [
        compare(
            f"{upload}, one PUT",
            "`curl -T` to a presigned URL",
            found["one PUT"],
            by_curl,
            most=1.1,
        ),
        compare(parts, "the same", found["parts"], by_curl, most=1.0),
        compare(f"{parts}, `hash='parts'`", "the same", found["hash='parts'"], by_curl),
        compare(f"{parts}, `hash='none'`", "the same", found["hash='none'"], by_curl),
        compare(
            f"client: download of {mib}, proved",
            "curl to disk, then `sha256sum`",
            received["client"],
            received["curl"],
            most=1.0,
        ),
        *(describe_peak(name, Series(tuple(values))) for name, values in peaks.items()),
    ]


def alternate_settled(sides: Mapping[str, Side], *, rounds: int) -> dict[str, Series]:
    """Measure as `alternate` does, and flush the file system's buffers before each side."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in sides if number % 2 else reversed(list(sides)):
            os.sync()
            value = sides[name]()
            if number:
                found[name].append(value)
    return {name: Series(tuple(values)) for name, values in found.items()}


def measure_get(site: Site, body: Path, peaks: Peaks, rounds: int) -> dict[str, Series]:
    with Client(site.url, site.key) as client:
        file = client.upload(body)
    target = site.ground.folder / "received.bin"
    sides = {
        "curl": partial(get_by_curl, site, str(file.id), target),
        "client": partial(get, site, str(file.id), target, peaks),
    }
    found = alternate_settled(sides, rounds=rounds)
    assert hash_file(target) == file.hash
    target.unlink()
    return found


def put(site: Site, body: Path, peaks: Peaks, how: str) -> float:
    """Return the seconds of the process, which ends when the upload is recorded."""
    seconds, peak, file = run_transfer(site, "put", str(body), how)
    peaks.setdefault("upload, single" if how == "single" else "upload, parts", []).append(peak)
    proved = site.complete(file)
    assert proved["hash"] == hash_file(body)
    forget(site, proved)
    return seconds


def get(site: Site, file: str, target: Path, peaks: Peaks) -> float:
    target.unlink(missing_ok=True)
    seconds, peak, _ = run_transfer(site, "get", file, str(target))
    peaks.setdefault("download", []).append(peak)
    return seconds


def put_by_curl(site: Site, body: Path) -> float:
    begun = time.perf_counter()
    curl(site.hand.sign("PUT", "plain"), body=body)
    seconds = time.perf_counter() - begun
    curl(site.hand.sign("DELETE", "plain"), method="DELETE", expected=204)
    return seconds


def get_by_curl(site: Site, file: str, target: Path) -> float:
    target.unlink(missing_ok=True)
    begun = time.perf_counter()
    curl(f"{site.url}/files/{file}", headers=site.headers, target=target)
    subprocess.run(["sha256sum", target], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def run_transfer(site: Site, *arguments: str) -> tuple[float, float, str]:
    """Return the seconds, the peak of memory in MiB, and the file's id."""
    environ = {**clean_environment(), "ASSAY_URL": site.url, "ASSAY_KEY": site.key}
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", PROGRAM, *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=TRANSFER_SECONDS,
        check=False,
    )
    seconds = time.perf_counter() - begun
    assert done.returncode == 0, done.stderr
    peak, file = done.stdout.split()
    return seconds, float(peak), file


def compare(
    work: str, against: str, assay: Series, reference: Series, *, most: float | None = None
) -> Figure:
    """Compare times. The ratio is Assay's time over that of the reference."""
    ratio = assay.over(reference)
    goal, met = (f"≤ {most}", ratio.median <= most) if most is not None else ("", None)
    return Figure(
        work, against, f"{assay.show()} s", f"{reference.show()} s", ratio.show(), goal, met
    )


def describe_peak(name: str, peak: Series) -> Figure:
    met = max(peak.values) < MOST_MIB
    return Figure(
        f"client: {name}",
        "peak memory of its process",
        f"{peak.show(0)} MiB",
        "",
        "",
        f"< {MOST_MIB} MiB",
        met,
    )
