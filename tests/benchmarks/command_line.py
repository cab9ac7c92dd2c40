"""The start of `assay --help`, and thousands of small files by `assay put`.

The references are `import httpx`, a shell loop of curls, and the two usual programs that copy a
folder straight to a store.
"""

import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from uuid import uuid4

from tests.benchmarks.figures import Figure, alternate, compare_rates, compare_times
from tests.benchmarks.ground import Ground, NotPossible, Site
from tests.benchmarks.small import let_site_settle
from tests.e2e.commands import clean_environment
from tests.support.preloaded import ASSAY
from tests.support.stores import REGION

BODY_BYTES = 16 * 1024
STARTS = 10
RUN_SECONDS = 1200
LEAST_TIMES_AS_FAST = 5.0
MOST_TIMES_AS_LONG = 1.5
LOOP = r"""
for file in "$1"/*; do
    answer=$(curl -sS --fail-with-body "$ASSAY_URL/files" \
        -H "Authorization: Bearer $ASSAY_KEY" -H "Content-Type: application/json" \
        -d "{\"filename\": \"${file##*/}\", \"size\": $2}") || { echo "$answer" >&2; exit 1; }
    url=${answer#*\"url\":\"}
    curl -sS --fail-with-body -T "$file" -H "If-None-Match: *" "${url%%\"*}" >&2
done
"""
"""A shell loop that runs two curls per file, starts nothing else, and waits for no proof."""


def measure_help(ground: Ground) -> list[Figure]:
    rounds = ground.choose(9, 2)
    sides = {
        "assay": partial(start, *ASSAY, "--help"),
        "httpx": partial(start, sys.executable, "-c", "import httpx"),
    }
    found = alternate(sides, rounds=rounds)
    work = f"`assay --help`, {STARTS} starts"
    return [
        compare_times(
            work,
            '`python -c "import httpx"`',
            found["assay"],
            found["httpx"],
            least=round(1 / MOST_TIMES_AS_LONG, 2),
        )
    ]


def start(*command: str) -> float:
    """Return the seconds for STARTS processes, one after the other."""
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
                "assay": partial(put, site, folder, count),
                "loop": partial(run_loop, site, folder, count),
            },
            rounds=rounds,
        )
    shutil.rmtree(folder)
    work = f"{count:,} files of {BODY_BYTES // 1024} KiB by `assay put -r`, each proved"
    against = "a shell loop with two curls per file, none proved"
    return [
        compare_rates(
            work, against, found["assay"], found["loop"], unit="files/s", least=LEAST_TIMES_AS_FAST
        )
    ]


def measure_tree(ground: Ground) -> list[Figure]:
    """Compare with copies that nothing proves. Raises NotPossible without both programs."""
    for program in ("aws", "rclone"):
        if shutil.which(program) is None:
            raise NotPossible(f"`tree` needs `{program}` on the PATH.")
    count, rounds = ground.choose(5000, 60), ground.choose(3, 1)
    folder = make_files(ground.folder / "tree", count)
    with ground.new_site() as site:
        site.start_api()
        found = alternate(
            {
                "assay": partial(put, site, folder, count),
                "aws": partial(copy_by_aws, site, folder, count),
                "rclone": partial(copy_by_rclone, site, folder, count),
            },
            rounds=rounds,
        )
    shutil.rmtree(folder)
    work = f"{count:,} files of {BODY_BYTES // 1024} KiB by `assay put -r`, each proved"
    return [
        compare_rates(
            work,
            f"`{against}` straight to the store, none proved",
            found["assay"],
            found[name],
            unit="files/s",
            least=1.0,
        )
        for name, against in (("aws", "aws s3 cp --recursive"), ("rclone", "rclone copy"))
    ]


def copy_by_aws(site: Site, folder: Path, count: int) -> float:
    target = f"s3://{site.hand.bucket}/{uuid4().hex}"
    endpoint = ["--endpoint-url", site.settings.s3_endpoint]
    command = ["aws", *endpoint, "s3", "cp", "--recursive", "--only-show-errors"]
    return run_rate(site, [*command, str(folder), target], count, **name_root(site))[0]


def copy_by_rclone(site: Site, folder: Path, count: int) -> float:
    target = f":s3:{site.hand.bucket}/{uuid4().hex}"
    options = ["--s3-provider", "Minio", "--s3-env-auth", "--s3-no-check-bucket", "--config", ""]
    endpoint = ["--s3-endpoint", site.settings.s3_endpoint]
    command = ["rclone", "copy", *options, *endpoint]
    return run_rate(site, [*command, str(folder), target], count, **name_root(site))[0]


def name_root(site: Site) -> dict[str, str]:
    """Return the variables by which both programs find the credentials of root."""
    return {
        "AWS_ACCESS_KEY_ID": site.ground.store.root_access_key,
        "AWS_SECRET_ACCESS_KEY": site.ground.store.root_secret_key,
        "AWS_DEFAULT_REGION": REGION,
    }


def make_files(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.bin").write_bytes(os.urandom(BODY_BYTES))
    return folder


def put(site: Site, folder: Path, count: int) -> float:
    """Return the files per second of a first run, which has no record of sent files."""
    home = site.ground.folder / "home"
    command = [*ASSAY, "put", "-r", str(folder)]
    rate, said = run_rate(site, command, count, XDG_STATE_HOME=str(home), XDG_CONFIG_HOME=str(home))
    shutil.rmtree(home)
    assert said.count("\n") == count
    return rate


def run_loop(site: Site, folder: Path, count: int) -> float:
    return run_rate(site, ["bash", "-ec", LOOP, "loop", str(folder), str(BODY_BYTES)], count)[0]


def run_rate(site: Site, command: list[str], count: int, **environ: str) -> tuple[float, str]:
    """Run the command and return the files per second and its output.

    Returns when all files are proved and swept, so that the next run is not slowed down.
    """
    environ |= clean_environment() | {"ASSAY_URL": site.url, "ASSAY_KEY": site.key}
    environ.pop("AWS_CA_BUNDLE", None)  # rclone refuses it, and the store speaks plain http
    begun = time.perf_counter()
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    seconds = time.perf_counter() - begun
    assert done.returncode == 0, done.stderr
    let_site_settle(site)
    return count / seconds, done.stdout
