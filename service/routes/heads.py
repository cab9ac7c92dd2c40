"""HEAD for each route that has GET (RFC 9110, section 9.3.2).

The handler of GET answers, so that the fields of both responses are the same. The HTTP server omits
the content. The OpenAPI document describes HEAD once for all of these routes.
"""

import copy
from collections.abc import Iterable
from typing import Any

from litestar import Router
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute


def with_heads(handlers: Iterable[Any]) -> list[Any]:
    """Return the handlers, and one for HEAD for each that answers GET alone."""
    given = list(handlers)
    return [*given, *(answer_head(one) for one in given if one.http_methods == {"GET"})]


def register_heads(router: Router) -> None:
    """Add HEAD to the routes of a router whose handlers the framework has made."""
    routes = [route for route in router.routes if isinstance(route, HTTPRoute)]
    found = dict.fromkeys(handler for route in routes for handler in route.route_handlers)
    for handler in with_heads(found)[len(found) :]:
        router.register(handler)


def answer_head(handler: HTTPRouteHandler) -> HTTPRouteHandler:
    answering = copy.copy(handler)
    answering.http_methods = {"HEAD"}
    answering.include_in_schema = False
    return answering
