"""A figure: what was measured, against what, and how far apart they are. Rounds alternate, so that a slow minute hits both sides."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Side = Callable[[], float]


@dataclass(frozen=True)
class Figure:
    """One line of the table. `met` None: there is no goal, the line is for the record."""

    work: str
    against: str
    ours: str
    theirs: str
    ratio: str
    goal: str
    met: bool | None


@dataclass(frozen=True)
class Series:
    """One number a round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def show(self, digits: int = 2) -> str:
        """The median, and in brackets the least and the most."""
        return f"{self.median:,.{digits}f} ({min(self.values):,.{digits}f} to {max(self.values):,.{digits}f})"

    def over(self, other: "Series") -> "Series":
        """Round by round."""
        return Series(
            tuple(mine / its for mine, its in zip(self.values, other.values, strict=True))
        )


def alternate(sides: Mapping[str, Side], *, rounds: int) -> dict[str, Series]:
    """Every side once a round, in turned order every other round; a first round warms up and does not count."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in sides if number % 2 else reversed(list(sides)):
            value = sides[name]()
            if number:
                found[name].append(value)
    return {name: Series(tuple(values)) for name, values in found.items()}


def find_percentile(values: Sequence[float], percent: int) -> float:
    """The nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def compare_rates(
    work: str, against: str, ours: Series, theirs: Series, *, unit: str, least: float | None
) -> Figure:
    """For work a second: ours over theirs."""
    ratio = ours.over(theirs)
    goal, met = (f"≥ {least}", ratio.median >= least) if least is not None else ("", None)
    return Figure(
        work, against, f"{ours.show(0)} {unit}", f"{theirs.show(0)} {unit}", ratio.show(), goal, met
    )


def compare_times(work: str, against: str, ours: Series, theirs: Series, *, least: float) -> Figure:
    """For seconds: theirs over ours, so that 1 is as good as they are."""
    ratio = theirs.over(ours)
    return Figure(
        work,
        against,
        f"{ours.show()} s",
        f"{theirs.show()} s",
        ratio.show(),
        f"≥ {least}",
        ratio.median >= least,
    )
