"""Error responses of the HTTP server itself, which are written, logged and counted like the
application's.
"""

import secrets
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

import msgspec
import structlog

from service.problems import Problem
from service.telemetry.metrics import REQUESTS

ROUTE: Final = "unmatched"
"""The label for a request that reached no route."""

log = structlog.get_logger()


def write_refusal(
    problem: Problem, *, fields: Iterable[tuple[bytes, bytes]], request_id: str, without_body: bool
) -> bytes:
    """Return the response as bytes. It announces the end of the connection (RFC 9112, section 9.6).

    `fields` are the header fields that every response has, such as Date.
    """
    body = msgspec.json.encode(problem.document())
    head = [
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
        *(f"{name.decode()}: {value.decode()}" for name, value in fields),
        *(f"{name}: {value}" for name, value in problem.headers.items()),
        "content-type: application/problem+json",
        f"content-length: {len(body)}",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        f"x-request-id: {request_id}",
        "connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + (b"" if without_body else body)


def report_refusal(problem: Problem, request_id: str) -> None:
    """Log and count a refusal.

    Nothing of the request is logged, because it may contain an API key.
    """
    REQUESTS.labels(ROUTE, "other", str(problem.status)).inc()
    log.info(
        "request refused",
        status=problem.status,
        problem=problem.type,
        detail=problem.detail or None,
        request_id=request_id,
    )


def make_request_id() -> str:
    return secrets.token_hex(8)
