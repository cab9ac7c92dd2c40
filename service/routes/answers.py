"""The problem documents that routes may answer with, as OpenAPI describes them."""

from collections import defaultdict
from typing import Annotated, Any, Final, cast

import msgspec
from litestar import Request
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example

from service import problems
from service.http.errors import MEDIA_TYPE
from service.problems import FieldError, Problem


class ProblemDocument(msgspec.Struct, kw_only=True):
    """An error response (RFC 9457).

    Other members depend on the type: `state`, `limit`, `reason`, `missing`, `wrong_size` and their
    counts.
    """

    type: Annotated[
        str, msgspec.Meta(description="A URN that names the problem; docs/problems.md lists them")
    ]
    title: str
    status: int
    detail: str | None = None
    errors: list[FieldError] | None = None


ANYWHERE: Final = (problems.Unauthorized, problems.Forbidden, problems.DatabaseUnavailable)
READS_JSON: Final = (
    problems.MalformedBody,
    problems.InvalidRequest,
    problems.SlowSender,
    problems.BodyTooLarge,
    problems.UnsupportedMediaType,
    problems.DigestMismatch,
)


def refusals(*kinds: type[Problem]) -> dict[int, ResponseSpec]:
    by_status: dict[int, list[type[Problem]]] = defaultdict(list)
    for kind in kinds:
        by_status[kind.status].append(kind)
    return {status: describe_status(named) for status, named in sorted(by_status.items())}


def describe_status(kinds: list[type[Problem]]) -> ResponseSpec:
    return ResponseSpec(
        data_container=ProblemDocument,
        description="; ".join(f"`{kind.type}`: {kind.title}" for kind in kinds),
        media_type=cast(
            "Any", MEDIA_TYPE
        ),  # Litestar's annotation names only its own enum, but its code accepts any text
        generate_examples=False,
        examples=[Example(summary=kind.title, value=kind().document()) for kind in kinds],
    )


def read_raw_path(request: Request[Any, Any, Any]) -> bytes:
    """Return the path as the client sent it, percent-encoded and without the query."""
    raw: bytes = request.scope["raw_path"]
    return raw.partition(b"?")[0]
