"""`POST /files/{id}/links`, which creates a link, and `/l/{token}`, which serves it."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import HttpMethod, Request, Response, post, route
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath

from service import problems
from service.auth.principals import READ, Principal, open_to
from service.downloads import links
from service.downloads.permits import Permits
from service.downloads.streaming import DownloadBuffers
from service.resources import Resources
from service.routes.answers import ANYWHERE, READS_JSON, refusals
from service.routes.checks import ANY_PARAMETER
from service.routes.downloads import (
    BODY_ANSWERS,
    SENT_HEADERS,
    UNREADABLE,
    FileAnswer,
    answer_file,
)

LONGEST_SECONDS = int(links.LONGEST.total_seconds())


class LinkRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The lifetime of a link, and how a browser treats the file."""

    expires_in: Annotated[
        int, msgspec.Meta(ge=1, le=LONGEST_SECONDS, description="Seconds, at most 7 days")
    ]
    disposition: Annotated[
        Literal["attachment", "inline"] | None,
        msgspec.Meta(
            description="`inline` lets a browser show harmless types; others stay attachments,"
            " and so does every file if this is absent"
        ),
    ] = None
    embed: Annotated[
        bool | None,
        msgspec.Meta(description="true: pages of other origins may show it, for example in <img>"),
    ] = None


class SignedLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link. With `url`, the file can be read until `expires_at` without a key."""

    url: Annotated[
        str,
        msgspec.Meta(
            description="A URL if ASSAY_PUBLIC_URL is set, else a path at the API's address"
        ),
    ]
    expires_at: datetime


@post(
    "/files/{file_id:uuid}/links",
    operation_id="makeLink",
    **open_to(READ),
    summary="Create a link that works without a key",
    description=(
        "The link is valid until it expires, the file is deleted, or the API key that created it"
        " expires or is revoked."
        " It needs the scope `read`, because it gives access to the bytes."
    ),
    tags=["links"],
    responses=refusals(
        *ANYWHERE, *READS_JSON, problems.NotFound, *UNREADABLE, problems.LinksNotAvailable
    ),
)
async def make_link(
    file_id: FromPath[UUID],
    data: Annotated[
        LinkRequest, Body(examples=[Example(summary="For a day", value={"expires_in": 86400})])
    ],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
) -> SignedLink:
    made = await links.make_link(
        resources,
        file_id,
        principal,
        expires_in=timedelta(seconds=data.expires_in),
        inline=data.disposition == "inline",
        embed=bool(data.embed),
    )
    public_url = resources.settings.public_url or ""  # never from Host, which the client chooses
    return SignedLink(url=public_url + made.path, expires_at=made.expires_at)


def name_operation(_: object, method: HttpMethod | str, path: list[Any]) -> str:
    kind = "NamedLinkedFile" if len(path) == len(("l", "token", "filename")) else "LinkedFile"
    return f"{str(getattr(method, 'value', method)).lower()}{kind}"


@route(
    ["/l/{token:str}", "/l/{token:str}/{filename:path}"],
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    operation_id=name_operation,
    operation_class=FileAnswer,
    opt={ANY_PARAMETER: True},  # people's tools add parameters of their own to links
    summary="Download the file of a link",
    description=(
        "The same as `GET /files/{id}`, without a key. The filename is for clients that save a file"
        " under the last segment of its URL. It is not read."
    ),
    tags=["links"],
    security=[],
    response_headers=SENT_HEADERS,
    responses={
        **BODY_ANSWERS,
        **refusals(
            problems.InvalidRequest,
            problems.InvalidLink,
            *UNREADABLE,
            problems.LinkEnded,
            problems.PreconditionFailed,
            problems.RangeNotSatisfiable,
            problems.DatabaseUnavailable,
            problems.ObjectStoreUnavailable,
        ),
    },
)
async def read_linked_file(
    request: Request[Any, Any, Any],
    token: FromPath[str],
    resources: NamedDependency[Resources],
    downloads: NamedDependency[DownloadBuffers],
    permits: NamedDependency[Permits],
) -> Response[Any]:
    file, link = await links.find_linked(resources, token)
    request.scope["state"]["file_id"] = file.id
    permit = permits.issue(file.id, link.key_id)
    return await answer_file(
        request, resources, downloads, file, permit, inline=link.inline, embed=link.embed
    )
