"""`assay scrub --orphans`: shows or removes the objects that no row names."""

from collections import Counter
from contextlib import aclosing
from datetime import timedelta

from service import database
from service.cli.client.display import show
from service.cli.errors import CommandError
from service.object_store import StoreError
from service.operations.orphans import CannotScrub, Found, find_grace, scrub_orphans
from service.resources import open_worker_resources
from service.settings import WorkerSettings

DAY = timedelta(days=1)


async def print_orphans(settings: WorkerSettings, *, delete: bool) -> None:
    """Print one line for each object that no row names, and the numbers. Raises CommandError."""
    numbers: Counter[str] = Counter()
    async with open_worker_resources(settings) as resources:
        await database.check_version(resources.pool)
        try:
            async with aclosing(scrub_orphans(resources, delete=delete)) as orphans:
                async for found in orphans:
                    numbers[found.verdict] += 1
                    print(describe(found), flush=True)
        except (CannotScrub, StoreError) as error:
            raise CommandError(f"{sum_up(numbers)}; not finished: {error}") from error
        except database.UNREACHABLE as error:
            raise CommandError(
                f"{sum_up(numbers)}; not finished: the database is not available"
                f" ({type(error).__name__}): run the command again"
            ) from error
    print(f"{sum_up(numbers)}; the grace is {find_grace(settings) / DAY:g} days")


def describe(found: Found) -> str:
    """Return a line. The key is at its end, because it may contain spaces."""
    return (
        f"{found.verdict:<10} {show(found.bucket)} {found.size:>13} bytes"
        f" {found.age / DAY:>7.1f} days {show(found.key)}"
    )


def sum_up(numbers: Counter[str]) -> str:
    if not numbers:
        return "no orphans"
    counted = ", ".join(f"{number} {verdict}" for verdict, number in sorted(numbers.items()))
    return f"{numbers.total()} orphans: {counted}"
