"""The table of figures, on the screen and in docs/benchmarks.md.

A row of the document stays until it is measured again.
"""

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.table import Table

from tests.benchmarks.figures import Figure
from tests.support.processes import read_memory_bytes

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"
HEADINGS = ("work", "against", "Assay", "reference", "ratio", "goal", "met")
BEGIN, END = "<!-- measured: written by the command -->", "<!-- measured: end -->"


def make_table(figures: Iterable[Figure]) -> Table:
    table = Table(
        *HEADINGS,
        box=box.ROUNDED,
        show_lines=True,
        title=f"median (least to most); {describe_machine()}",
    )
    for figure in figures:
        table.add_row(*list_cells(figure), style=None if figure.met is not False else "yellow")
    return table


def list_cells(figure: Figure) -> list[str]:
    met = {True: "yes", False: "**no**", None: ""}[figure.met]
    return [
        figure.work,
        figure.against,
        figure.assay,
        figure.reference,
        figure.ratio,
        figure.goal,
        met,
    ]


def describe_machine() -> str:
    return f"{os.cpu_count()} cores, {read_memory_bytes() / 1024**3:.0f} GiB of memory"


def write_document(figures: Iterable[Figure]) -> None:
    """Write each figure in the place of the row with the same work and the same reference."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    kept, _, after = rest.partition(END)
    lines = {
        line_name(line): line for line in kept.splitlines() if re.match(r"\| (?!work|---)", line)
    }
    when = f"{datetime.now(UTC):%Y-%m-%d}, {describe_machine()}"
    for figure in figures:
        line = f"| {' | '.join([*list_cells(figure), when])} |"
        lines[line_name(line)] = line
    heading = [f"| {' | '.join([*HEADINGS, 'measured'])} |", "| " + "--- | " * 8]
    DOCUMENT.write_text(
        "\n".join(
            [
                before.rstrip(),
                "",
                BEGIN,
                "",
                *[line.rstrip() for line in heading],
                *lines.values(),
                "",
                END,
            ]
        )
        + after
    )


def line_name(line: str) -> tuple[str, ...]:
    return tuple(line.split(" | ")[:2])
