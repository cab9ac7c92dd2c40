"""Lookup of files by id, with waiting, changes and deletion.

Deletion is one statement on `files`, in any state. The objects in the buckets are left to the
sweeper.
"""

import asyncio
import contextlib
from typing import Final
from uuid import UUID

from service import problems
from service.database import UNREACHABLE
from service.model import (
    UNPROVED,
    File,
    State,
)
from service.queries import files
from service.resources import Resources
from service.telemetry.transitions import report_transition

UNHEARD_SECONDS: Final = 1.0
"""The interval at which a waiting request reads its row while no notification can arrive."""


async def find_file(resources: Resources, file_id: UUID, *, owner: str | None) -> File:
    """Return the owner's file, or the file of any owner if `owner` is None. Raises NotFound."""
    file = await files.find_file(resources.pool, file_id, owner=owner)
    if file is None:
        raise problems.NotFound("no such file")
    return file


def gone(file: File) -> problems.FileGone:
    how = "was deleted" if file.state == State.DELETED else "expired without an upload"
    return problems.FileGone(f"the file {how}", state=str(file.state))


async def wait_until_final(resources: Resources, file: File, *, seconds: float) -> File:
    """Wait until the file is final, and return it.

    After `seconds`, or when the process stops, return it in its current state. No database
    connection is held meanwhile. The request is still answered if the database is unavailable for a
    part of this time. While no listener is connected, the row is read every UNHEARD_SECONDS.
    """
    if seconds <= 0 or file.state not in UNPROVED:
        return file
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    with resources.notifications.subscribe(file.id) as changed:
        while True:
            changed.clear()
            left = 0.0 if resources.notifications.closing else max(0.0, deadline - clock())
            longest = left
            try:
                file = await find_file(resources, file.id, owner=None)
            except UNREACHABLE:
                if not left:
                    raise
                longest = min(left, UNHEARD_SECONDS)
            else:
                if file.state not in UNPROVED or not left:
                    return file
            if not resources.notifications.connected:
                longest = min(left, UNHEARD_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(longest):
                    await changed.wait()


async def change_file(
    resources: Resources,
    file_id: UUID,
    *,
    owner: str | None,
    filename: str | None,
    metadata: dict[str, str] | None,
) -> File:
    """Change the filename, the metadata or both. Raises NotFound and FileGone."""
    changed = await files.change_file(
        resources.pool, file_id, owner=owner, filename=filename, metadata=metadata
    )
    if changed is None:
        raise gone(await find_file(resources, file_id, owner=owner))
    return changed


async def delete_file(
    resources: Resources, file_id: UUID, *, owner: str | None, proved_too: bool = True
) -> None:
    """Cancel or delete the file, in any state. Repeating it has no effect.

    Raises NotFound. Without `proved_too`, raises Forbidden for a proved file.
    """
    if await files.delete_file(resources.pool, file_id, owner=owner, proved_too=proved_too):
        file = await find_file(resources, file_id, owner=owner)
        resources.notifications.notify_change(file_id)
        resources.notifications.announce_leftovers()
        report_transition(file)
        return
    file = await find_file(resources, file_id, owner=owner)
    if file.state != State.DELETED and not proved_too:
        raise problems.Forbidden("the file is proved: use an API key to delete it")
