"""Arrivals: unverified reports that the bytes of a file are there.

An arrival moves the row to `verifying` and makes it due. The key that an event names is all that is believed of it, and no request is sent
to the store. An unknown key and a final file change nothing.
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
    """The store says that an object was created. A hint: an unknown key or a final file is nothing to complain about."""
    ARRIVALS.labels("event").inc()
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
    """Return whether the store has an object under the file's incoming key, readable or not. Raises StoreUnavailable."""
    try:
        await resources.incoming.head(file.incoming_key)
    except ObjectMissing:
        return False
    except StoreUnavailable:
        raise
    except StoreError:  # an answer about an object that is there; what it is worth is for the verification to decide
        return True
    return True


async def refuse_more(resources: Resources, file: File) -> problems.Problem:
    """The bytes are there: an arrival, and the refusal to take others. No arrival: the file is final, and what it is now decides."""
    recorded = await record_arrival(
        resources, file, None, why="the upload was there already"
    ) or await find_file(resources, file.id, owner=None)
    if recorded.state in GONE:
        return gone(recorded)
    return problems.AlreadyUploaded(
        f"the file is {recorded.state}: ask its metadata what became of it",
        state=str(recorded.state),
    )
