"""What the kernel says of a process: /proc alone (Linux)."""

from collections.abc import Iterable
from pathlib import Path


def read_cpu_seconds(pids: Iterable[int]) -> float:
    """Time on a processor of all their threads, in nanoseconds' resolution: `stat` counts in hundredths of a second."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def reset_peak(pid: int) -> None:
    """From now on `VmHWM` is the most since now."""
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
    """Of the whole machine."""
    first = Path("/proc/meminfo").read_text().splitlines()[0]
    return int(first.split()[1]) * 1024


def find_filesystem(folder: Path) -> str:
    """Its type, such as ext4 or tmpfs."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    place = folder.resolve()
    return max((len(where), kind) for where, kind in mounts if place.is_relative_to(where))[1]
