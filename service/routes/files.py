"""`/files`: declare, list, read, change and delete files."""

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example, OpenAPIFormat
from litestar.params import Body, FromPath, HeaderParameter, QueryParameter

from service import problems
from service.auth.principals import READ, WRITE, Principal, open_to, sign_upload_token
from service.files import lookup, pagination, validation
from service.http.json_responses import JsonResponse
from service.model import Declaration, File, Rejection, State
from service.queries.listing import Filters
from service.resources import Resources
from service.routes.answers import ANYWHERE, READS_JSON, refusals
from service.uploads import declaring, signing

Digest = Annotated[
    str,
    msgspec.Meta(pattern="^[0-9a-f]{64}$", description="SHA-256, 64 lower-case hexadecimal digits"),
]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="A repeated request gets the same file; kept for 24 h",
        schema_extra={"pattern": validation.IDEMPOTENCY_KEY.pattern},
    ),
]
Wait = Annotated[
    int,
    QueryParameter(
        name="wait",
        ge=0,
        le=50,
        description="Seconds to wait for the file to leave pending and verifying",
    ),
]
# A datetime would also be read from a number, so that `2026` would be a second of 1970.
TimeParameter = Annotated[
    str | None,
    QueryParameter(
        description="RFC 3339, with an offset",
        schema_extra={"format": OpenAPIFormat.DATE_TIME.value},
    ),
]
LOCATION = ResponseHeader(
    name="Location", description="The path of the file's metadata", documentation_only=True
)
REPLAYED = ResponseHeader(
    name="Idempotency-Replayed",
    description="`true` if an earlier request created the file",
    documentation_only=True,
)
PHOTO = {
    "filename": "photo.jpg",
    "size": 482113,
    "content_type": "image/jpeg",
    "metadata": {"album": "winter"},
}


class DeclareRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The declaration of a file by its client."""

    filename: Annotated[
        str, msgspec.Meta(description="1 to 255 bytes of UTF-8, no path, no control characters")
    ]
    size: Annotated[int, msgspec.Meta(ge=0, description="Bytes, exactly")]
    content_type: (
        Annotated[
            str,
            msgspec.Meta(description="A media type; if absent or empty, it is not compared"),
        ]
        | None
    ) = None
    sha256: (
        Annotated[
            str, msgspec.Meta(description="The SHA-256 of the bytes; the store refuses others")
        ]
        | None
    ) = None
    metadata: (
        Annotated[dict[str, str], msgspec.Meta(description="At most 32 pairs, 4 KiB in all")] | None
    ) = None
    multipart: (
        Annotated[
            bool,
            msgspec.Meta(
                description="In parts, or in one PUT of up to 5 GiB;"
                " if absent, in parts above MULTIPART_ABOVE"
            ),
        ]
        | None
    ) = None
    owner: (
        Annotated[
            str, msgspec.Meta(description="The file's owner; another owner needs the scope admin")
        ]
        | None
    ) = None


class ChangeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The changes to a file. An absent member stays as it is."""

    filename: (
        Annotated[
            str, msgspec.Meta(description="1 to 255 bytes of UTF-8, no path, no control characters")
        ]
        | None
    ) = None
    metadata: (
        Annotated[
            dict[str, str],
            msgspec.Meta(description="All new pairs, at most 32 and 4 KiB in all"),
        ]
        | None
    ) = None


class FileMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of a file.

    `hash`, `upload_date` and `minio_object_name` are null until it is proved.
    """

    id: UUID
    filename: str
    size: int
    content_type: str
    hash: Digest | None
    upload_date: datetime | None
    minio_object_name: UUID | None
    state: State
    declared_sha256: Digest | None
    metadata: dict[str, str]
    created_at: datetime
    expires_at: datetime
    rejection: Rejection | None


class OfferedUpload(msgspec.Struct, frozen=True, kw_only=True):
    """How to send the bytes, before `expires_at`.

    In one PUT, send exactly these `headers` and exactly `size` bytes, without chunked coding, to
    `url`. In parts, there is `multipart` instead of those three: request a URL for each part from
    `POST /files/{id}/parts`, and then call `complete`.

    `token` is a Bearer token for a sender without a key. It permits only `complete`, `upload`,
    `parts`, `metadata` and DELETE, and only of this file. It is null if the service has no secret
    for signing it.
    """

    method: str | msgspec.UnsetType = msgspec.UNSET
    url: str | msgspec.UnsetType = msgspec.UNSET
    headers: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    multipart: signing.PartCount | msgspec.UnsetType = msgspec.UNSET
    expires_at: datetime
    token: str | None


class DeclaredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file, and how to send its bytes. `upload` is null if none are needed."""

    file: FileMetadata
    upload: OfferedUpload | None


