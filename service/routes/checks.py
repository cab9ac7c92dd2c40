"""Checks of every request before its handler runs: the query, the fields given more than once, and
conditions that would not be evaluated.

What is misspelt, given twice or not UTF-8 is refused, and never ignored. (If filters were ignored,
the request would list all files.)
"""

from typing import Any, Final
from urllib.parse import parse_qsl

from litestar import HttpMethod, Request
from litestar.params import QueryParameter

from service.problems import InvalidRequest

ANY_PARAMETER: Final = "any_query_parameter"
"""The option of a route that accepts and ignores parameters that it does not know."""
SINGLE_FIELDS: Final = (
    "Content-Disposition",
    "Content-Range",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
)
"""Fields that are not lists (RFC 9110, section 5.3). Only one of several lines would be read."""

CONDITIONS: Final = ("If-Match", "If-Unmodified-Since")
"""Fields that limit a change to a certain state of the file. Only GET and HEAD evaluate them."""


async def check_request(request: Request[Any, Any, Any]) -> None:
    """Check the query and the fields of a request. Raises InvalidRequest."""
    if request.method == HttpMethod.OPTIONS or request.route_handler.opt.get(ANY_PARAMETER):
        return
    for name in SINGLE_FIELDS:
        if len(request.headers.getall(name, [])) > 1:
            raise InvalidRequest.at(name, "was given more than once")
    if request.method not in (HttpMethod.GET, HttpMethod.HEAD):
        for name in CONDITIONS:
            if name in request.headers:
                raise InvalidRequest.at(name, "is evaluated by GET and HEAD only: omit it")
    if query := request.scope["query_string"]:
        check_query(query, find_parameters(request))


def check_query(query: bytes, known: dict[str, bool]) -> None:
    """Check the names and values of parameters. `known` says which may be given more than once.

    Raises InvalidRequest.
    """
    seen = set()
    # A surrogate stands for each byte that is not UTF-8.
    for name, value in parse_qsl(
        query.decode("latin-1"), keep_blank_values=True, errors="surrogateescape"
    ):
        if name not in known:
            raise InvalidRequest.at(replace_surrogates(name)[:100], describe_known(known))
        if name in seen and not known[name]:
            raise InvalidRequest.at(name, "was given more than once")
        seen.add(name)
        if replace_surrogates(value) != value:
            raise InvalidRequest.at(name, "must be UTF-8, percent-encoded")
        if "\x00" in value:
            raise InvalidRequest.at(name, "contains a NUL character: send text without it")


def find_parameters(request: Request[Any, Any, Any]) -> dict[str, bool]:
    """Return the names of the route's parameters, and whether each may be given more than once."""
    return {
        field.kwarg_definition.name or field.name: field.is_non_string_sequence
        for field in request.route_handler.parsed_fn_signature.parameters.values()
        if isinstance(field.kwarg_definition, QueryParameter)
    }


def describe_known(known: dict[str, bool]) -> str:
    if not known:
        return "is not a parameter of this route, which has none; omit it"
    return f"is not a parameter of this route; the parameters are {', '.join(sorted(known))}"


def replace_surrogates(text: str) -> str:
    return text.encode(errors="replace").decode()
