"""Measurements of a process, read from Linux's /proc."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

PARENT: Final = 1
CPU_TIMES: Final = slice(11, 13)
ENDED_CHILDREN: Final = slice(13, 15)
"""Fields of `/proc/PID/stat`, counted from the state on."""


def read_cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time of all threads of these processes.

    It is read from `schedstat`, which counts nanoseconds. `stat` counts hundredths of a second.
    """
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def read_tree_seconds(pid: int) -> float:
    """Return the CPU time of a process and its children, also of threads and children that ended.

    It is counted in hundredths of a second.
    """
    own = read_stat(pid)
    parts = [own, *(read_stat(child) for child in list_pids())]
    family = [stat for stat in parts if stat is own or int(stat[PARENT]) == pid]
    ticks = sum(int(value) for stat in family for value in stat[CPU_TIMES])
    return (ticks + sum(map(int, own[ENDED_CHILDREN]))) / os.sysconf("SC_CLK_TCK")


def list_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def read_stat(pid: int) -> list[str]:
    """Return the fields of `stat` from the state on, or zeros if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["0"] * (ENDED_CHILDREN.stop or 0)


def reset_peak(pid: int) -> None:
    """Reset the peak of the process's resident memory, so that `VmHWM` counts from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def read_peak_bytes(pid: int) -> int:
    return int(read_status(pid)["VmHWM"].removesuffix("kB")) * 1024


def read_resident_bytes(pid: int) -> int:
    return int(read_status(pid)["VmRSS"].removesuffix("kB")) * 1024


def count_threads(pid: int) -> int:
    return int(read_status(pid)["Threads"])


def read_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def read_memory_bytes() -> int:
    """Return the size of the machine's memory."""
    first = Path("/proc/meminfo").read_text().splitlines()[0]
    return int(first.split()[1]) * 1024


def find_filesystem(folder: Path) -> str:
    """Return the type of the file system that holds the folder, such as ext4 or tmpfs."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    place = folder.resolve()
    return max((len(where), kind) for where, kind in mounts if place.is_relative_to(where))[1]
