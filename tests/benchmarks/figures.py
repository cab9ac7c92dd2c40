"""Figures, each of which compares Assay with a reference.

The rounds of both alternate, so that a slow minute affects both.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Side = Callable[[], float]


@dataclass(frozen=True)
class Figure:
    """One row of the table. `met` is None if the row has no goal."""

    work: str
    against: str
    assay: str
    reference: str
    ratio: str
    goal: str
    met: bool | None


@dataclass(frozen=True)
class Series:
    """One number per round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def show(self, digits: int = 2) -> str:
        """Return the median, followed by the least and the greatest value in parentheses."""
        return (
            f"{self.median:,.{digits}f}"
            f" ({min(self.values):,.{digits}f} to {max(self.values):,.{digits}f})"
        )

    def over(self, other: "Series") -> "Series":
        """Return the ratios of the rounds."""
        return Series(
            tuple(mine / its for mine, its in zip(self.values, other.values, strict=True))
        )


def alternate(sides: Mapping[str, Side], *, rounds: int) -> dict[str, Series]:
    """Run every side once per round, in reverse order every other round.

    A first round warms up and does not count.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in sides if number % 2 else reversed(list(sides)):
            value = sides[name]()
            if number:
                found[name].append(value)
    return {name: Series(tuple(values)) for name, values in found.items()}


def find_percentile(values: Sequence[float], percent: int) -> float:
    """Return the percentile by the nearest-rank method."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def compare_rates(
    work: str,
    against: str,
    assay: Series,
    reference: Series,
    *,
    unit: str,
    least: float | None,
    costs: tuple[str, str] = ("", ""),
) -> Figure:
    """Compare rates. The ratio is Assay's rate over that of the reference.

    `costs` are shown beside the two rates.
    """
    ratio = assay.over(reference)
    goal, met = (f"≥ {least}", ratio.median >= least) if least is not None else ("", None)
    return Figure(
        work,
        against,
        "; ".join(filter(None, [f"{assay.show(0)} {unit}", costs[0]])),
        "; ".join(filter(None, [f"{reference.show(0)} {unit}", costs[1]])),
        ratio.show(),
        goal,
        met,
    )


def compare_times(
    work: str, against: str, assay: Series, reference: Series, *, least: float
) -> Figure:
    """Compare times. The ratio is the reference's time over Assay's, so that more is better."""
    ratio = reference.over(assay)
    return Figure(
        work,
        against,
        f"{assay.show()} s",
        f"{reference.show()} s",
        ratio.show(),
        f"≥ {least}",
        ratio.median >= least,
    )