class FilePage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of files, newest first.

    `next` is the cursor of the following page, or null at the end. A page may be short although
    more follow.
    """

    files: list[FileMetadata]
    next: str | None


def describe_file(file: File) -> FileMetadata:
    rejection = (
        None
        if file.rejection_reason is None
        else Rejection(file.rejection_reason, file.rejection_detail or "")
    )
    return FileMetadata(
        id=file.id,
        filename=file.filename,
        size=file.size,
        content_type=file.served_content_type,
        hash=str(file.hash) if file.hash else None,
        upload_date=file.upload_date,
        minio_object_name=file.minio_object_name,
        state=file.state,
        declared_sha256=str(file.declared_sha256) if file.declared_sha256 else None,
        metadata=file.metadata,
        created_at=file.created_at,
        expires_at=file.expires_at,
        rejection=rejection,
    )


def describe_declared(
    resources: Resources, principal: Principal, declared: declaring.Declared
) -> DeclaredFile:
    if declared.upload is None:
        return DeclaredFile(file=describe_file(declared.file), upload=None)
    token = sign_upload_token(resources, declared.file, principal.key_id)
    return DeclaredFile(
        file=describe_file(declared.file),
        upload=OfferedUpload(**msgspec.structs.asdict(declared.upload), token=token),
    )


def metadata_path(resources: Resources, file_id: UUID) -> str:
    """Return the absolute path of a file's metadata, with the path of PUBLIC_URL."""
    return f"{resources.settings.base_path}/files/{file_id}/metadata"


def read_declaration(request: DeclareRequest, principal: Principal) -> Declaration:
    return Declaration(
        owner=validation.check_owner(principal.act_as(request.owner)),
        filename=validation.check_filename(request.filename),
        size=request.size,
        # A browser's `File.type` is empty if the type is not known.
        content_type=validation.check_content_type(request.content_type)
        if request.content_type
        else None,
        sha256=None if request.sha256 is None else validation.parse_sha256(request.sha256),
        metadata=validation.check_metadata(request.metadata or {}),
        multipart=request.multipart,
    )


@post(
    "/files",
    operation_id="declareFile",
    **open_to(WRITE),
    summary="Declare a file and get the URL for its bytes",
    tags=["files"],
    response_headers=[LOCATION, REPLAYED],
    responses={
        200: ResponseSpec(
            DeclaredFile,
            description="The file that an earlier request declared",
            generate_examples=False,
        ),
        **refusals(*ANYWHERE, *READS_JSON, problems.FileTooLarge, problems.IdempotencyMismatch),
    },
)
async def declare_file(
    request: Request[Any, Any, Any],
    data: Annotated[DeclareRequest, Body(examples=[Example(summary="A photo", value=PHOTO)])],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
    idempotency_key: IdempotencyKey = None,
) -> Response[DeclaredFile]:
    declaration = read_declaration(data, principal)
    if idempotency_key is None:
        declared = await declaring.declare_file(resources, declaration)
    else:
        body = validation.digest_declaration(declaration)
        key = validation.check_idempotency_key(idempotency_key)
        declared = await declaring.declare_file_once(resources, declaration, key=key, request=body)
    request.scope["state"]["file_id"] = declared.file.id
    headers = {"Location": metadata_path(resources, declared.file.id)}
    if declared.replayed:
        headers["Idempotency-Replayed"] = "true"
    return JsonResponse(
        describe_declared(resources, principal, declared),
        status_code=200 if declared.replayed else 201,
        headers=headers,
    )


