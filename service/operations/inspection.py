"""The explanation of a file's state and of its next step, from its row, its reservations and the
objects at its keys.
"""

from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from service import problems
from service.model import UNPROVED, Parts, State
from service.object_store import Bucket, ObjectMissing, StoreError, UploadMissing
from service.queries.inspection import FileDiagnostics, find_diagnostics
from service.queries.reservations import Reservation, list_reservations
from service.resources import WorkerResources


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A key, and the object there.

    `role` is the key's purpose. `error` is set if the store could not be read.
    """

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
    """The number of parts that the store has, of `count`.

    `error` is set if the store could not be read.
    """

    count: int
    come: int = 0
    error: str | None = None


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """The inspection of one file.

    `why` explains its state and `next` its next step, both as text for people.

    `parts` is set for a file that waits for its parts.
    """

    file: FileDiagnostics
    reservations: list[Reservation]
    places: list[Place]
    parts: PartsAtStore | None
    why: str
    next: str


async def inspect_file(resources: WorkerResources, file_id: UUID) -> Inspection:
    """Inspect a file without changing it. Raises NotFound."""
    file = await find_diagnostics(
        resources.pool, file_id, sweep_delay=resources.settings.sweep_delay
    )
    if file is None:
        raise problems.NotFound("there is no such file")
    reservations = await list_reservations(resources.pool, file_id)
    places = [
        await look_at(bucket, key, role=role)
        for role, bucket, key in name_places(resources, file, reservations)
    ]
    incoming = next((place for place in places if place.role == "incoming"), None)
    parts = await count_parts(resources, file)
    why = explain(file, incoming, parts)
    return Inspection(
        file=file,
        reservations=reservations,
        places=places,
        parts=parts,
        why=why,
        next=foresee(file, incoming),
    )


def name_places(
    resources: WorkerResources, file: FileDiagnostics, reservations: list[Reservation]
) -> list[tuple[str, Bucket, str]]:
    places = []
    if file.incoming_key is not None:
        places.append(("incoming", resources.incoming, file.incoming_key))
    if file.minio_object_name is not None:
        places.append(("proved object", resources.vault, str(file.minio_object_name)))
    return places + [
        ("doomed copy" if one.doomed_at else "copy", resources.vault, str(one.vault_key))
        for one in reservations
    ]


async def look_at(bucket: Bucket, key: str, *, role: str) -> Place:
    place = Place(role=role, bucket=bucket.name, key=key)
    try:
        seen = await bucket.head(key)
    except ObjectMissing:
        return place
    except StoreError as error:
        return msgspec.structs.replace(place, error=str(error))
    return msgspec.structs.replace(
        place,
        size=seen.size,
        content_type=seen.content_type,
        etag=seen.etag,
        last_modified=seen.last_modified,
    )


async def count_parts(resources: WorkerResources, file: FileDiagnostics) -> PartsAtStore | None:
    if file.part_size is None or file.state not in UNPROVED:
        return None
    count = Parts(file.size, file.part_size).count
    if file.upload_id is None:
        return PartsAtStore(count=count)
    try:
        return PartsAtStore(
            count=count,
            come=len(await resources.incoming.list_parts(file.incoming_key or "", file.upload_id)),
        )
    except UploadMissing:
        return PartsAtStore(
            count=count,
            error="the store has no such multipart upload; it was completed or removed",
        )
    except StoreError as error:
        return PartsAtStore(count=count, error=str(error))


def explain(file: FileDiagnostics, incoming: Place | None, parts: PartsAtStore | None) -> str:
    match file.state:
        case State.PENDING | State.VERIFYING:
            return explain_waiting(file, incoming, parts)
        case State.READY:
            return "proved: the bytes in the vault are those that were declared"
        case State.REJECTED:
            return f"{file.rejection_reason}: {file.rejection_detail}"
        case State.EXPIRED:
            return (
                "no upload had arrived when its grace period ended"
                f" ({describe_time(file.grace_until)})"
            )
        case State.DELETED:
            return "its owner deleted it"
        case State.DAMAGED:
            return f"its object is not what was proved: {file.last_change}"


def explain_waiting(
    file: FileDiagnostics, incoming: Place | None, parts: PartsAtStore | None
) -> str:
    if is_held(file):
        who = "a worker, or a `complete` that combines its parts," if parts else "a worker"
        return f"{who} holds its lease (attempt {file.attempts})"
    if file.last_error:
        return f"attempt {file.attempts} has failed: {file.last_error}{count_failed_reads(file)}"
    if incoming is None or incoming.error:
        return (
            "the store cannot be read, so the upload may or may not have arrived:"
            f" {incoming.error if incoming else 'no key'}"
        )
    if incoming.is_empty:
        return explain_missing(parts)
    if file.arrivals == 0:
        return (
            "the upload has arrived, but neither the store's event nor the client's `complete`"
            " reported it; run `assay doctor`"
        )
    return (
        "the upload has arrived and was reported, but no worker has claimed it;"
        " check that a worker runs"
    )


def count_failed_reads(file: FileDiagnostics) -> str:
    """Return the failed reads that count towards a rejection as unverifiable, or an empty text."""
    if file.failed_reads_since is None:
        return ""
    return (
        f"; its object could not be read {file.failed_reads} times"
        f" since {describe_time(file.failed_reads_since)}"
    )


def explain_missing(parts: PartsAtStore | None) -> str:
    if parts is None:
        return "the upload has not arrived: there is no object at its key in incoming"
    if parts.error is not None:
        return (
            f"there is no object at its key in incoming, and its parts are unknown: {parts.error}"
        )
    waits = (
        "but `complete` was not called" if parts.come >= parts.count else "the others are missing"
    )
    return f"{parts.come} of its {parts.count} parts have arrived, {waits}"


def foresee(file: FileDiagnostics, incoming: Place | None) -> str:
    """Return what happens next without any action by a client."""
    if file.state in UNPROVED:
        return foresee_waiting(file, incoming)
    parts = []
    if file.sweep_at is not None:
        parts.append(
            f"its key in incoming is swept {describe_wait(file, file.sweep_at)}"
            f" (swept {file.sweeps} times)"
        )
    if file.purge_at is not None:
        parts.append(f"its object in the vault is removed {describe_wait(file, file.purge_at)}")
    if file.state == State.DAMAGED:
        parts.append(
            "a scrub reads it again a day after its last check"
            f" ({describe_time(file.checked_at) if file.checked_at else 'never'})"
        )
    return "; ".join(parts) or "nothing"


def foresee_waiting(file: FileDiagnostics, incoming: Place | None) -> str:
    if is_held(file) and file.lease_until is not None:
        return (
            f"the worker commits, or its lease expires {describe_wait(file, file.lease_until)}"
            " and another worker starts again"
        )
    missing = incoming is not None and incoming.is_empty
    end = (
        f"; without an upload it expires after {describe_time(file.grace_until)}" if missing else ""
    )
    return f"a worker checks it {describe_wait(file, file.due_at or file.now)}{end}"


def is_held(file: FileDiagnostics) -> bool:
    return file.lease_until is not None and file.lease_until >= file.now


def describe_wait(file: FileDiagnostics, moment: datetime) -> str:
    if moment <= file.now:
        return f"now (due since {describe_time(moment)})"
    return (
        f"in {timedelta(seconds=round((moment - file.now).total_seconds()))}"
        f" ({describe_time(moment)})"
    )


def describe_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
