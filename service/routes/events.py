"""`GET /events`: Server-Sent Events of what becomes of files."""

import re
from typing import Annotated, Any, Final, Literal, cast
from uuid import UUID

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import HeaderParameter, QueryParameter

from service import problems
from service.auth.principals import READ, Principal, open_to
from service.events.feed import EventStream, Feed
from service.events.subscribers import Subscriber
from service.files import lookup, pagination
from service.files.validation import LONGEST_OWNER_BYTES, is_owner
from service.problems import InvalidRequest
from service.queries.history import Position
from service.resources import Resources
from service.routes.answers import ANYWHERE, refusals

PARAMETERS: Final = frozenset({"file", "owner"})
EVENT_ID: Final = re.compile(r"([0-9]{1,20})-([0-9]{1,19})")
DESCRIPTION: Final = """
Each `transition` has one line of JSON: `file_id`, `filename`, `state`, `previous`, `at`, `by`, `why`, `hash`.
`Last-Event-ID` goes on behind that event; without it the stream begins now. An id without data says where to go on; it is no event.
`reset`: what came after that id is no longer all there, so list the files again; events go on from now.
A comment comes after 15 s of silence, and the stream ends after an hour: come back with the last id.
"""


class SentEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event, as a subscriber of event streams hands it out."""

    id: Annotated[str, msgspec.Meta(pattern=f"^{EVENT_ID.pattern}$")]
    event: Literal["transition", "reset"]
    data: Annotated[str, msgspec.Meta(description="JSON: what became of a file; `{}` of a `reset`")]


PROVED: Final = SentEvent(
    id="1412-86",
    event="transition",
    data=(
        '{"file_id":"01a0c8f4-26c5-7d0a-9c6b-5a1e7f0b3d21","filename":"photo.jpg","state":"ready","previous":"verifying",'
        '"at":"2026-11-22T10:00:00Z","by":"worker","why":"the copy has the declared size","hash":"9f86d081…"}'
    ),
)


@get(
    "/events",
    operation_id="readEvents",
    **open_to(READ),
    summary="What becomes of your files, as it happens: Server-Sent Events",
    description=DESCRIPTION.strip(),
    tags=["files"],
    responses={
        200: ResponseSpec(
            SentEvent,
            description="Events, for an hour at the most",
            media_type=cast(
                "Any", "text/event-stream"
            ),  # Litestar's type knows only its own enum, its code takes any text
            generate_examples=False,
            examples=[Example(summary="A file was proved", value=PROVED)],
        ),
        **refusals(*ANYWHERE, problems.InvalidRequest, problems.NotFound),
    },
)
async def read_events(
    request: Request[Any, Any, Any],
    resources: NamedDependency[Resources],
    feed: NamedDependency[Feed],
    principal: NamedDependency[Principal],
    file: Annotated[UUID | None, QueryParameter(description="Of this file alone")] = None,
    owner: Annotated[
        str | None, QueryParameter(description="Only for a key with the scope admin")
    ] = None,
    last_event_id: Annotated[
        str | None,
        HeaderParameter(
            name="Last-Event-ID",
            description="The `id` of the last event that came",
            schema_extra={"pattern": f"^{EVENT_ID.pattern}$"},
        ),
    ] = None,
) -> Response[Any]:
    pagination.check_query(request.query_params.multi_items(), known=PARAMETERS)
    position = None if last_event_id is None else parse_event_id(last_event_id)
    followed = await choose_owner(resources, principal, file=file, owner=owner)
    return EventStream(
        feed, Subscriber(followed, principal.key_id, file_id=file, position=position)
    )


async def choose_owner(
    resources: Resources, principal: Principal, *, file: UUID | None, owner: str | None
) -> str:
    """Whose files: the owner that is named, the file's, or the principal's own. Raises Forbidden, InvalidRequest, NotFound."""
    acting_as = principal.act_as(owner)
    if not is_owner(acting_as):
        raise InvalidRequest.at(
            "owner",
            f"expected a name of 1 to {LONGEST_OWNER_BYTES} bytes without control characters",
        )
    if file is None:
        return acting_as
    found = await lookup.find_file(
        resources, file, owner=acting_as if owner is not None else principal.acting_for
    )
    return found.owner


def parse_event_id(text: str) -> Position:
    """Raises InvalidRequest."""
    match = EVENT_ID.fullmatch(text)
    position = Position(int(match[1]), int(match[2])) if match else None
    if position is None or position.xid >= 2**64 or position.sequence >= 2**63:
        raise InvalidRequest.at(
            "Last-Event-ID",
            "is no id of an event: send one as it came, two numbers with a hyphen, or leave it out",
        )
    return position
