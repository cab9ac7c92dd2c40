"""`assay worker`: verification and sweeping without the API."""

import asyncio
import contextlib
import os
import signal

import asyncpg
import structlog
import uvloop
from prometheus_client import start_http_server

from service import database
from service.cli.api import stop_on_sigterm
from service.cli.errors import CommandError
from service.resources import WorkerResources, open_worker_resources
from service.settings import WorkerSettings, read_settings
from service.telemetry.logs import configure_logs
from service.worker.loop import Worker

log = structlog.get_logger()


def worker(*, metrics_port: int | None = None, metrics_host: str = "127.0.0.1") -> None:
    """Run a worker, configured by ASSAY_* variables.

    After SIGTERM, it finishes its work or releases its leases.

    Parameters
    ----------
    metrics_port
        The port on which Prometheus can read this worker's metrics. The API's `/metrics` covers
        only the API.
    metrics_host
        The address on which the metrics are served.
    """
    stop_on_sigterm()
    settings = read_settings(os.environ, WorkerSettings)
    configure_logs(settings.log_level)
    if metrics_port is not None:
        serve_metrics(metrics_host, metrics_port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work_until_stopped(settings))


def serve_metrics(host: str, port: int) -> None:
    try:
        start_http_server(port, host)
    except OSError as error:
        raise CommandError(
            f"cannot listen on {host} port {port} ({error.strerror});"
            " choose another port with --metrics-port"
        ) from error


async def work_until_stopped(settings: WorkerSettings) -> None:
    """Run a worker until SIGTERM or SIGINT. Raises SchemaError."""
    async with open_worker_resources(settings) as resources:
        working = asyncio.create_task(work(resources))
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, working.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await working
        log.info("worker stopped")


async def work(resources: WorkerResources) -> None:
    await wait_for_schema(resources)
    log.info("worker started", slots=resources.settings.worker_slots)
    await Worker(resources).run()


async def wait_for_schema(resources: WorkerResources) -> None:
    """Wait until the database answers.

    Raises SchemaError for another schema, and any error that the database returns.
    """
    while True:
        try:
            return await database.check_version(resources.pool)
        except database.UNREACHABLE as error:
            log.warning("database unavailable", error=type(error).__name__)
        except (database.SchemaError, asyncpg.PostgresError):
            raise
        except Exception:
            log.exception("schema not checked")
        await asyncio.sleep(1)
