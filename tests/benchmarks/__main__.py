"""The benchmark command. It measures the named rows, or all of them.

`--quick` only shows that everything runs.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Callable

from rich.console import Console

from tests.benchmarks import (
    accel,
    assembling,
    backlog,
    browsing,
    command_line,
    declaring,
    downloading,
    following,
    idle,
    importing,
    large,
    listing,
    poisoned,
    processes,
    protocols,
    scrubbing,
    small,
    streaming,
    threshold,
    transfers,
)
from tests.benchmarks.figures import Figure
from tests.benchmarks.ground import Ground, NotPossible, open_ground
from tests.benchmarks.report import make_table, write_document

ROWS: dict[str, Callable[[Ground], list[Figure]]] = {
    "declare": declaring.measure,
    "sign": declaring.measure_signing,
    "events": following.measure,
    "large": large.measure,
    "latency": small.measure_latency,
    "poisoned": poisoned.measure,
    "throughput": small.measure_throughput,
    "backlog": backlog.measure,
    "threshold": threshold.measure,
    "download": downloading.measure_speed,
    "memory": downloading.measure_memory,
    "accel": accel.measure,
    "import": importing.measure,
    "scrub": scrubbing.measure,
    "beside-scrub": scrubbing.measure_beside,
    "orphans": listing.measure_orphans,
    "reconcile": listing.measure_reconcile,
    "stream": streaming.measure,
    "stream-large": streaming.measure_large,
    "parts": assembling.measure,
    "client": transfers.measure,
    "processes": processes.measure,
    "protocols": protocols.measure,
    "idle": idle.measure,
    "help": command_line.measure_help,
    "folder": command_line.measure_put,
    "tree": command_line.measure_tree,
    "page": browsing.measure,
}


def main() -> int:
    """Return 0 if everything could be measured, even if goals are missed, and 1 otherwise."""
    options = parse_options()
    console = Console(width=None if sys.stdout.isatty() else 200)
    try:
        with open_ground(quick=options.quick, objects=options.objects) as ground:
            measured = {name: measure(name, ground) for name in options.names or ROWS}
    except NotPossible as error:
        print(error, file=sys.stderr)
        return 1
    figures = [figure for found in measured.values() if found for figure in found]
    console.print(make_table(figures))
    if options.write:
        write_document(figures)
    return 0 if None not in measured.values() else 1


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"the rows to measure, of {', '.join(ROWS)}; all rows by default",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="use small sizes and few rounds, which shows that everything runs",
    )
    parser.add_argument(
        "--write", action="store_true", help="record the results in docs/benchmarks.md"
    )
    parser.add_argument(
        "--objects",
        type=int,
        metavar="N",
        help="the number of objects in the vault for `orphans` and `reconcile`",
    )
    options = parser.parse_args()
    if unknown := set(options.names) - set(ROWS):
        parser.error(f"unknown rows: {', '.join(sorted(unknown))} (choose from {', '.join(ROWS)})")
    if options.quick and options.write:
        parser.error("--quick gives no meaningful results for --write to record")
    return options


def measure(name: str, ground: Ground) -> list[Figure] | None:
    """Return the figures of a row, or None if it failed. The error is printed."""
    begun = time.monotonic()
    try:
        found = ROWS[name](ground)
    except Exception:
        traceback.print_exc()
        return None
    print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return found


if __name__ == "__main__":
    sys.exit(main())
