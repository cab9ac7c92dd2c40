"""Files by id: find one, wait until it is final, change it, delete it.

Deletion is one statement on `files`, in any state. What lies in the buckets is left to the sweeper.
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
"""Between two reads of a row that a request waits for, while no notification can arrive."""


async def find_file(resources: Resources, file_id: UUID, *, owner: str | None) -> File:
    """The owner's file, or NotFound; `owner` None acts for every owner."""
    file = await files.find_file(resources.pool, file_id, owner=owner)
    if file is None:
        raise problems.NotFound("no such file")
    return file


def gone(file: File) -> problems.FileGone:
    how = "was deleted" if file.state == State.DELETED else "expired: its upload never came"
    return problems.FileGone(f"the file {how}", state=str(file.state))


async def wait_until_final(resources: Resources, file: File, *, seconds: float) -> File:
    """The file when it has left pending and verifying, or as it is after so many seconds, or when the process ends.

    No database connection is held meanwhile. If the database goes away and is back in time, the request is still answered. While no
    listener is connected, the row is read every UNHEARD_SECONDS.
    """
    if seconds <= 0:
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
    """Another name, other metadata, or both. Raises NotFound, FileGone."""
    changed = await files.change_file(
        resources.pool, file_id, owner=owner, filename=filename, metadata=metadata
    )
    if changed is None:
        raise gone(await find_file(resources, file_id, owner=owner))
    return changed


async def delete_file(
    resources: Resources, file_id: UUID, *, owner: str | None, proved_too: bool = True
) -> None:
    """Cancel or delete, in any state; again: nothing more happens. Raises NotFound, and Forbidden unless `proved_too`."""
    if await files.delete_file(resources.pool, file_id, owner=owner, proved_too=proved_too):
        file = await find_file(resources, file_id, owner=owner)
        resources.notifications.notify_change(file_id)
        resources.notifications.notify_leftovers()
        report_transition(file)
        return
    file = await find_file(resources, file_id, owner=owner)
    if file.state != State.DELETED and not proved_too:
        raise problems.Forbidden("the file is proved: only a key may delete it now")
