"""The routes of an upload with one command, and of the report that the bytes have arrived."""

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes
from uuid import UUID

import msgspec
from litestar import MediaType, Request, Response, post, put
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)
from litestar.params import FromPath, JSONBody, PathParameter

from service import problems
from service.auth.principals import WRITE, Principal, open_to
from service.files import lookup, validation
from service.http.digests import StatedDigest, take_sha256_alone
from service.http.json_responses import JsonResponse
from service.model import GONE, UNPROVED, Declaration, Sha256
from service.problems import InvalidRequest
from service.resources import Resources
from service.routes.answers import ANYWHERE, READS_JSON, read_raw_path, refusals
from service.routes.files import (
    FileMetadata,
    IdempotencyKey,
    Wait,
    describe_file,
    metadata_path,
)
from service.routes.streamed_uploads import (
    REPEATED,
    read_disposition,
    read_key,
    read_length,
    stream_file,
)
from service.uploads import completion, declaring
from service.uploads.streamed import UploadHeaders


class CompleteRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The optional body of `complete`, for clients that compute the digest while they send."""

    sha256: (
        Annotated[
            str,
            msgspec.Meta(
                description="The SHA-256 of the bytes; set once, while the file is not final"
            ),
        ]
        | None
    ) = None


@dataclass
class AnyBody(Operation):
    """An operation whose body is the file itself."""

    def __post_init__(self) -> None:
        content = OpenAPIMediaType(
            schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
        )
        self.request_body = RequestBody(
            content={"application/octet-stream": content}, description="The bytes of the file"
        )


@put(
    "/upload/{filename:path}",
    status_code=201,
    operation_id="uploadByRedirect",
    **open_to(WRITE),
    operation_class=AnyBody,
    summary="Upload with one command: curl -LT photo.jpg …/upload/",
    description=(
        "With Content-Length, the response is 307, and the client sends the body to the store. Such"
        " a request may state a sha-256, but no other digest and no Idempotency-Key."
        " Without Content-Length, the body is streamed through the API."
    ),
    tags=["uploads"],
    request_max_body_size=None,
    response_headers=[
        ResponseHeader(
            name="Location",
            description="The store's URL (307), or the metadata's path (201)",
            documentation_only=True,
        ),
        ResponseHeader(
            name="Link",
            description='307: `<…/metadata>; rel="describedby"`',
            documentation_only=True,
        ),
    ],
    responses={
        200: REPEATED,
        201: ResponseSpec(FileMetadata, description="Streamed and proved", generate_examples=False),
        307: ResponseSpec(
            None,
            description="Send the same body to Location, without chunked coding",
            generate_examples=False,
        ),
        **refusals(
            *ANYWHERE,
            problems.InvalidRequest,
            problems.IncompleteBody,
            problems.NotFound,
            problems.SlowSender,
            problems.LengthRequired,
            problems.FileTooLarge,
            problems.UnsupportedMediaType,
            problems.DigestMismatch,
            problems.IdempotencyMismatch,
            problems.ObjectStoreUnavailable,
            problems.Unavailable,
        ),
    },
)
async def upload_by_redirect(
    request: Request[Any, Any, Any],
    filename: Annotated[  # noqa: ARG001  # read from the path as it was sent
        str, PathParameter(description="1 to 255 bytes of UTF-8, percent-encoded")
    ],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
    digests: NamedDependency[tuple[StatedDigest, ...]],
    idempotency_key: IdempotencyKey = None,
) -> Response[Any]:
    name = read_filename(request)
    check_same_name(request, name)
    content_type = validation.parse_content_type(request.headers.get("content-type"))
    size = read_length(request)
    if size is None:
        headers = UploadHeaders(
            owner=principal.owner,
            filename=name,
            content_type=content_type,
            digests=digests,
            most_bytes=None,
            idempotency_key=read_key(idempotency_key),
        )
        return await stream_file(request, resources, headers)
    if idempotency_key is not None:
        raise InvalidRequest.at(
            "Idempotency-Key",
            "is not supported with Content-Length, because the request is redirected to the store:"
            " send the body chunked, or declare the file with POST /files",
        )
    sha256 = take_sha256_alone(digests)
    return await redirect(
        request,
        resources,
        declare_upload(principal, name, size=size, content_type=content_type, sha256=sha256),
    )


def declare_upload(
    principal: Principal,
    filename: str,
    *,
    size: int,
    content_type: str | None,
    sha256: Sha256 | None,
) -> Declaration:
    return Declaration(
        owner=principal.owner,
        filename=filename,
        size=size,
        content_type=content_type,
        sha256=sha256,
        metadata={},
        multipart=False,
    )


async def redirect(
    request: Request[Any, Any, Any], resources: Resources, declaration: Declaration
) -> Response[bytes]:
    """Answer with a redirect to a URL that binds only the length, because the client sends headers
    of its own.
    """
    file, upload = await declaring.declare_redirect(resources, declaration)
    request.scope["state"]["file_id"] = file.id
    link = f'<{metadata_path(resources, file.id)}>; rel="describedby"'
    headers = {"Location": upload.url, "Link": link, "Cache-Control": "no-store"}
    return Response(b"", status_code=307, media_type=MediaType.TEXT, headers=headers)


def read_filename(request: Request[Any, Any, Any]) -> str:
    """Return the filename from the path as the client sent it. Raises InvalidRequest.

    The path that the server decoded is not used, because bytes that are not UTF-8 are lost in it.
    """
    encoded = read_raw_path(request).partition(b"/upload/")[2]
    try:
        name = unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest.at("filename", "must be UTF-8, percent-encoded") from error
    return validation.check_filename(name)


def check_same_name(request: Request[Any, Any, Any], filename: str) -> None:
    """Raise InvalidRequest if Content-Disposition names another file than the path does."""
    if read_disposition(request.headers.get("content-disposition", "")) not in (None, filename):
        raise InvalidRequest.at("Content-Disposition", "names another file than the path; omit it")


@post(
    "/files/{file_id:uuid}/complete",
    status_code=202,
    operation_id="completeUpload",
    **open_to(WRITE, upload_token=True),
    summary="Report that the bytes have arrived",
    description=(
        "A file of at most 1 MiB is proved by this request, if no worker has begun with it. The"
        " response is 200 if the file is final, and 202 otherwise."
    ),
    tags=["uploads"],
    responses={
        200: ResponseSpec(FileMetadata, description="The file is final", generate_examples=False),
        **refusals(
            *ANYWHERE,
            *READS_JSON,
            problems.NotFound,
            problems.NotUploaded,
            problems.IncompleteParts,
            problems.UploadLost,
            problems.DigestConflict,
            problems.FileGone,
            problems.Unavailable,
            problems.ObjectStoreUnavailable,
        ),
    },
)
async def complete_upload(
    file_id: FromPath[UUID],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
    wait: Wait = 0,
    data: JSONBody[CompleteRequest | None] = None,
) -> Response[FileMetadata]:
    sha256 = validation.parse_sha256(data.sha256) if data and data.sha256 is not None else None
    file = await completion.complete_upload(
        resources, file_id, owner=principal.acting_for, sha256=sha256
    )
    file = await lookup.wait_until_final(resources, file, seconds=wait)
    if file.state in GONE:
        raise lookup.gone(file)
    return JsonResponse(describe_file(file), status_code=202 if file.state in UNPROVED else 200)
