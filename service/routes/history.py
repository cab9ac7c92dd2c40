"""`GET /files/{id}/history`: the transitions of a file."""

from uuid import UUID

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from service import problems
from service.auth.principals import READ, Principal, open_to
from service.files import lookup
from service.queries.history import HistoryEntry, list_history
from service.resources import Resources
from service.routes.answers import ANYWHERE, refusals


class FileHistory(msgspec.Struct, frozen=True, kw_only=True):
    """The last 1,000 transitions, oldest first. Files rarely have more than five.

    `previous` is null for the first one. `why` is a text for people.

    `by` is `client`, `store` or `worker`, or `migration` for the state of a file that is older than
    the histories.
    """

    history: list[HistoryEntry]


@get(
    "/files/{file_id:uuid}/history",
    operation_id="readHistory",
    **open_to(READ),
    summary="List the transitions of a file",
    tags=["files"],
    responses=refusals(*ANYWHERE, problems.InvalidRequest, problems.NotFound),
)
async def read_history(
    file_id: FromPath[UUID],
    resources: NamedDependency[Resources],
    principal: NamedDependency[Principal],
) -> FileHistory:
    file = await lookup.find_file(resources, file_id, owner=principal.acting_for)
    return FileHistory(history=await list_history(resources.pool, file.id))
