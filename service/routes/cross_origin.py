"""Pages of other origins: which may use the API, and the headers that they may send and read.

See the Fetch standard, section "CORS protocol".
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, get_type_hints

from litestar.config.cors import CORSConfig
from litestar.params import HeaderParameter

from service.routes.downloads import CONDITIONAL_HEADERS
from service.settings import Settings

READ_DIRECTLY: Final = (
    *CONDITIONAL_HEADERS,
    "accept",
    "authorization",
    "content-disposition",
    "content-encoding",
    "content-range",
    "content-type",
    "x-request-id",
)
"""The request headers that the service reads, besides the parameters of handlers and dependencies.

Content-Length and Transfer-Encoding are not among them, because a page cannot set them.
"""
SENT_BY_TRACERS: Final = ("traceparent", "tracestate")
"""The headers that tracing libraries add to each request of a page (W3C Trace Context)."""
READ_BY_PAGES: Final = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Idempotency-Replayed",
    "Last-Modified",
    "Link",
    "Location",
    "Repr-Digest",
    "Retry-After",
    "X-Request-Id",
)


def allow_origins(settings: Settings, functions: Iterable[Callable[..., Any]]) -> CORSConfig | None:
    """Return the CORS configuration, or None if only pages of the API's own origin may use it.

    `functions` are the handlers and their dependencies.
    """
    if not settings.cors_origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=[*READ_DIRECTLY, *SENT_BY_TRACERS, *find_header_parameters(functions)],
        expose_headers=list(READ_BY_PAGES),
        max_age=7200,
    )


def find_header_parameters(functions: Iterable[Callable[..., Any]]) -> Iterator[str]:
    """Yield the names of the request headers that are parameters of the functions."""
    for function in functions:
        for hint in get_type_hints(function, include_extras=True).values():
            for described in getattr(hint, "__metadata__", ()):
                if isinstance(described, HeaderParameter) and described.name:
                    yield described.name
