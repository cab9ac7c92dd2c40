"""`assay serve`: the API, configured by the environment."""

import asyncio
import contextlib
import os
import sys

from service import database
from service.app import create_app
from service.cli.api import reserve_port, run_api, stop_on_sigterm
from service.cli.processes import check_processes, serve_on_processes
from service.http.server.limits import make_limits
from service.settings import DatabaseSettings, Settings, read_settings
from service.telemetry.logs import configure_logs


def serve(
    *,
    host: str = "0.0.0.0",  # noqa: S104  # the usual choice behind a proxy
    port: int = 8000,
    no_worker: bool = False,
    processes: int = 1,
) -> None:
    """Run the API and a worker, configured by ASSAY_* variables.

    Parameters
    ----------
    host
        The address to listen on.
    port
        The port to listen on.
    no_worker
        Leave verification and sweeping to `assay worker`.
    processes
        The number of processes that serve the port, to use several cores. The first one runs the
        worker. They divide the database connections and the memory that one process may use.
    """
    check_processes(processes)
    stop_on_sigterm()
    settings = read_settings(os.environ, Settings)
    configure_logs(settings.log_level)
    asyncio.run(check_schema(settings))
    listener = reserve_port(host, port)
    if processes > 1:
        sys.exit(serve_on_processes(settings, listener, processes, with_worker=not no_worker))
    run_api(create_app(settings, with_worker=not no_worker), listener, make_limits(settings))


async def check_schema(settings: DatabaseSettings) -> None:
    """Raise SchemaError for a wrong schema, before anything else starts.

    If the database is unavailable, the server starts nevertheless.
    """
    with contextlib.suppress(*database.UNREACHABLE):
        pool = await database.open_pool(settings)
        try:
            await database.check_version(pool)
        finally:
            pool.terminate()
