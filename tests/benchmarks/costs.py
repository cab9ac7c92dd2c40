"""The processor time of each process per job, beside a rate.

On cores that a machine shares with others, processor time varies less than a rate does.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping

from tests.benchmarks.figures import Side
from tests.support.processes import read_tree_seconds


class Costs:
    """The processor time of processes and of their children, per job of each side."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        """Take the process ids by the names that the table shows."""
        self.processes = processes
        self.spent: dict[str, list[dict[str, float]]] = defaultdict(list)

    def read(self) -> dict[str, float]:
        return {name: read_tree_seconds(pid) for name, pid in self.processes.items()}

    def measure(self, name: str, side: Side, *, jobs: int) -> Side:
        """Return the same side, whose processor time is noted at each call."""

        def run() -> float:
            before = self.read()
            result = side()
            self.spent[name].append(
                {one: (now - before[one]) / jobs for one, now in self.read().items()}
            )
            return result

        return run

    def find_median(self, name: str, process: str) -> float:
        """Return the seconds per job of one process. The first call warmed up."""
        return statistics.median(spent[process] for spent in self.spent[name][1:])

    def sum_medians(self, name: str) -> float:
        """Return the seconds per job of all processes."""
        return sum(self.find_median(name, one) for one in self.processes)

    def show(self, name: str) -> str:
        """Return the processes that worked for this side, with the milliseconds per job of each."""
        medians = {one: self.find_median(name, one) * 1000 for one in self.processes}
        shown = [f"{one} {value:.2f}" for one, value in medians.items() if value >= 0.005]
        return f"CPU: {' + '.join(shown)} = {sum(medians.values()):.1f} ms"
