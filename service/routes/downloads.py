"""`GET` and `HEAD /files/{id}`: the bytes of a proved file."""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, cast
from uuid import UUID

import structlog
from litestar import HttpMethod, Request, Response, route
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation
from litestar.params import FromPath, QueryParameter

from service import problems
from service.auth.principals import READ, Principal, open_to
from service.downloads.handover import describe_handover, is_handed_over
from service.downloads.permits import Permit, Permits
from service.downloads.streaming import Download, DownloadBuffers, find_readable, open_source
from service.http.representation import (
    Headers,
    choose_span,
    describe_body,
    describe_file,
    is_not_modified,
)
from service.model import ProvedFile
from service.resources import Resources
from service.routes.answers import ANYWHERE, refusals

CONDITIONAL_HEADERS: Final = (
    "if-match",
    "if-unmodified-since",
    "if-none-match",
    "if-modified-since",
    "if-range",
    "range",
)
OCTETS: Final = cast("Any", "application/octet-stream")
"""The type by which generated clients find out that a body has the bytes of a file.

Litestar's annotation names only its own enum, but its code accepts any text.
"""
SENT_HEADERS: Final = [
    ResponseHeader(
        name="ETag", description="The SHA-256, as a strong validator", documentation_only=True
    ),
    ResponseHeader(
        name="Repr-Digest", description="The SHA-256 (RFC 9530)", documentation_only=True
    ),
    ResponseHeader(
        name="Last-Modified", description="When the file was proved", documentation_only=True
    ),
    ResponseHeader(
        name="Content-Disposition", description="The filename (RFC 6266)", documentation_only=True
    ),
]
BODY_ANSWERS: Final = {
    200: ResponseSpec(
        bytes, description="The whole file", media_type=OCTETS, generate_examples=False
    ),
    206: ResponseSpec(
        bytes,
        description="The requested range",
        media_type=OCTETS,
        generate_examples=False,
    ),
    304: ResponseSpec(None, description="The client has the file already", generate_examples=False),
}


@dataclass
class FileAnswer(Operation):
    """An operation that answers with a file, whose media type is not known in advance."""

    def __post_init__(self) -> None:
        for answer in (self.responses or {}).values():
            content = getattr(answer, "content", None) or {}
            if OCTETS in content:
                content["*/*"] = content[OCTETS]


UNREADABLE: Final = (
    problems.NotReady,
    problems.FileRejected,
    problems.FileDamaged,
    problems.FileGone,
)

log = structlog.get_logger()


def name_operation(_: object, method: HttpMethod | str, __: object) -> str:
    return f"{str(getattr(method, 'value', method)).lower()}File"


@route(
    "/files/{file_id:uuid}",
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    operation_id=name_operation,
    operation_class=FileAnswer,
    **open_to(READ),
    summary="Download a file",
    description=(
        "The bytes, whose SHA-256 is the file's `hash`. A single `Range` is honoured."
        " Several ranges, and a range of a HEAD request, are ignored."
    ),
    tags=["files"],
    response_headers=SENT_HEADERS,
    responses={
        **BODY_ANSWERS,
        **refusals(
            *ANYWHERE,
            problems.InvalidRequest,
            problems.NotFound,
            *UNREADABLE,
            problems.PreconditionFailed,
            problems.RangeNotSatisfiable,
            problems.ObjectStoreUnavailable,
        ),
    },
)
async def read_file(
    request: Request[Any, Any, Any],
    file_id: FromPath[UUID],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
    downloads: NamedDependency[DownloadBuffers],
    permits: NamedDependency[Permits],
    disposition: Annotated[
        Literal["attachment", "inline"],
        QueryParameter(
            description="`inline` lets a browser show harmless types; others stay attachments"
        ),
    ] = "attachment",
) -> Response[Any]:
    file = await find_readable(resources, file_id, owner=principal.acting_for)
    permit = permits.issue(file.id, principal.key_id)
    inline = disposition == "inline"
    return await answer_file(request, resources, downloads, file, permit, inline=inline)


async def answer_file(
    request: Request[Any, Any, Any],
    resources: Resources,
    downloads: DownloadBuffers,
    file: ProvedFile,
    permit: Permit,
    *,
    inline: bool,
    embed: bool = False,
) -> Response[Any]:
    """Answer with a file that the request may read, after its conditions and range.

    Raises PreconditionFailed, RangeNotSatisfiable or StoreError.
    """
    headers = describe_file(file, inline=inline, embed=embed)
    asked = read_conditions(request)
    if is_not_modified(file, asked):
        return Download(downloads, None, permit, status=304, headers=headers)
    # the row is enough; ranges apply to GET only (RFC 9110, section 14.2)
    if request.method == "HEAD":
        described = headers | describe_body(file, None)
        return Download(downloads, None, permit, status=200, headers=described)
    span = choose_span(file, asked)
    length = file.size if span is None else span.length
    if resources.reader is not None and is_handed_over(
        resources.settings, request.headers, file, length
    ):
        handed_over = describe_handover(
            resources.settings, resources.reader, file, span, described=headers
        )
        return Download(downloads, None, permit, status=200, headers=handed_over)
    source = await open_source(resources, downloads, file, span)
    return Download(
        downloads,
        source,
        permit,
        status=200 if span is None else 206,
        headers=headers | describe_body(file, span),
    )


def read_conditions(request: Request[Any, Any, Any]) -> Headers:
    lines = {name: request.headers.getall(name, []) for name in CONDITIONAL_HEADERS}
    return {name: ", ".join(values) for name, values in lines.items() if values}
