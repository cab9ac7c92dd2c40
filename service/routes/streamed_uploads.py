"""`POST /files/upload`: an upload in one request.

The bytes go through the API straight to the vault.
"""

import functools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, post
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
from litestar.params import QueryParameter

from service import problems
from service.auth.principals import WRITE, Principal, open_to
from service.files import validation
from service.http.content_disposition import parse_filename
from service.http.digests import REPR_DIGEST, StatedDigest, compare_pieces
from service.http.json_responses import JsonResponse
from service.http.request_bodies import FORM_FIELD, FormReader, find_boundary, read_body
from service.problems import InvalidRequest
from service.resources import Resources
from service.routes.answers import ANYWHERE, refusals
from service.routes.files import (
    LOCATION,
    REPLAYED,
    FileMetadata,
    IdempotencyKey,
    describe_file,
    metadata_path,
)
from service.uploads.buffers import Loan, UploadBuffers
from service.uploads.repeated import upload_once
from service.uploads.streamed import UploadHeaders, check_size

REPEATED: Final = ResponseSpec(
    FileMetadata,
    description="The file of an earlier request with the same key, declaration and bytes",
    generate_examples=False,
)
LARGEST_FRAME_BYTES: Final = 64 * 1024
"""The size that a form may have besides its file, if only the form's length is known."""


@dataclass
class FormOrBytes(Operation):
    """An operation whose body is the file, either in a form or by itself."""

    def __post_init__(self) -> None:
        binary = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
        form = Schema(
            type=OpenAPIType.OBJECT, properties={FORM_FIELD: binary}, required=[FORM_FIELD]
        )
        content = {
            "multipart/form-data": OpenAPIMediaType(schema=form),
            "application/octet-stream": OpenAPIMediaType(schema=binary),
        }
        self.request_body = RequestBody(
            content=content,
            description="The file: the form's field `file`, or the body itself",
            required=True,
        )


