"""Arrivals: unverified reports that the bytes of a file have arrived.

An arrival moves the row to `verifying` and makes it due. Of the store's event, only the key is
used, and no request is sent to the store. An unknown key and a final file change nothing.

See docs/architecture.md, "3. Arrival".
"""

from service import problems
from service.files.lookup import find_file, gone
from service.model import (
    GONE,
    File,
    Sha256,
    UnprovedFile,
)
from service.object_store import ObjectMissing, StoreError, StoreUnavailable
from service.queries import files
from service.resources import Resources
from service.telemetry.metrics import ARRIVALS


async def record_event(resources: Resources, incoming_key: str) -> None:
    """Record an event of the store. An unknown key or a final file is not an error.

    No statement is sent for a file that this process has just made final.
    """
    ARRIVALS.labels("event").inc()
    if await resources.settled_uploads.has_settled(incoming_key):
        return
    file_id = await files.record_event(resources.pool, incoming_key)
    if file_id is not None:
        resources.notifications.notify_work()
        resources.notifications.notify_history()


async def record_arrival(
    resources: Resources, file: File, sha256: Sha256 | None, *, why: str
) -> File | None:
    recorded = await files.record_arrival(resources.pool, file.id, sha256, why=why)
    if recorded is not None:
        ARRIVALS.labels("complete").inc()
        resources.notifications.notify_work()
        resources.notifications.notify_history()
    return recorded


async def is_uploaded(resources: Resources, file: UnprovedFile) -> bool:
    """Return whether the store has an object under the file's incoming key, readable or not.

    Raises StoreUnavailable.
    """
    try:
        await resources.incoming.head(file.incoming_key)
    except ObjectMissing:
        return False
    except StoreUnavailable:
        raise
    except StoreError:  # the object exists, and the verification decides what the error means
        return True
    return True


async def refuse_more(resources: Resources, file: File) -> problems.Problem:
    """Record an arrival, and return the problem that refuses another upload.

    If the file is final, no arrival is recorded, and its state decides which problem is returned.
    """
    recorded = await record_arrival(
        resources,
        file,
        None,
        why="the bytes were already at the store when an upload was requested",
    ) or await find_file(resources, file.id, owner=None)
    if recorded.state in GONE:
        return gone(recorded)
    return problems.AlreadyUploaded(
        f"the file is {recorded.state}: read its metadata for the outcome",
        state=str(recorded.state),
    )
