"""Measurements of a process, read from Linux's /proc."""

from collections.abc import Iterable
from pathlib import Path


def read_cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time of all threads of these processes.

    It is read from `schedstat`, which counts nanoseconds. `stat` counts hundredths of a second.
    """
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


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
