"""`assay reconcile`: makes the database agree with the vault after one of them was restored."""

import os
from collections import Counter
from typing import Annotated

from cyclopts import Parameter

from service import database
from service.cli.client.display import show
from service.cli.errors import CommandError
from service.files.validation import is_owner
from service.object_store import StoreError
from service.operations.reconciling import Adoption, CannotReconcile, Options
from service.operations.reconciling import reconcile as reconcile_all
from service.resources import open_worker_resources
from service.settings import WorkerSettings, read_settings
from service.telemetry.logs import configure_logs


async def reconcile(
    *,
    adopt: Annotated[str | None, Parameter(name="--adopt")] = None,
    adopt_as_recorded: bool = False,
    take_over: bool = False,
) -> None:
    """Make the database agree with the vault after one of them was restored or has failed over.

    Until then, no file is verified and nothing is deleted. What differs is printed, one object on
    each line. The command may be interrupted and repeated.

    Parameters
    ----------
    adopt
        Make files of this owner from objects whose rows were lost.
    adopt_as_recorded
        The same, for the owner that is recorded with each object.
    take_over
        Use the vault although it has no marker, or that of another deployment.
    """
    if adopt is not None and adopt_as_recorded:
        raise CommandError("--adopt and --adopt-as-recorded exclude each other")
    if adopt is not None and not is_owner(adopt):
        raise CommandError("--adopt must be a name of 1 to 200 bytes, without control characters")
    options = Options(
        adoption=Adoption(wanted=adopt_as_recorded or adopt is not None, owner=adopt),
        take_over=take_over,
    )
    settings = read_settings(os.environ, WorkerSettings)
    configure_logs(settings.log_level)
    numbers: Counter[str] = Counter()
    async with open_worker_resources(settings) as resources:
        await database.check_version(resources.pool)
        try:
            async for found in reconcile_all(resources, options):
                numbers[found.what] += found.what != "waiting"
                print(f"{found.what:<9} {show(found.key)} {show(found.detail)}", flush=True)
        except (CannotReconcile, StoreError) as error:
            raise CommandError(f"{describe(numbers)}; not finished: {error}") from error
        except database.UNREACHABLE as error:
            raise CommandError(
                f"{describe(numbers)}; not finished: the database is not available"
                f" ({type(error).__name__}): run the command again"
            ) from error
    print(f"{describe(numbers)}; the database agrees with the vault")


def describe(numbers: Counter[str]) -> str:
    return (
        f"{numbers['ready'] + numbers['adopted']} objects taken back, {numbers['damaged']} files"
        f" damaged, {numbers['whole']} whole again, {numbers['orphan']} objects without a row"
    )
