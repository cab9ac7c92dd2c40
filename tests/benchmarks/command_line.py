"""The command line as a shell starts it: how soon `assay --help` is there, and 2,000 small files against a loop of curls."""

import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from tests.benchmarks.figures import Figure, alternate, compare_rates, compare_times
from tests.benchmarks.ground import Ground, Site
from tests.benchmarks.small import let_site_settle
from tests.e2e.commands import ASSAY, clean_environment

BODY_BYTES = 16 * 1024
STARTS = 10
RUN_SECONDS = 1200
LEAST_TIMES_AS_FAST = 5.0
MOST_TIMES_AS_LONG = 1.5
LOOP = r"""
for file in "$1"/*; do
    answer=$(curl -sS --fail-with-body "$ASSAY_URL/files" -H "Authorization: Bearer $ASSAY_KEY" -H "Content-Type: application/json" \
        -d "{\"filename\": \"${file##*/}\", \"size\": $2}") || { echo "$answer" >&2; exit 1; }
    url=${answer#*\"url\":\"}
    curl -sS --fail-with-body -T "$file" -H "If-None-Match: *" "${url%%\"*}" >&2
done
"""
"""Two curls a file, and nothing else is started. It waits for no proof."""


def measure_help(ground: Ground) -> list[Figure]:
    rounds = ground.choose(9, 2)
    sides = {
        "ours": partial(start, *ASSAY, "--help"),
        "httpx": partial(start, sys.executable, "-c", "import httpx"),
    }
    found = alternate(sides, rounds=rounds)
    work = f"`assay --help`, {STARTS} starts"
    return [
        compare_times(
            work,
            '`python -c "import httpx"`',
            found["ours"],
            found["httpx"],
            least=round(1 / MOST_TIMES_AS_LONG, 2),
        )
    ]


def start(*command: str) -> float:
    """Seconds for as many processes, one after the other."""
    begun = time.perf_counter()
    for _ in range(STARTS):
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=clean_environment())
    return time.perf_counter() - begun


def measure_put(ground: Ground) -> list[Figure]:
    count, rounds = ground.choose(2000, 60), ground.choose(3, 1)
    folder = make_files(ground.folder / "many", count)
    with ground.new_site() as site:
        site.start_api()
        found = alternate(
            {
                "ours": partial(put, site, folder, count),
                "loop": partial(run_loop, site, folder, count),
            },
            rounds=rounds,
        )
    shutil.rmtree(folder)
    work = f"{count:,} files of {BODY_BYTES // 1024} KiB by `assay put -r`, each proved"
    against = "a shell loop of two curls a file, none proved"
    return [
        compare_rates(
            work, against, found["ours"], found["loop"], unit="files/s", least=LEAST_TIMES_AS_FAST
        )
    ]


def make_files(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.bin").write_bytes(os.urandom(BODY_BYTES))
    return folder


def put(site: Site, folder: Path, count: int) -> float:
    """Files a second. It knows of no earlier run."""
    home = site.ground.folder / "home"
    command = [*ASSAY, "put", "-r", str(folder)]
    rate, said = run_rate(site, command, count, XDG_STATE_HOME=str(home), XDG_CONFIG_HOME=str(home))
    shutil.rmtree(home)
    assert said.count("\n") == count
    return rate


def run_loop(site: Site, folder: Path, count: int) -> float:
    return run_rate(site, ["bash", "-ec", LOOP, "loop", str(folder), str(BODY_BYTES)], count)[0]


def run_rate(site: Site, command: list[str], count: int, **environ: str) -> tuple[float, str]:
    """Files a second, and what was printed. The next side begins when all is proved and swept."""
    environ |= clean_environment() | {"ASSAY_URL": site.url, "ASSAY_KEY": site.key}
    begun = time.perf_counter()
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    seconds = time.perf_counter() - begun
    assert done.returncode == 0, done.stderr
    let_site_settle(site)
    return count / seconds, done.stdout
