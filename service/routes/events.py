"""`GET /events`: Server-Sent Events with the transitions of files."""

from typing import Annotated, Any, Final, Literal, cast
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import HeaderParameter, QueryParameter

from service import problems
from service.auth.principals import READ, Principal, open_to
from service.events.event_ids import TEXT
from service.events.feed import EventStream, Feed
from service.events.subscribers import Subscriber
from service.files import lookup
from service.files.validation import check_owner
from service.resources import Resources
from service.routes.answers import ANYWHERE, refusals

DESCRIPTION: Final = """
A `transition` has one line of JSON: `file_id`, `filename`, `state`, `previous`, `at`, `by`, `why`,
`hash`. With `Last-Event-ID`, the stream continues after that event; without it, it begins now. An
id without data is not an event, and only says where to continue. Ids are opaque: they are encrypted
for the owner, and have no order.
`reset` means that events after the given id are missing, or that the id is unknown. List the files
again; the stream continues from now. A comment is sent after 15 s without an event, and the stream
ends after an hour. Then connect again with the last id.
"""


class SentEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event, as a subscriber sends it."""

    id: Annotated[str, msgspec.Meta(pattern=f"^{TEXT.pattern}$")]
    event: Literal["transition", "reset"]
    data: Annotated[str, msgspec.Meta(description="JSON of the transition, or `{}` of a `reset`")]


PROVED: Final = SentEvent(
    id="3BVQ0pJyqmZ8xL5uTnC1oKfWd7RsgAhEx9Yv2MiPzGb4kXjN6tDcQeUaHlSwFrO0I_mB-3yV5pA",
    event="transition",
    data=(
        '{"file_id":"01a0c8f4-26c5-7d0a-9c6b-5a1e7f0b3d21","filename":"photo.jpg",'
        '"state":"ready","previous":"verifying","at":"2026-11-22T10:00:00Z","by":"worker",'
        '"why":"the copy has the declared size","hash":"9f86d081…"}'
    ),
)


@get(
    "/events",
    operation_id="readEvents",
    **open_to(READ),
    summary="Follow the transitions of files as Server-Sent Events",
    description=DESCRIPTION.strip(),
    tags=["files"],
    responses={
        200: ResponseSpec(
            SentEvent,
            description="Events, for at most an hour",
            media_type=cast(
                "Any", "text/event-stream"
            ),  # Litestar's annotation names only its own enum, but its code accepts any text
            generate_examples=False,
            examples=[Example(summary="A file was proved", value=PROVED)],
        ),
        **refusals(*ANYWHERE, problems.InvalidRequest, problems.NotFound),
    },
)
async def read_events(
    resources: NamedDependency[Resources],
    feed: NamedDependency[Feed],
    principal: NamedDependency[Principal],
    file: Annotated[
        UUID | None, QueryParameter(description="Only the transitions of this file")
    ] = None,
    owner: Annotated[
        str | None, QueryParameter(description="Only for a key with the scope admin")
    ] = None,
    last_event_id: Annotated[
        str | None,
        HeaderParameter(
            name="Last-Event-ID",
            description="The `id` of the last event received; an unknown one gets a `reset`",
        ),
    ] = None,
) -> Response[Any]:
    followed = await choose_owner(resources, principal, file=file, owner=owner)
    return EventStream(
        feed, Subscriber(followed, principal.key_id, file_id=file, last_id=last_event_id)
    )


async def choose_owner(
    resources: Resources, principal: Principal, *, file: UUID | None, owner: str | None
) -> str:
    """Return the owner whose files are followed: the named one, the file's, or the principal's own.

    Raises Forbidden, InvalidRequest or NotFound.
    """
    acting_as = check_owner(principal.act_as(owner))
    if file is None:
        return acting_as
    found = await lookup.find_file(
        resources, file, owner=acting_as if owner is not None else principal.acting_for
    )
    return found.owner
