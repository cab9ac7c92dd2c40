"""What the scrub of orphans finds, and when it is old enough."""

from datetime import timedelta
from typing import Final, Literal

import msgspec

from service.resources import WorkerResources
from service.settings import WorkerSettings

LEAST_GRACE: Final = timedelta(days=2)
"""The least age at which an orphan is deleted.

It leaves time to run `assay reconcile --adopt-as-recorded` after rows were lost, and is far more
than the difference between two clocks.
"""

Verdict = Literal["deletable", "doomed", "kept", "young", "foreign", "unreadable"]


class CannotScrub(Exception):
    """The reason why a run ended early."""


class Found(msgspec.Struct, frozen=True):
    """An object that no row names. `bucket` is the bucket's name."""

    bucket: str
    key: str
    size: int
    age: timedelta
    verdict: Verdict


def find_grace(settings: WorkerSettings) -> timedelta:
    """Return the age from which an orphan is deleted.

    SWEEP_DELAY is how far the database may fall back unnoticed, and COPY_GRACE how long a request
    may stay on its way. The grace is never less than either.
    """
    return max(LEAST_GRACE, settings.sweep_delay, settings.copy_grace)


async def check_guard(resources: WorkerResources) -> int:
    """Return the counter of the vault for the statements that doom. Raises CannotScrub."""
    standing = await resources.guard.check()
    if standing.stopped is not None:
        raise CannotScrub(standing.stopped)
    return standing.counter


def disagree() -> CannotScrub:
    """Return the error for a database that the guard's last check does not cover."""
    return CannotScrub("the database was restored during the run: run `assay reconcile`")
