"""Logs: one JSON line per event, in a readable form on a terminal, with one line per request.

They never contain a key, a token, a signature, a query string or an `X-Amz-*` value.
"""

import logging
import re
import secrets
import sys
import time
from typing import Any, Final, TextIO

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from service.telemetry.metrics import REQUESTS

SANE_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._~:+/=-]{1,128}")
TOKEN: Final = r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{100,}"  # noqa: S105  # its shape
SECRET: Final = re.compile(
    rf"(?i)(X-Amz-[a-z0-9-]+=)[^&\s\"'\\]+|assay_[A-Za-z0-9_-]{{43}}|{TOKEN}"
)
"""The texts that are hidden as a last resort, because error texts of libraries may quote a URL."""
JSON_HEADERS: Final = {b"cache-control": b"no-store", b"x-content-type-options": b"nosniff"}
KNOWN_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
QUIET_ROUTES: Final = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Routes that are requested every few seconds. Only failures are logged."""

log = structlog.get_logger()


def configure_logs(level: str, *, stream: TextIO | None = None) -> None:
    """Send all logs of this process, including those of libraries, to standard error."""
    output = stream or sys.stderr
    known: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # a plain traceback, because others print locals, which may hold secrets
        structlog.processors.format_exc_info,
    ]
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[*known, *choose_renderer(output)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # The line and its end are one write, because several processes may share the file.
        logger_factory=structlog.WriteLoggerFactory(output),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=known,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *choose_renderer(output),
            ],
        )
    )
    logging.basicConfig(level=max(number, logging.INFO), handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"


def choose_renderer(output: TextIO) -> list[structlog.types.Processor]:
    if output.isatty():
        return [
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
            hide_secrets,
        ]
    return [structlog.processors.JSONRenderer(), hide_secrets]


def hide_secrets(_logger: Any, _method: str, line: Any) -> Any:
    """Replace what looks like a secret in a line that is ready to be written."""
    return (
        SECRET.sub(lambda match: (match[1] or "") + "[hidden]", line)
        if isinstance(line, str)
        else line
    )


class RequestLog:
    """A middleware around the whole app that gives each request an id, a log line and a count.

    It observes what is really sent.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.WEBSOCKET:
            await self.app(scope, receive, send)
            return
        request_id = find_request_id(scope)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            answer = Answer(send, request_id)
            try:
                await self.app(scope, receive, answer.send)
            finally:
                report_request(scope, answer)


class Answer:
    """The response to a client so far.

    JSON must not be cached, and clients must not guess its type.
    """

    def __init__(self, send: Send, request_id: str) -> None:
        self.send_on = send
        self.request_id = request_id.encode()
        self.begun_at = time.perf_counter()
        self.status: int | None = None
        self.sent_bytes = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message["headers"],
                *self.added_headers(dict(message["headers"])),
            ]
        elif message["type"] == "http.response.body":
            self.sent_bytes += len(message["body"])
        await self.send_on(message)

    def added_headers(self, headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        added = [(b"x-request-id", self.request_id)]
        if b"json" in headers.get(b"content-type", b""):
            added += [(name, value) for name, value in JSON_HEADERS.items() if name not in headers]
        return added


def find_request_id(scope: HTTPScope) -> str:
    """Return the request id of the client if it is harmless in a log, or else a new one."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if SANE_REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def report_request(scope: HTTPScope, answer: Answer) -> None:
    route = scope.get("path_template") or "unmatched"
    method = (
        scope["method"] if scope["method"] in KNOWN_METHODS else "other"
    )  # clients choose the method, and each value is a time series
    REQUESTS.labels(route, method, str(answer.status or "none")).inc()
    if route in QUIET_ROUTES and answer.status == 200:
        return
    state = scope.get("state", {})
    principal = state.get("principal")
    log.info(
        "request",
        route=route,
        method=method,
        status=answer.status,
        bytes=0 if method == "HEAD" else answer.sent_bytes,  # the server omits the body
        milliseconds=round((time.perf_counter() - answer.begun_at) * 1000, 2),
        file_id=str(state.get("file_id") or scope.get("path_params", {}).get("file_id") or "")
        or None,
        owner=principal and principal.owner,
    )
