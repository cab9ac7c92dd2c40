"""`/health/live`, `/health/ready` and `/metrics`, which are public and inexpensive.

`ready` fails for conditions of this process alone: while it starts, while it stops, or with a wrong
schema. If the database or the store is unavailable, every process is `degraded`. Removing all of
them from a load balancer would not help, so the response is then 200, unless the request has
`?full=1`. The same holds while the database does not agree with the vault
(service/marker/__init__.py).
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import asyncpg
import msgspec
import structlog
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import QueryParameter
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from service import database, problems
from service.object_store import StoreError
from service.queries import health, scrubbing
from service.queries.scrubbing import ScrubState
from service.resources import Resources
from service.routes.answers import refusals
from service.telemetry.gauges import BacklogGauges, ScrubGauges
from service.telemetry.metrics import LAST_EVENT_NAME
from service.telemetry.processes import ProcessMetrics

WAIT_SECONDS: Final = 2.0

Phase = Literal["starting", "running", "wrong-schema", "stopping"]
log = structlog.get_logger()


Result = TypeVar("Result")


class SharedCheck(Generic[Result]):
    """A check whose concurrent callers share one result.

    The routes are public, and separate checks could starve other requests.
    """

    def __init__(self) -> None:
        self.looking: asyncio.Task[Result] | None = None

    async def ask(self, look: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        if self.looking is None or self.looking.done():
            self.looking = asyncio.create_task(look())
        return await asyncio.shield(self.looking)


class Measured(msgspec.Struct, frozen=True):
    """What one scrape reads from the database."""

    backlog: health.Backlog
    scrub: ScrubState


class Readiness:
    """The phase of this process. `detail` says what is wrong with it."""

    def __init__(self) -> None:
        self.phase: Phase = "starting"
        self.detail: str | None = None
        self.away: SharedCheck[list[str]] = SharedCheck()
        self.backlog: SharedCheck[Measured | None] = SharedCheck()


class HealthReport(msgspec.Struct, frozen=True):
    """The health of this process. `away` names the servers that are unavailable.

    `stopped` says why no file is verified and nothing is deleted, if that is so.
    """

    status: Literal["live", "ready", "degraded", "starting", "wrong-schema", "stopping"]
    away: list[str] = []
    detail: str | None = None
    stopped: str | None = None


@get(
    "/health/live",
    operation_id="isLive",
    summary="Check that this process answers",
    tags=["health"],
    security=[],
    responses=refusals(problems.InvalidRequest),
)
async def is_live() -> HealthReport:
    return HealthReport("live")


@get(
    "/health/ready",
    operation_id="isReady",
    summary="Check that this process can serve requests",
    tags=["health"],
    security=[],
    responses={
        503: ResponseSpec(
            HealthReport,
            description="It cannot, or with full=1, a server is unavailable",
            generate_examples=False,
        ),
        **refusals(problems.InvalidRequest),
    },
)
async def is_ready(
    resources: NamedDependency[Resources],
    readiness: NamedDependency[Readiness],
    full: Annotated[
        int,
        QueryParameter(
            ge=0, le=1, description="1: also fail if files cannot be stored and verified"
        ),
    ] = 0,
) -> Response[HealthReport]:
    if readiness.phase != "running":
        return Response(HealthReport(readiness.phase, detail=readiness.detail), status_code=503)
    away = await readiness.away.ask(lambda: find_away(resources))
    stopped = None if away else (await resources.guard.check()).stopped
    is_degraded = bool(away) or stopped is not None
    report = HealthReport("degraded" if is_degraded else "ready", away, stopped=stopped)
    return Response(report, status_code=503 if is_degraded and full else 200)


async def find_away(resources: Resources) -> list[str]:
    asked: dict[str, Awaitable[None]] = {
        "database": health.ping(resources.pool),
        "store": resources.store.check_health(timeout_seconds=WAIT_SECONDS),
    }
    answers = await asyncio.gather(*(answers_in_time(question) for question in asked.values()))
    return [name for name, answered in zip(asked, answers, strict=True) if not answered]


async def answers_in_time(question: Awaitable[None]) -> bool:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await question
    except (StoreError, asyncpg.PostgresError, *database.UNREACHABLE):
        return False
    return True


@get(
    "/metrics",
    operation_id="readMetrics",
    summary="Read the metrics for Prometheus",
    tags=["health"],
    security=[],
    media_type=CONTENT_TYPE_LATEST,
    responses=refusals(problems.InvalidRequest),
)
async def read_metrics(
    resources: NamedDependency[Resources], readiness: NamedDependency[Readiness]
) -> bytes:
    """Return the counters of this process, or with PROMETHEUS_MULTIPROC_DIR of all on this machine,
    and the backlog of the database.
    """
    kept = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        kept = CollectorRegistry()
        kept.register(ProcessMetrics(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])))
    measured = CollectorRegistry()
    found = await readiness.backlog.ask(lambda: measure(resources))
    last_event = kept.get_sample_value(LAST_EVENT_NAME) or None
    measured.register(BacklogGauges(found.backlog if found else None, last_event=last_event))
    if found is not None:
        every, rate = resources.settings.scrub_every, resources.settings.scrub_rate
        measured.register(ScrubGauges(found.scrub, every=every, rate=rate))
    return generate_latest(kept) + generate_latest(measured)


async def measure(resources: Resources) -> Measured | None:
    """Return what the gauges show, or None if the database is unavailable, in which case only the
    counters are reported.
    """
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            return Measured(
                await health.measure_backlog(resources.pool),
                await scrubbing.read_state(resources.pool),
            )
    except (asyncpg.PostgresError, *database.UNREACHABLE) as error:
        log.warning("backlog not measured", error=type(error).__name__)
        return None
