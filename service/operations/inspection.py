"""Why a file is where it is, and what happens next: its row, its reservations, and what lies at each key."""

from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from service import problems
from service.model import UNPROVED, Parts, State
from service.object_store import Bucket, ObjectMissing, StoreError, UploadMissing
from service.queries.inspection import FileDiagnostics, find_standing
from service.queries.reservations import Reservation, list_reservations
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


class PartsAtStore(msgspec.Struct, frozen=True, kw_only=True):
    """Of a file that comes in parts: how many the store has of how many. `error`: the store could not say."""

    count: int
    come: int = 0
    error: str | None = None


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """`why` explains the state, `next` says what will happen to it; both for people. `parts`: of a file that waits for its parts."""

    file: FileDiagnostics
    reservations: list[Reservation]
    places: list[Place]
    parts: PartsAtStore | None
    why: str
    next: str


async def inspect_file(resources: Resources, file_id: UUID) -> Inspection:
    """Changes nothing. Raises NotFound."""
    standing = await find_standing(resources.pool, file_id, sweep_delay=resources.settings.sweep_delay)
    if standing is None:
        raise problems.NotFound("no such file")
    reservations = await list_reservations(resources.pool, file_id)
    places = [await look_at(bucket, key, role=role) for role, bucket, key in name_places(resources, standing, reservations)]
    incoming = next((place for place in places if place.role == "incoming"), None)
    parts = await count_parts(resources, standing)
    why = explain(standing, incoming, parts)
    return Inspection(file=standing, reservations=reservations, places=places, parts=parts, why=why, next=foresee(standing, incoming))


def name_places(resources: Resources, standing: FileDiagnostics, reservations: list[Reservation]) -> list[tuple[str, Bucket, str]]:
    places = []
    if standing.incoming_key is not None:
        places.append(("incoming", resources.incoming, standing.incoming_key))
    if standing.minio_object_name is not None:
        places.append(("proved object", resources.vault, str(standing.minio_object_name)))
    return places + [("doomed copy" if found.doomed_at else "copy", resources.vault, str(found.vault_key)) for found in reservations]


async def look_at(bucket: Bucket, key: str, *, role: str) -> Place:
    place = Place(role=role, bucket=bucket.name, key=key)
    try:
        seen = await bucket.head(key)
    except ObjectMissing:
        return place
    except StoreError as error:
        return msgspec.structs.replace(place, error=str(error))
    return msgspec.structs.replace(place, size=seen.size, content_type=seen.content_type, etag=seen.etag, last_modified=seen.last_modified)


async def count_parts(resources: Resources, standing: FileDiagnostics) -> PartsAtStore | None:
    if standing.part_size is None or standing.state not in UNPROVED:
        return None
    count = Parts(standing.size, standing.part_size).count
    if standing.upload_id is None:
        return PartsAtStore(count=count)
    try:
        return PartsAtStore(count=count, come=len(await resources.incoming.list_parts(standing.incoming_key or "", standing.upload_id)))
    except UploadMissing:
        return PartsAtStore(count=count, error="the store has no such multipart upload: assembled, or dropped")
    except StoreError as error:
        return PartsAtStore(count=count, error=str(error))


def explain(standing: FileDiagnostics, incoming: Place | None, parts: PartsAtStore | None) -> str:
    """Why it is in this state."""
    match standing.state:
        case State.PENDING | State.VERIFYING:
            return explain_waiting(standing, incoming, parts)
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


def explain_waiting(standing: FileDiagnostics, incoming: Place | None, parts: PartsAtStore | None) -> str:
    if is_held(standing):
        who = "a worker, or a `complete` that has its parts put together," if parts else "a worker"
        return f"{who} is at it (attempt {standing.attempts})"
    if standing.last_error:
        return f"attempt {standing.attempts} was given up: {standing.last_error}{count_failed_reads(standing)}"
    if incoming is None or incoming.error:
        return f"the store does not say whether the upload came: {incoming.error if incoming else 'no key'}"
    if incoming.is_empty:
        return explain_missing(parts)
    if standing.arrivals == 0:
        return "the upload is there, but neither the store's event nor the client's `complete` announced it: see `assay doctor`"
    return "the upload is there and was announced; no worker has taken it: is one running?"


def count_failed_reads(standing: FileDiagnostics) -> str:
    """Return what counts towards the file's rejection as unverifiable, or an empty string."""
    if standing.failed_reads_since is None:
        return ""
    return f"; its object could not be read {standing.failed_reads} times since {describe_time(standing.failed_reads_since)}"


def explain_missing(parts: PartsAtStore | None) -> str:
    if parts is None:
        return "the upload has not come: nothing lies at its key in incoming"
    if parts.error is not None:
        return f"nothing lies at its key in incoming, and of its parts nothing is known: {parts.error}"
    waits = "nobody has called `complete`" if parts.come >= parts.count else "the others have not"
    return f"{parts.come} of its {parts.count} parts have come, {waits}"


def foresee(standing: FileDiagnostics, incoming: Place | None) -> str:
    """What happens next, if nobody does anything."""
    if standing.state in UNPROVED:
        return foresee_waiting(standing, incoming)
    parts = []
    if standing.sweep_at is not None:
        parts.append(f"its key in incoming is swept {describe_wait(standing, standing.sweep_at)} (swept {standing.sweeps} times)")
    if standing.purge_at is not None:
        parts.append(f"its object in the vault is removed {describe_wait(standing, standing.purge_at)}")
    return "; ".join(parts) or "nothing"


def foresee_waiting(standing: FileDiagnostics, incoming: Place | None) -> str:
    if is_held(standing) and standing.lease_until is not None:
        return f"the worker commits, or its lease ends {describe_wait(standing, standing.lease_until)} and another one begins anew"
    missing = incoming is not None and incoming.is_empty
    end = f"; without an upload it expires after {describe_time(standing.grace_until)}" if missing else ""
    return f"a worker looks at it {describe_wait(standing, standing.due_at or standing.now)}{end}"


def is_held(standing: FileDiagnostics) -> bool:
    return standing.lease_until is not None and standing.lease_until >= standing.now


def describe_wait(standing: FileDiagnostics, moment: datetime) -> str:
    if moment <= standing.now:
        return f"now (due since {describe_time(moment)})"
    return f"in {timedelta(seconds=round((moment - standing.now).total_seconds()))} ({describe_time(moment)})"


def describe_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
