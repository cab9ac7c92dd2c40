"""`/files/{id}/parts`: a URL for each part that is to be sent, and the parts that have come."""

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
    """A part that is to be sent."""

    number: Annotated[
        int,
        msgspec.Meta(ge=1, description="From 1 to the number of parts that the file was cut into"),
    ]
    sha256: (
        Annotated[
            str, msgspec.Meta(description="The part's digest; the store refuses any other bytes")
        ]
        | None
    ) = None


class PartsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parts that are to be sent next."""

    parts: Annotated[
        list[PartRequest],
        msgspec.Meta(min_length=1, max_length=MOST_PARTS_A_REQUEST, description="Each number once"),
    ]


class SignedParts(msgspec.Struct, frozen=True):
    """In the order of the request."""

    parts: list[SignedPart]


class StoredParts(msgspec.Struct, frozen=True):
    """What the store has, by number; sizes in bytes."""

    parts: list[StoredPart]


@post(
    "/files/{file_id:uuid}/parts",
    status_code=200,
    operation_id="signParts",
    **open_to(WRITE, upload_token=True),
    summary="A URL for each of some parts",
    description="Each is bound to its part's exact size and, if given, its SHA-256. A part that is sent again replaces the one before.",
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
    summary="The parts that the store has",
    description="For a client that goes on after a cut: what is missing here is still to be sent.",
    tags=["uploads"],
    responses=refusals(*ANYWHERE, *REFUSED, problems.UploadLost),
)
async def list_parts(
    file_id: FromPath[UUID],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
) -> StoredParts:
    return StoredParts(await multipart.list_parts(resources, file_id, owner=principal.acting_for))
