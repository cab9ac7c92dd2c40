"""`POST /files/{id}/upload`: a new upload URL for a pending file, or the bytes of a damaged one."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.openapi.spec import (
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)
from litestar.params import FromPath

from service import problems
from service.auth.principals import WRITE, Principal, open_to
from service.files.lookup import find_file
from service.http.digests import read_digests
from service.http.request_bodies import check_content
from service.model import File, ProvedFile, State
from service.problems import Forbidden, InvalidRequest, UnsupportedMediaType
from service.resources import Resources
from service.routes.answers import ANYWHERE, refusals
from service.routes.files import DeclaredFile, describe_declared
from service.routes.streamed_uploads import find_buffers, read, read_disposition, read_length
from service.uploads import declaring, mending
from service.uploads.declaring import Declared


@dataclass
class BytesOfDamaged(Operation):
    """An operation whose body is the file if that is damaged, and is empty otherwise."""

    def __post_init__(self) -> None:
        content = OpenAPIMediaType(
            schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
        )
        self.request_body = RequestBody(
            content={"application/octet-stream": content},
            description="The bytes of a damaged file. Empty for every other file.",
            required=False,
        )


@post(
    "/files/{file_id:uuid}/upload",
    status_code=200,
    operation_id="renewUpload",
    **open_to(WRITE, upload_token=True),
    operation_class=BytesOfDamaged,
    summary="Get a new upload URL for a pending file, or send a damaged file again",
    description=(
        "A pending file gets a new upload URL for the same key. The body must be empty."
        " For a damaged file, the body is the file: it must have the proved size and SHA-256. It is"
        " hashed while it is stored, and then the file is `ready` again, and `upload` is null."
        " This needs an API key. `Repr-Digest`, `Content-Digest`, `Content-MD5` and `Digest` are"
        " compared with the body. An `Idempotency-Key` is refused, because a repeated request finds"
        " the file `ready` (409)."
    ),
    tags=["uploads"],
    request_max_body_size=None,
    responses=refusals(
        *ANYWHERE,
        problems.InvalidRequest,
        problems.IncompleteBody,
        problems.NotFound,
        problems.SlowSender,
        problems.AlreadyUploaded,
        problems.FileGone,
        problems.FileTooLarge,
        problems.UnsupportedMediaType,
        problems.DigestMismatch,
        problems.ObjectStoreUnavailable,
        problems.Unavailable,
    ),
)
async def renew_upload(
    request: Request[Any, Any, Any],
    file_id: FromPath[UUID],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
) -> DeclaredFile:
    file = await find_file(resources, file_id, owner=principal.acting_for)
    if isinstance(file, ProvedFile) and file.state == State.DAMAGED:
        mended = await send_again(request, resources, principal, file)
        return describe_declared(resources, principal, Declared(mended, None))
    if file.state == State.PENDING and await has_body(request, resources, principal):
        raise await mending.refuse(resources, file)
    return describe_declared(resources, principal, await declaring.renew_upload(resources, file))


async def send_again(
    request: Request[Any, Any, Any], resources: Resources, principal: Principal, file: ProvedFile
) -> File:
    """Stream the body into the vault, after the checks of the header fields.

    Raises Forbidden, InvalidRequest, UnsupportedMediaType, and the exceptions of the operation.
    """
    check_key(principal)
    check_description(request, file)
    fields = list(request.headers.multi_items())
    check_content(fields)
    length = find_length(request)
    loan = find_buffers(request).open_loan(principal.owner)
    return await mending.send_again(
        resources,
        loan,
        file,
        length=length,
        digests=read_digests(fields),
        body=read(request, resources, loan, length=length),
    )


def check_key(principal: Principal) -> None:
    """Refuse an upload token. It was given away to send a declared file, which was proved."""
    if principal.only_file is not None:
        raise Forbidden("the file is proved and damaged: use an API key to send it again")


def check_description(request: Request[Any, Any, Any], file: ProvedFile) -> None:
    """Refuse fields that describe another file, and a key that would not be recorded.

    Raises InvalidRequest and UnsupportedMediaType.
    """
    if "idempotency-key" in request.headers:
        raise InvalidRequest.at(
            "Idempotency-Key",
            "is not supported for a damaged file: omit it, because a repeated request finds the"
            " file ready",
        )
    content_type = request.headers.get("content-type", file.served_content_type)
    if content_type not in (file.served_content_type, "application/octet-stream"):
        raise UnsupportedMediaType.at(
            "Content-Type",
            f"must be {file.served_content_type} or application/octet-stream, or absent: send the"
            " bytes of the file as the body, and not in a form",
        )
    named = read_disposition(request.headers.get("content-disposition", ""))
    if named not in (None, file.filename):
        raise InvalidRequest.at("Content-Disposition", "names another file; omit it")


def find_length(request: Request[Any, Any, Any]) -> int | None:
    """Return the length of the body, which is 0 if there is none, or None for a chunked body."""
    if "content-length" not in request.headers and "transfer-encoding" not in request.headers:
        return 0
    return read_length(request)


async def has_body(
    request: Request[Any, Any, Any], resources: Resources, principal: Principal
) -> bool:
    """Return whether the body has any bytes. At most the first piece of a chunked body is read."""
    length = find_length(request)
    if length is not None:
        return length > 0
    loan = find_buffers(request).open_loan(principal.owner)
    async for _ in read(request, resources, loan, length=None):
        return True
    return False
