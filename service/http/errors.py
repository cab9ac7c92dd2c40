"""Error responses: every exception becomes a problem document (RFC 9457)."""

import typing
from enum import Enum
from typing import Any, Final

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from service import database, problems
from service.object_store import StoreError
from service.problems import FieldError, Problem

MEDIA_TYPE: Final = "application/problem+json"

log = structlog.get_logger()


def render_problem(problem: Problem) -> Response[dict[str, Any]]:
    return Response(
        problem.document(),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.headers,
    )


def answer_problem(_: Request[Any, Any, Any], problem: Problem) -> Response[Any]:
    if problem.status >= 500:
        cause = problem.__cause__ or problem
        log.error("request failed", problem=problem.type, error=str(cause) or type(cause).__name__)
    return render_problem(problem)


def answer_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    return answer_problem(request, translate(request, error))


def translate(request: Request[Any, Any, Any], error: HTTPException) -> Problem:
    match error.status_code:
        case 404:
            return problems.NotFound("there is no resource under this path")
        case 405:
            return problems.MethodNotAllowed(
                headers={
                    "Allow": ", ".join(sorted((error.headers or {}).get("allow", "").split(", ")))
                }
            )
        case 413:
            most = request.route_handler.resolve_request_max_body_size()
            return problems.BodyTooLarge(f"the body must not exceed {most} bytes", limit=most)
        case _ if isinstance(error, ValidationException):
            return describe_validation(request, error)
        case status if status < 500:
            return problems.InvalidRequest(error.detail)
        case _ if "disconnected" in error.detail:
            return problems.IncompleteBody(
                "the body ended before the request was complete"
            )  # the client has disconnected
    raise error


def describe_validation(request: Request[Any, Any, Any], error: ValidationException) -> Problem:
    """Return the problem for invalid parameters and headers, under the names that clients use.

    Bodies are read by JsonRequest.
    """
    found = error.extra if isinstance(error.extra, list) else []
    said = {
        str(one.get("key", "request")): str(one.get("message", ""))
        for one in found
        if isinstance(one, dict)
    }
    if said.pop("data", None) is not None and not said:
        return problems.MalformedBody("the body is empty; it must be a JSON object")
    wrong = tuple(
        FieldError(name_for_clients(request, key), explain(request, key, message))
        for key, message in said.items()
    )
    return problems.InvalidRequest(
        "; ".join(f"{one.field}: {one.detail}" for one in wrong) or error.detail, errors=wrong
    )


def name_for_clients(request: Request[Any, Any, Any], key: str) -> str:
    """Return the name that clients use, such as `Idempotency-Key` for the parameter
    `idempotency_key`.
    """
    parameter = request.route_handler.parsed_fn_signature.parameters.get(key)
    return getattr(parameter and parameter.kwarg_definition, "name", None) or key


def explain(request: Request[Any, Any, Any], key: str, message: str) -> str:
    parameter = request.route_handler.parsed_fn_signature.parameters.get(key)
    choices = (
        find_choices(parameter.annotation)
        if parameter and message.startswith("Invalid enum value")
        else []
    )
    return f"{message}: expected one of {', '.join(choices)}" if choices else message


def find_choices(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(member.value) for member in annotation]
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return [str(part) for part in parts]
    return [choice for part in parts for choice in find_choices(part)]


def answer_exception(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Convert an unexpected exception into a 500 problem.

    An unavailable database or store becomes a 503 problem.
    """
    if isinstance(error, database.UNREACHABLE):
        return answer_problem(
            request,
            caused(
                problems.DatabaseUnavailable("the database does not answer; try again later"), error
            ),
        )
    if isinstance(error, StoreError):
        return answer_problem(
            request,
            caused(
                problems.ObjectStoreUnavailable(
                    "the object store does not answer; try again later"
                ),
                error,
            ),
        )
    log.error("request failed", exc_info=error)
    return render_problem(
        problems.InternalError(
            "an internal error occurred; the log contains it under this X-Request-Id"
        )
    )


def caused(problem: Problem, error: Exception) -> Problem:
    problem.__cause__ = error
    return problem
