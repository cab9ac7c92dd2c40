"""Logs: JSON lines, readable on a terminal; one line a request. Never a key, token, signature, query string or `X-Amz-*` value."""

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
"""The last fence: texts of other people's errors may quote a URL."""
JSON_HEADERS: Final = {b"cache-control": b"no-store", b"x-content-type-options": b"nosniff"}
KNOWN_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
QUIET_ROUTES: Final = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Asked every few seconds by machines; logged only when something was wrong."""

log = structlog.get_logger()


def configure_logs(level: str, *, stream: TextIO | None = None) -> None:
    """Everything that this process logs, libraries included, to standard error."""
    output = stream or sys.stderr
    known: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,  # a plain traceback: the fancy ones print locals, and locals hold secrets
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
    """What looks like a secret, in a line that is ready to be written."""
    return (
        SECRET.sub(lambda match: (match[1] or "") + "[hidden]", line)
        if isinstance(line, str)
        else line
    )


class RequestLog:
    """Around the whole app, so that it sees what really leaves: gives each request its id, its line and its count."""

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
    """What was sent to the client so far. JSON is nobody's to keep, and no client is to guess at its type."""

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
    """The caller's, when it is harmless in a log; else a new one."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if SANE_REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def report_request(scope: HTTPScope, answer: Answer) -> None:
    route = scope.get("path_template") or "unmatched"
    method = (
        scope["method"] if scope["method"] in KNOWN_METHODS else "other"
    )  # a client's to choose, and each value is a time series
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
        bytes=answer.sent_bytes,
        milliseconds=round((time.perf_counter() - answer.begun_at) * 1000, 2),
        file_id=str(state.get("file_id") or scope.get("path_params", {}).get("file_id") or "")
        or None,
        owner=principal and principal.owner,
    )
