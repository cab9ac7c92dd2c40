"""`assay scrub`: finds what is wrong in the buckets."""

import os

from service.cli.errors import CommandError
from service.cli.orphans import print_orphans
from service.settings import WorkerSettings, read_settings
from service.telemetry.logs import configure_logs


async def scrub(*, orphans: bool = False, delete: bool = False) -> None:
    """Find objects that no row names.

    Parameters
    ----------
    orphans
        List both buckets, and show the objects that no row names.
    delete
        Remove those that are older than the grace.
    """
    if not orphans:
        raise CommandError("--orphans is missing")
    settings = read_settings(os.environ, WorkerSettings)
    configure_logs(settings.log_level)
    await print_orphans(settings, delete=delete)
