"""`create_app`: the only composition root. One lifespan opens what the handlers work with; two apps in one process share nothing."""

import asyncio
import contextlib
import importlib.metadata
from collections.abc import AsyncIterator
from typing import Any, Final

import structlog
from litestar import Litestar, Request
from litestar.config.cors import CORSConfig
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException

from service import database
from service.auth.principals import Principal, guard_routes
from service.downloads.streaming import DownloadBuffers
from service.events.feed import open_feed
from service.http.errors import answer_exception, answer_http_exception, answer_problem
from service.problems import Problem
from service.resources import Resources, open_resources
from service.routes import files, health, links, page, parts, schema, uploads, webhooks
from service.routes.downloads import read_file
from service.routes.events import read_events
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
SENT_BY_PAGES: Final = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Range",
    "Repr-Digest",
    "X-Request-Id",
)
READ_BY_PAGES: Final = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "Repr-Digest",
    "Retry-After",
    "X-Request-Id",
)

log = structlog.get_logger()


def create_app(
    settings: Settings, *, with_worker: bool = False, resources: Resources | None = None
) -> Litestar:
    """The API, and with a worker all that a small deployment needs. `resources`: opened, and closed, by the caller.

    The start fails with SchemaError over a schema that is older or newer than this code; while the database is away it succeeds.
    """

    set_up_heap()  # before any thread begins

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
            app.state.feed = await stack.enter_async_context(open_feed(app.state.resources))
            app.state.buffers = stack.enter_context(contextlib.closing(UploadBuffers()))
            await stack.enter_async_context(
                running(app.state.resources, app.state.readiness, with_worker=with_worker)
            )
            yield

    app = Litestar(
        route_handlers=[*open_routes(), guard_routes(guarded_routes())],
        lifespan=[lifespan],
        dependencies={
            **{
                name: provide_state(name)
                for name in ("resources", "readiness", "downloads", "feed")
            },
            "principal": Provide(provide_principal, sync_to_thread=False),
        },
        exception_handlers={
            Exception: answer_exception,
            HTTPException: answer_http_exception,
            Problem: answer_problem,
        },
        request_class=JsonRequest,
        request_max_body_size=LARGEST_JSON_BYTES,
        cors_config=allow_origins(settings),
        openapi_config=schema.describe_api(settings.base_path, importlib.metadata.version("assay")),
        logging_config=None,
    )
    app.asgi_handler = RequestLog(
        app.asgi_handler
    )  # outside of the routing, so that it sees 404 and 405 too
    return app


def allow_origins(settings: Settings) -> CORSConfig | None:
    """None: pages of the API's own origin alone."""
    if not settings.cors_origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=list(SENT_BY_PAGES),
        expose_headers=list(READ_BY_PAGES),
        max_age=7200,
    )


def open_routes() -> list[Any]:
    """Without an API key."""
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
    """With an API key, each for the scopes that it declares."""
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
        uploads.renew_upload,
        parts.sign_parts,
        parts.list_parts,
    ]


def provide_state(name: str) -> Provide:
    """Return the dependency that gives what the lifespan has put into `app.state` under this name."""

    def find(request: Request[Any, Any, Any]) -> Any:
        return getattr(request.app.state, name)

    return Provide(find, sync_to_thread=False)


def provide_principal(
    request: Request[Any, Any, Any],
    resources: NamedDependency[Resources],  # noqa: ARG001  # see below
) -> Principal:
    """Return the principal that the guard let in.

    It asks for `resources` so that Litestar provides one after the other: what is independent gets a task each.
    """
    principal: Principal = request.scope["state"]["principal"]
    return principal


@contextlib.asynccontextmanager
async def running(
    resources: Resources, readiness: Readiness, *, with_worker: bool
) -> AsyncIterator[None]:
    """Everything that goes on beside the requests. At the end the worker finishes, or gives its leases back."""
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
    """False: the database is away. Raises SchemaError."""
    try:
        await database.check_version(resources.pool)
    except database.UNREACHABLE as error:
        log.warning("database away", error=type(error).__name__)
        readiness.detail = "the database does not answer, so its schema is not known yet"
        return False
    readiness.phase, readiness.detail = "running", None
    return True


async def work(
    resources: Resources, readiness: Readiness, *, checked: bool, with_worker: bool
) -> None:
    """No worker begins over a schema that nobody has looked at."""
    while not checked:
        await asyncio.sleep(VERSION_CHECK_SECONDS)
        try:
            checked = await check_schema(resources, readiness)
        except database.SchemaError as error:
            log.error("wrong schema", error=str(error))  # noqa: TRY400  # an operator's matter, a traceback says nothing
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
