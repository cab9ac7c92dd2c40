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
)
from service.object_store import ObjectMissing, StoreError, StoreUnavailable
from service.queries import files
from service.resources import Resources
from service.telemetry.metrics import NOTICES


async def notice_event(resources: Resources, incoming_key: str) -> None:
    """The store says that an object was created. A hint: an unknown key or a final file is nothing to complain about."""
    NOTICES.labels("event").inc()
    file_id = await files.notice_key(resources.pool, incoming_key)
    if file_id is not None:
        resources.signals.give_work()
        resources.signals.give_history()


async def notice(resources: Resources, file: File, sha256: Sha256 | None, *, why: str) -> File | None:
    noticed = await files.notice_file(resources.pool, file.id, sha256, why=why)
    if noticed is not None:
        NOTICES.labels("complete").inc()
        resources.signals.give_work()
        resources.signals.give_history()
    return noticed


async def is_uploaded(resources: Resources, file: File) -> bool:
    """Return whether the store has an object under the file's incoming key, readable or not. Raises StoreUnavailable."""
    try:
        await resources.incoming.head(file.incoming_key or "")
    except ObjectMissing:
        return False
    except StoreUnavailable:
        raise
    except StoreError:  # an answer about an object that is there; what it is worth is for the verification to decide
        return True
    return True


async def refuse_more(resources: Resources, file: File) -> problems.Problem:
    """The bytes are there: a notice, and the refusal to take others. No notice: the file is final, and what it is now decides."""
    noticed = await notice(resources, file, None, why="the upload was there already") or await find_file(resources, file.id, owner=None)
    if noticed.state in GONE:
        return gone(noticed)
    return problems.AlreadyUploaded(f"the file is {noticed.state}: ask its metadata what became of it", state=str(noticed.state))
