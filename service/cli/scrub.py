"""`assay scrub`: reads the objects of proved files again, or finds objects that no row names."""

import os
from collections import Counter
from contextlib import aclosing
from datetime import timedelta
from typing import Annotated, Final

from cyclopts import Parameter

from service import database
from service.cli.client.display import show
from service.cli.errors import CommandError
from service.cli.orphans import print_orphans
from service.object_store import StoreError
from service.resources import open_worker_resources
from service.settings import WorkerSettings, parse_bytes, parse_setting, read_settings
from service.telemetry.logs import configure_logs
from service.worker.scrubber import Found, Options, ScrubBusy, ScrubStopped
from service.worker.scrubber import scrub as scrub_due

ALWAYS: Final = timedelta(0)
WORDS: Final = {"damaged": "damaged", "still": "damaged still", "whole": "whole again"}


async def scrub(
    *,
    all_files: Annotated[bool, Parameter(name="--all")] = False,
    rate: str | None = None,
    trust_store: bool = False,
    orphans: bool = False,
    delete: bool = False,
) -> None:
    """Read the objects of proved files again, and compare them with what was proved.

    Workers also do this by themselves: each file is read again after ASSAY_SCRUB_EVERY. A file
    whose object is missing or altered becomes `damaged`, and `ready` when it is whole again. This
    command reads damaged files in any case. One line is printed for each such file. The command can
    be interrupted and repeated.

    Parameters
    ----------
    all_files
        Read every file, and not only those that are due or damaged.
    rate
        The bytes per second, such as 100MiB, instead of ASSAY_SCRUB_RATE. With this option, the
        command also runs beside the scrub of a worker.
    trust_store
        Mark files as damaged even if more than five in a row are. Check first that the store is
        the right one.
    orphans
        Instead of that, list both buckets and show the objects that no row names.
    delete
        With --orphans: have the sweeper delete those of them that are old enough.
    """
    if delete and not orphans:
        raise CommandError("--delete is an option of --orphans: assay scrub --orphans --delete")
    if orphans and (all_files or rate is not None or trust_store):
        raise CommandError("--orphans reads no file: omit --all, --rate and --trust-store")
    settings = read_settings(os.environ, WorkerSettings)
    configure_logs(settings.log_level)
    if orphans:
        await print_orphans(settings, delete=delete)
        return
    options = Options(
        every=ALWAYS if all_files else settings.scrub_every,
        damaged_every=ALWAYS,
        rate=settings.scrub_rate if rate is None else read_rate(rate),
        beside=rate is not None,
        trust_store=trust_store,
    )
    await print_scrub(settings, options)


async def print_scrub(settings: WorkerSettings, options: Options) -> None:
    """Print one line for each file that is not as it was, and the numbers. Raises CommandError."""
    numbers: Counter[str] = Counter()
    async with open_worker_resources(settings) as resources:
        await database.check_version(resources.pool)
        try:
            async with aclosing(scrub_due(resources, options)) as everything:
                async for found in everything:
                    numbers[found.what] += 1
                    print_found(found)
        except ScrubBusy as error:
            raise CommandError("a worker scrubs at this time: add --rate to run beside it") from (
                error
            )
        except (ScrubStopped, StoreError) as error:
            raise CommandError(f"{describe(numbers)}; stopped: {error}") from error
        except database.UNREACHABLE as error:
            raise CommandError(
                f"{describe(numbers)}; stopped: the database is not available"
                f" ({type(error).__name__}): run the command again"
            ) from error
    print(describe(numbers))


def print_found(found: Found) -> None:
    file = found.file
    print(f"{WORDS[found.what]:<13} {file.id} {file.key} {show(found.detail)}", flush=True)


def read_rate(text: str) -> int:
    try:
        rate: int = parse_setting("scrub_rate", text, parse=parse_bytes)
    except ValueError as error:
        raise CommandError(f"--rate {error}") from error
    return rate


def describe(numbers: Counter[str]) -> str:
    return (
        f"{numbers['damaged']} files damaged, {numbers['still']} damaged still,"
        f" {numbers['whole']} whole again"
    )
