"""The metrics of all processes that keep them in one folder."""

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector


class ProcessMetrics(Collector):
    """The metrics in the files of a folder, added up.

    A process that starts creates its files empty, and gives them a length afterwards.
    MultiProcessCollector itself fails on an empty file, which also stays if the process is killed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def collect(self) -> Iterable[Metric]:
        files = [str(path) for path in self.folder.glob("*.db") if has_content(path)]
        merge = MultiProcessCollector.merge
        merged: Iterable[Metric] = merge(files)  # type: ignore[no-untyped-call]  # not annotated
        return merged


def has_content(path: Path) -> bool:
    """Return False for an empty file, and for one that was deleted because its process ended."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