@post(
    "/files/upload",
    status_code=201,
    operation_id="uploadFile",
    **open_to(WRITE),
    operation_class=FormOrBytes,
    summary="Send a file in one request",
    description=(
        "The bytes are hashed while they are stored, and the response is a `ready` file."
        " Nothing is kept of a request that fails. The file is not decoded: a Content-Encoding and"
        " a Content-Transfer-Encoding are refused. In a form, Repr-Digest is that of the file, and"
        " the other digests are those of the whole form; a part may have fields of its own."
    ),
    tags=["uploads"],
    request_max_body_size=None,
    response_headers=[LOCATION, REPLAYED],
    responses={
        200: REPEATED,
        **refusals(
            *ANYWHERE,
            problems.InvalidRequest,
            problems.MalformedBody,
            problems.IncompleteBody,
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
async def upload_file(
    request: Request[Any, Any, Any],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
    digests: NamedDependency[tuple[StatedDigest, ...]],
    filename: Annotated[
        str | None,
        QueryParameter(
            description="The name, if neither the form nor Content-Disposition gives it"
        ),
    ] = None,
    metadata: Annotated[
        str | None,
        QueryParameter(description="A JSON object of at most 32 pairs of strings, 4 KiB in all"),
    ] = None,
    idempotency_key: IdempotencyKey = None,
) -> Response[FileMetadata]:
    key = read_key(idempotency_key)
    pairs = {} if metadata is None else read_metadata(metadata)
    boundary = find_boundary(request.headers.get("content-type", ""))
    if boundary is not None:
        return await stream_form(
            request,
            resources,
            principal,
            boundary=boundary,
            filename=filename,
            digests=digests,
            metadata=pairs,
            key=key,
        )
    name = read_disposition(request.headers.get("content-disposition", "")) or filename
    if name is None:
        raise InvalidRequest.at(
            "filename",
            'is missing; send ?filename=… or Content-Disposition: attachment; filename="…"',
        )
    headers = UploadHeaders(
        owner=principal.owner,
        filename=validation.check_filename(name),
        content_type=validation.parse_content_type(request.headers.get("content-type")),
        digests=digests,
        metadata=pairs,
        most_bytes=read_length(request),
        idempotency_key=key,
    )
    return await stream_file(request, resources, headers)


def read_key(text: str | None) -> str | None:
    return None if text is None else validation.check_idempotency_key(text)


def read_metadata(text: str) -> dict[str, str]:
    try:
        pairs = msgspec.json.decode(text, type=dict[str, str] | None)
    except msgspec.DecodeError as error:
        raise InvalidRequest.at(
            "metadata", f'must be a JSON object of strings, such as {{"album": "winter"}}: {error}'
        ) from error
    return validation.check_metadata(pairs or {})


def read_disposition(header: str) -> str | None:
    try:
        return parse_filename(header)
    except ValueError as error:
        raise InvalidRequest.at("Content-Disposition", str(error)) from error


async def stream_form(
    request: Request[Any, Any, Any],
    resources: Resources,
    principal: Principal,
    *,
    boundary: str,
    filename: str | None,
    digests: tuple[StatedDigest, ...],
    metadata: dict[str, str],
    key: str | None,
) -> Response[FileMetadata]:
    """Stream the form's field `file` into the vault.

    The name in the form takes precedence over those of Content-Disposition and `?filename=`.
    Repr-Digest is that of the file, and the other digests of the request are those of the form.
    """
    of_file = tuple(one for one in digests if one.field == REPR_DIGEST)
    of_form = [one for one in digests if one.field != REPR_DIGEST]
    outer = read_disposition(request.headers.get("content-disposition", ""))
    length = read_length(request)
    if length is not None:
        check_size(resources, length - LARGEST_FRAME_BYTES)
    loan = find_buffers(request).open_loan(principal.owner)
    body = read(request, resources, loan, length=length)
    form = FormReader(compare_pieces(body, of_form), boundary)
    said = await form.open()
    name = said.filename or outer or filename
    if name is None:
        raise InvalidRequest.at(
            "filename", 'is missing; send filename="…" with the field `file`, or ?filename=…'
        )
    headers = UploadHeaders(
        owner=principal.owner,
        filename=validation.check_filename(name),
        content_type=validation.parse_content_type(said.content_type, field="file: Content-Type"),
        digests=of_file + said.digests,
        metadata=metadata,
        most_bytes=length,
        idempotency_key=key,
    )
    return await stream(request, resources, headers, loan, form.read())


async def stream_file(
    request: Request[Any, Any, Any], resources: Resources, headers: UploadHeaders
) -> Response[FileMetadata]:
    if headers.most_bytes is not None:
        check_size(resources, headers.most_bytes)
    loan = find_buffers(request).open_loan(headers.owner)
    body = read(request, resources, loan, length=headers.most_bytes)
    return await stream(request, resources, headers, loan, body)


async def stream(
    request: Request[Any, Any, Any],
    resources: Resources,
    headers: UploadHeaders,
    loan: Loan,
    body: AsyncIterator[bytes],
) -> Response[FileMetadata]:
    uploaded = await upload_once(resources, loan, headers, body)
    file = uploaded.file
    request.scope["state"]["file_id"] = file.id
    location = {"Location": metadata_path(resources, file.id)}
    return JsonResponse(
        describe_file(file),
        status_code=200 if uploaded.replayed else 201,
        headers=location | ({"Idempotency-Replayed": "true"} if uploaded.replayed else {}),
    )


def read(
    request: Request[Any, Any, Any], resources: Resources, loan: Loan, *, length: int | None
) -> AsyncIterator[bytes]:
    """Return the bytes of the body. `length` is None for a chunked body.

    While other uploads wait for the memory of `loan`, the lowest rate is higher.
    """
    return read_body(
        request.receive,
        length=length,
        find_rate=functools.partial(loan.find_rate, resources.settings.min_upload_rate),
    )


def read_length(request: Request[Any, Any, Any]) -> int | None:
    """Return the length of the file, or None for a chunked body.

    Raises LengthRequired or InvalidRequest.
    """
    given = request.headers.get("content-length")
    if given is None and "transfer-encoding" not in request.headers:
        raise problems.LengthRequired(
            "the request needs Content-Length or Transfer-Encoding: chunked"
        )
    if given is None:
        return None
    if not (given.isascii() and given.isdigit()):
        raise InvalidRequest.at("Content-Length", "must be a number of bytes")
    return int(given)


def find_buffers(request: Request[Any, Any, Any]) -> UploadBuffers:
    buffers: UploadBuffers = request.app.state.buffers
    return buffers