@get(
    "/files",
    operation_id="listFiles",
    **open_to(READ),
    summary="List your files, newest first",
    tags=["files"],
    response_headers=[
        ResponseHeader(
            name="Link", description='The next page: `<…>; rel="next"`', documentation_only=True
        )
    ],
    responses=refusals(*ANYWHERE, problems.InvalidRequest, problems.InvalidCursor),
)
async def list_files(
    request: Request[Any, Any, Any],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
    limit: Annotated[int, QueryParameter(ge=1, le=1000, description="Files per page")] = 100,
    cursor: Annotated[
        str | None, QueryParameter(description="`next` of the previous page, with the same filters")
    ] = None,
    states: Annotated[
        list[State] | None,
        QueryParameter(
            name="state", description="Any of these; if absent, all but expired and deleted"
        ),
    ] = None,
    filename: Annotated[
        str | None, QueryParameter(description="The full name, or a prefix and `*`")
    ] = None,
    content_type: Annotated[
        str | None, QueryParameter(description="The full media type, as the list shows it")
    ] = None,
    hash: Annotated[str | None, QueryParameter(description="SHA-256 in hexadecimal")] = None,
    created_after: TimeParameter = None,
    created_before: TimeParameter = None,
    owner: Annotated[
        str | None, QueryParameter(description="Only for a key with the scope admin")
    ] = None,
) -> Response[FilePage]:
    filters = Filters(
        states=tuple(sorted(set(states))) if states else pagination.SHOWN_STATES,
        filename=filename,
        content_type=None if content_type is None else validation.check_content_type(content_type),
        hash=None if hash is None else validation.parse_sha256(hash, field="hash"),
        created_after=pagination.parse_time(created_after, field="created_after"),
        created_before=pagination.parse_time(created_before, field="created_before"),
    )
    acting_as = validation.check_owner(principal.act_as(owner))
    page = await pagination.list_page(resources, acting_as, filters, cursor=cursor, limit=limit)
    answer = FilePage(files=[describe_file(file) for file in page.files], next=page.next)
    return JsonResponse(answer, headers=link_next(request, resources, page.next))


def link_next(
    request: Request[Any, Any, Any], resources: Resources, cursor: str | None
) -> dict[str, str]:
    """Return the Link header for the next page (RFC 8288), or nothing on the last page."""
    if cursor is None:
        return {}
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return {
        "Link": (
            f"<{resources.settings.base_path}/files?{urlencode([*kept, ('cursor', cursor)])}>;"
            ' rel="next"'
        )
    }


@get(
    "/files/{file_id:uuid}/metadata",
    operation_id="readMetadata",
    **open_to(READ, WRITE, upload_token=True),
    summary="Read a file's metadata, optionally when it is final",
    tags=["files"],
    responses=refusals(*ANYWHERE, problems.InvalidRequest, problems.NotFound),
)
async def read_metadata(
    file_id: FromPath[UUID],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
    wait: Wait = 0,
) -> FileMetadata:
    file = await lookup.find_file(resources, file_id, owner=principal.acting_for)
    return describe_file(await lookup.wait_until_final(resources, file, seconds=wait))


@patch(
    "/files/{file_id:uuid}",
    operation_id="changeFile",
    **open_to(WRITE),
    summary="Change a file's name or metadata",
    description="`metadata` replaces all pairs. The declaration of the bytes does not change.",
    tags=["files"],
    responses=refusals(*ANYWHERE, *READS_JSON, problems.NotFound, problems.FileGone),
)
async def change_file(
    file_id: FromPath[UUID],
    data: Annotated[
        ChangeRequest,
        Body(examples=[Example(summary="Another name", value={"filename": "winter.jpg"})]),
    ],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
) -> FileMetadata:
    changed = await lookup.change_file(
        resources,
        file_id,
        owner=principal.acting_for,
        filename=None if data.filename is None else validation.check_filename(data.filename),
        metadata=None if data.metadata is None else validation.check_metadata(data.metadata),
    )
    return describe_file(changed)


@delete(
    "/files/{file_id:uuid}",
    operation_id="deleteFile",
    **open_to(WRITE, upload_token=True),
    summary="Cancel or delete a file, in any state",
    tags=["files"],
    responses=refusals(*ANYWHERE, problems.InvalidRequest, problems.NotFound),
)
async def delete_file(
    file_id: FromPath[UUID],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
) -> None:
    await lookup.delete_file(
        resources, file_id, owner=principal.acting_for, proved_too=principal.only_file is None
    )
