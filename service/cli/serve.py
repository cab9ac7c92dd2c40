"""`assay serve`: the API, configured by the environment."""

import asyncio
import contextlib
import os

from service import database
from service.app import create_app
from service.cli.api import reserve_port, run_api, stop_on_sigterm
from service.http.server.limits import make_limits
from service.settings import DatabaseSettings, Settings, read_settings
from service.telemetry.logs import configure_logs


def serve(
    *,
    host: str = "0.0.0.0",  # noqa: S104  # the usual choice behind a proxy
    port: int = 8000,
    no_worker: bool = False,
) -> None:
    """Run the API and a worker in this process, configured by ASSAY_* variables.

    Parameters
    ----------
    host
        The address to listen on.
    port
        The port to listen on.
    no_worker
        Leave verification and sweeping to `assay worker`.
    """
    stop_on_sigterm()
    settings = read_settings(os.environ, Settings)
    configure_logs(settings.log_level)
    asyncio.run(check_schema(settings))
    listener = reserve_port(host, port)
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
