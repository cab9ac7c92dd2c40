"""Declarations per second by several processes on one port, against one process.

On two cores that the clients, the store and PostgreSQL share, more processes gain little. Each
process is therefore limited to a fifth of a core by a control group (Linux, version 1, as root).
What is measured is whether the processes hinder each other, and how evenly connections are
distributed among them, not the speed of this machine.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from tests.benchmarks.declaring import make_declare
from tests.benchmarks.figures import Figure, alternate, compare_rates
from tests.benchmarks.ground import Ground, NotPossible, Site
from tests.benchmarks.load import CLIENTS, drive, send
from tests.support.processes import PARENT, list_pids, read_stat
from tests.support.servers import free_port

GROUPS: Final = Path("/sys/fs/cgroup/cpu")
PERIOD_MICROSECONDS: Final = 100_000
QUOTA_MICROSECONDS: Final = PERIOD_MICROSECONDS // 5
PROCESSES: Final = 4
LEAST_RATIO: Final = 3.0


def measure(ground: Ground) -> list[Figure]:
    """Compare the two. Raises NotPossible if processes cannot be limited."""
    count, rounds = ground.choose(800, 80), ground.choose(5, 1)
    with ground.new_site() as site:
        addresses = {
            "several": start_limited(site, PROCESSES),
            "one": start_limited(site, 1),
        }
        found = alternate(
            {
                name: partial(
                    drive, [send(make_declare(site, f"{url}/files"), expected=201)] * count, [url]
                )
                for name, url in addresses.items()
            },
            rounds=rounds,
        )
    return [
        compare_rates(
            f"declare, {CLIENTS} clients, {PROCESSES} processes, each limited to a fifth of a core",
            "one process with the same limit",
            found["several"],
            found["one"],
            unit="/s",
            least=LEAST_RATIO,
        )
    ]


def start_limited(site: Site, processes: int) -> str:
    """Start an API of that many processes, and return its address."""
    url = f"http://127.0.0.1:{free_port()}"
    arguments = ["--port", url.rpartition(":")[2], "--processes", str(processes), "--no-worker"]
    parent = site.start("service", "serve", "--host", "127.0.0.1", *arguments, url=url)
    children = [
        pid
        for pid in list_pids()
        if int(read_stat(pid)[PARENT]) == parent and "spawn_main" in read_command(pid)
    ]
    for pid in children or [parent]:
        site.stack.enter_context(limited(pid))
    return url


def read_command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


@contextmanager
def limited(pid: int) -> Iterator[None]:
    """Limit the processor time of a process until it ends. Raises NotPossible."""
    group = GROUPS / f"assay-{pid}"
    try:
        group.mkdir()
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
        (group / "cpu.cfs_quota_us").write_text(str(QUOTA_MICROSECONDS))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        raise NotPossible(f"`processes` needs control groups of version 1: {error}") from error
    try:
        yield
    finally:
        if Path(f"/proc/{pid}").exists():
            (GROUPS / "cgroup.procs").write_text(str(pid))
        os.rmdir(group)
