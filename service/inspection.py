"""Why a file is where it is, and what happens next: its row, its copies, and what lies at each key."""

from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from service import problems
from service.model import UNPROVED, State
from service.object_store import Bucket, ObjectMissing, StoreError
from service.queries.copies import Copy, list_copies
from service.queries.inspection import Standing, find_standing
from service.resources import Resources


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One key, and what lies there. `error`: the store could not say. `role` is what the key is to the file."""

    role: str
    bucket: str
    key: str
    size: int | None = None
    content_type: str | None = None
    etag: str | None = None
    last_modified: datetime | None = None
    error: str | None = None

    @property
    def is_empty(self) -> bool:
        return self.size is None and self.error is None


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """`why` explains the state, `next` says what will happen to it; both for people."""

    file: Standing
    copies: list[Copy]
    places: list[Place]
    why: str
    next: str


async def inspect_file(resources: Resources, file_id: UUID) -> Inspection:
    """Changes nothing. Raises NotFound."""
    standing = await find_standing(resources.pool, file_id)
    if standing is None:
        raise problems.NotFound("no such file")
    copies = await list_copies(resources.pool, file_id)
    places = [await look_at(bucket, key, role=role) for role, bucket, key in name_places(resources, standing, copies)]
    incoming = next((place for place in places if place.role == "incoming"), None)
    return Inspection(file=standing, copies=copies, places=places, why=explain(standing, incoming), next=foresee(standing, incoming))


def name_places(resources: Resources, standing: Standing, copies: list[Copy]) -> list[tuple[str, Bucket, str]]:
    places = []
    if standing.incoming_key is not None:
        places.append(("incoming", resources.incoming, standing.incoming_key))
    if standing.minio_object_name is not None:
        places.append(("proved object", resources.vault, str(standing.minio_object_name)))
    return places + [("doomed copy" if copy.doomed_at else "copy", resources.vault, str(copy.vault_key)) for copy in copies]


async def look_at(bucket: Bucket, key: str, *, role: str) -> Place:
    place = Place(role=role, bucket=bucket.name, key=key)
    try:
        seen = await bucket.head(key)
    except ObjectMissing:
        return place
    except StoreError as error:
        return msgspec.structs.replace(place, error=str(error))
    return msgspec.structs.replace(place, size=seen.size, content_type=seen.content_type, etag=seen.etag, last_modified=seen.last_modified)


def explain(standing: Standing, incoming: Place | None) -> str:
    """Why it is in this state."""
    match standing.state:
        case State.PENDING | State.VERIFYING:
            return explain_waiting(standing, incoming)
        case State.READY:
            return "proved: what was read back from the vault is what was declared"
        case State.REJECTED:
            return f"{standing.rejection_reason}: {standing.rejection_detail}"
        case State.EXPIRED:
            return f"nothing had come when its time and the grace after it were over ({describe_time(standing.grace_until)})"
        case State.DELETED:
            return "its owner deleted it"
        case State.DAMAGED:
            return "the proved object is gone from the vault, or is another one"


def explain_waiting(standing: Standing, incoming: Place | None) -> str:
    if is_held(standing):
        return f"a worker is at it (attempt {standing.attempts})"
    if standing.last_error:
        return f"attempt {standing.attempts} was given up: {standing.last_error}"
    if incoming is None or incoming.error:
        return f"the store does not say whether the upload came: {incoming.error if incoming else 'no key'}"
    if incoming.is_empty:
        return "the upload has not come: nothing lies at its key in incoming"
    if standing.notices == 0:
        return "the upload is there, but neither the store's event nor the client's `complete` announced it: see `assay doctor`"
    return "the upload is there and was announced; no worker has taken it: is one running?"


def foresee(standing: Standing, incoming: Place | None) -> str:
    """What happens next, if nobody does anything."""
    if standing.state in UNPROVED:
        return foresee_waiting(standing, incoming)
    parts = []
    if standing.sweep_at is not None:
        parts.append(f"its key in incoming is swept {describe_wait(standing, standing.sweep_at)} (swept {standing.sweeps} times)")
    if standing.purge_at is not None:
        parts.append(f"its object in the vault is removed {describe_wait(standing, standing.purge_at)}")
    return "; ".join(parts) or "nothing"


def foresee_waiting(standing: Standing, incoming: Place | None) -> str:
    if is_held(standing) and standing.lease_until is not None:
        return f"the worker commits, or its lease ends {describe_wait(standing, standing.lease_until)} and another one begins anew"
    missing = incoming is not None and incoming.is_empty
    end = f"; without an upload it expires after {describe_time(standing.grace_until)}" if missing else ""
    return f"a worker looks at it {describe_wait(standing, standing.due_at or standing.now)}{end}"


def is_held(standing: Standing) -> bool:
    return standing.lease_until is not None and standing.lease_until >= standing.now


def describe_wait(standing: Standing, moment: datetime) -> str:
    if moment <= standing.now:
        return f"now (due since {describe_time(moment)})"
    return f"in {timedelta(seconds=round((moment - standing.now).total_seconds()))} ({describe_time(moment)})"


def describe_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
