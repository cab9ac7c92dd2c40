"""`assay sweep`: removes leftovers that are due."""

import os

from service import database
from service.resources import open_worker_resources
from service.settings import WorkerSettings, read_settings
from service.telemetry.logs import configure_logs
from service.worker.sweeper import sweep as sweep_now


async def sweep() -> None:
    """Remove leftovers that are due, now. Every worker also does this by itself."""
    settings = read_settings(os.environ, WorkerSettings)
    configure_logs(settings.log_level)
    async with open_worker_resources(settings) as resources:
        await database.check_version(resources.pool)
        print(f"{await sweep_now(resources)} leftovers removed")
