"""`create_app`: the only composition root.

One lifespan opens what the handlers work with. Two apps in one process share nothing.
"""

import asyncio
import contextlib
import importlib.metadata
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import structlog
from litestar import Litestar, Request
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException

from service import database
from service.auth.principals import Principal, guard_routes
from service.downloads.permits import open_permits
from service.downloads.streaming import DownloadBuffers
from service.events.feed import open_feed
from service.http.errors import answer_exception, answer_http_exception, answer_problem
from service.marker import guarded
from service.problems import Problem
from service.resources import Resources, open_resources
from service.routes import (
    files,
    health,
    links,
    page,
    parts,
    renewals,
    schema,
    uploads,
    webhooks,
)
from service.routes.checks import check_request
from service.routes.cross_origin import allow_origins
from service.routes.digests import provide_digests
from service.routes.downloads import read_file
from service.routes.events import read_events
from service.routes.heads import with_heads
from service.routes.health import Readiness
from service.routes.history import read_history
from service.routes.requests import JsonRequest
from service.routes.streamed_uploads import upload_file
from service.settings import Settings
from service.telemetry.logs import RequestLog
from service.telemetry.memory import set_up_heap
from service.uploads.buffers import UploadBuffers
from service.worker.loop import Worker

LARGEST_JSON_BYTES: Final = 64 * 1024
VERSION_CHECK_SECONDS: Final = 1.0

log = structlog.get_logger()


def create_app(
    settings: Settings,
    *,
    with_worker: bool = False,
    processes: int = 1,
    resources: Resources | None = None,
) -> Litestar:
    """Return the API. With `with_worker`, its process runs a worker as well. `processes` is the
    number of processes that share the memory for streamed uploads.

    If `resources` is given, the caller opens and closes it. The start fails with SchemaError if the
    schema is older or newer than this code. It succeeds while the database is unavailable.
    """

    set_up_heap()  # before any thread starts

    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            app.state.resources = resources or await stack.enter_async_context(
                open_resources(settings)
            )
            app.state.readiness = Readiness()
            app.state.downloads = stack.enter_context(
                contextlib.closing(DownloadBuffers(settings.download_buffers))
            )
            app.state.permits = await stack.enter_async_context(open_permits(app.state.resources))
            app.state.feed = await stack.enter_async_context(open_feed(app.state.resources))
            app.state.buffers = stack.enter_context(contextlib.closing(UploadBuffers(processes)))
            await stack.enter_async_context(
                running(app.state.resources, app.state.readiness, with_worker=with_worker)
            )
            await stack.enter_async_context(guarded(app.state.resources.guard))
            yield

    app = Litestar(
        route_handlers=[
            *with_heads(open_routes()),
            guard_routes(with_heads(guarded_routes()), check_request),
        ],
        lifespan=[lifespan],
        dependencies=provide_all(),
        exception_handlers={
            Exception: answer_exception,
            HTTPException: answer_http_exception,
            Problem: answer_problem,
        },
        before_request=check_request,
        request_class=JsonRequest,
        request_max_body_size=LARGEST_JSON_BYTES,
        cors_config=allow_origins(settings, list_functions()),
        openapi_config=schema.describe_api(settings.base_path, importlib.metadata.version("assay")),
        logging_config=None,
    )
    # The log wraps the routing, because it must see the requests that get 404 or 405.
    app.asgi_handler = RequestLog(app.asgi_handler)
    return app


def open_routes() -> list[Any]:
    return [
        page.read_page,
        page.read_page_file,
        health.is_live,
        health.is_ready,
        health.read_metrics,
        webhooks.probe_webhook,
        webhooks.receive_event,
        links.read_linked_file,
    ]


def guarded_routes() -> list[Any]:
    return [
        files.declare_file,
        files.list_files,
        files.read_metadata,
        read_history,
        files.delete_file,
        files.change_file,
        read_file,
        read_events,
        links.make_link,
        upload_file,
        uploads.upload_by_redirect,
        uploads.complete_upload,
        renewals.renew_upload,
        parts.sign_parts,
        parts.list_parts,
    ]


def provide_all() -> dict[str, Provide]:
    return {
        **{
            name: provide_state(name)
            for name in ("resources", "readiness", "downloads", "permits", "feed")
        },
        "principal": Provide(provide_principal, sync_to_thread=False),
        "digests": Provide(provide_digests, sync_to_thread=False),
    }


def list_functions() -> list[Callable[..., Any]]:
    """Return the handlers of all routes, and their dependencies."""
    return [
        *(handler.fn for handler in (*open_routes(), *guarded_routes())),
        *(provided.dependency for provided in provide_all().values()),
    ]


def provide_state(name: str) -> Provide:
    def find(request: Request[Any, Any, Any]) -> Any:
        return getattr(request.app.state, name)

    return Provide(find, sync_to_thread=False)


def provide_principal(
    request: Request[Any, Any, Any],
    resources: NamedDependency[Resources],  # noqa: ARG001  # see below
) -> Principal:
    """Return the principal that `require_key` has authenticated.

    The parameter `resources` makes Litestar resolve the dependencies one after the other. It would
    create a task for each independent dependency.
    """
    principal: Principal = request.scope["state"]["principal"]
    return principal


@contextlib.asynccontextmanager
async def running(
    resources: Resources, readiness: Readiness, *, with_worker: bool
) -> AsyncIterator[None]:
    """Check the schema, and run the worker in the background while the block runs.

    At the end of the block, the worker finishes its work or releases its leases. Raises
    SchemaError.
    """
    checked = await check_schema(resources, readiness)
    task = asyncio.create_task(work(resources, readiness, checked=checked, with_worker=with_worker))
    try:
        yield
    finally:
        readiness.phase = "stopping"
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def check_schema(resources: Resources, readiness: Readiness) -> bool:
    """Return True if the schema fits this code, and False if the database is unavailable.

    Raises SchemaError if the schema is older or newer than this code.
    """
    try:
        await database.check_version(resources.pool)
    except database.UNREACHABLE as error:
        log.warning("database unavailable", error=type(error).__name__)
        readiness.detail = "the database does not answer, so its schema is not known yet"
        return False
    readiness.phase, readiness.detail = "running", None
    return True


async def work(
    resources: Resources, readiness: Readiness, *, checked: bool, with_worker: bool
) -> None:
    """Check the schema until a check succeeds, and only then run the worker."""
    while not checked:
        await asyncio.sleep(VERSION_CHECK_SECONDS)
        try:
            checked = await check_schema(resources, readiness)
        except database.SchemaError as error:
            log.error("wrong schema", error=str(error))  # noqa: TRY400  # a traceback adds nothing
            readiness.phase, readiness.detail = "wrong-schema", str(error)
            return
        except Exception:
            log.exception("schema not checked")
    while with_worker:
        try:
            await Worker(resources).run()
        except Exception:
            log.exception("worker failed")
            await asyncio.sleep(VERSION_CHECK_SECONDS)
