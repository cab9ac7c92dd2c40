"""`/files/{id}/parts`: upload URLs for parts, and a list of the parts that the store has."""

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath

from service import problems
from service.auth.principals import READ, WRITE, Principal, open_to
from service.files import validation
from service.object_store import StoredPart
from service.resources import Resources
from service.routes.answers import ANYWHERE, READS_JSON, refusals
from service.uploads import multipart
from service.uploads.multipart import SignedPart

MOST_PARTS_A_REQUEST = 1_000
LARGEST_BODY_BYTES = 256 * 1024
REFUSED = (
    problems.InvalidRequest,
    problems.NotFound,
    problems.NotMultipart,
    problems.AlreadyUploaded,
    problems.FileGone,
    problems.ObjectStoreUnavailable,
)


class PartRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part to send."""

    number: Annotated[
        int,
        msgspec.Meta(ge=1, description="From 1 to the file's number of parts"),
    ]
    sha256: (
        Annotated[
            str, msgspec.Meta(description="The part's SHA-256; the store refuses other bytes")
        ]
        | None
    ) = None


class PartsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parts to send next."""

    parts: Annotated[
        list[PartRequest],
        msgspec.Meta(min_length=1, max_length=MOST_PARTS_A_REQUEST, description="Each number once"),
    ]


class SignedParts(msgspec.Struct, frozen=True):
    """The upload URLs, in the order of the request."""

    parts: list[SignedPart]


class StoredParts(msgspec.Struct, frozen=True):
    """The parts that the store has, by number. Sizes are in bytes."""

    parts: list[StoredPart]


@post(
    "/files/{file_id:uuid}/parts",
    status_code=200,
    operation_id="signParts",
    **open_to(WRITE, upload_token=True),
    summary="Get upload URLs for parts",
    description=(
        "Each URL is bound to the part's exact size and, if given, to its SHA-256."
        " A part that is sent again replaces the earlier one."
    ),
    tags=["uploads"],
    request_max_body_size=LARGEST_BODY_BYTES,
    responses=refusals(*ANYWHERE, *READS_JSON, *REFUSED),
)
async def sign_parts(
    file_id: FromPath[UUID],
    data: Annotated[
        PartsRequest,
        Body(
            examples=[
                Example(summary="The first two", value={"parts": [{"number": 1}, {"number": 2}]})
            ]
        ),
    ],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
) -> SignedParts:
    wanted = [read_part(part, index) for index, part in enumerate(data.parts)]
    return SignedParts(
        await multipart.sign_parts(resources, file_id, wanted, owner=principal.acting_for)
    )


def read_part(part: PartRequest, index: int) -> multipart.PartRequest:
    sha256 = (
        None
        if part.sha256 is None
        else validation.parse_sha256(part.sha256, field=f"parts[{index}].sha256")
    )
    return multipart.PartRequest(part.number, sha256)


@get(
    "/files/{file_id:uuid}/parts",
    operation_id="listParts",
    **open_to(READ, WRITE, upload_token=True),
    summary="List the parts that the store has",
    description="A client that resumes an upload sends the parts that are missing here.",
    tags=["uploads"],
    responses=refusals(*ANYWHERE, *REFUSED, problems.UploadLost),
)
async def list_parts(
    file_id: FromPath[UUID],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
) -> StoredParts:
    return StoredParts(await multipart.list_parts(resources, file_id, owner=principal.acting_for))
