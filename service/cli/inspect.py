"""`assay inspect`: why a file is stuck, and what happens next."""

import os
from typing import Any
from uuid import UUID

import msgspec

from service import database, problems
from service.cli.errors import CommandError
from service.operations.inspection import Inspection, PartsAtStore, Place, inspect_file
from service.queries.reservations import Reservation
from service.resources import open_worker_resources
from service.settings import WorkerSettings, read_settings


async def inspect(file_id: UUID, /, *, json: bool = False) -> None:
    """Show the state of a file, why it waits, and what happens next. Nothing is changed.

    Parameters
    ----------
    file_id
        The file's id.
    json
        Print JSON.
    """
    settings = read_settings(os.environ, WorkerSettings)
    async with open_worker_resources(settings) as resources:
        await database.check_version(resources.pool)
        try:
            inspection = await inspect_file(resources, file_id)
        except problems.NotFound as error:
            raise CommandError(f"there is no file {file_id}") from error
    print(encode(inspection) if json else describe(inspection))


def encode(inspection: Inspection) -> str:
    return msgspec.json.encode(msgspec.to_builtins(inspection, enc_hook=str)).decode()


def describe(inspection: Inspection) -> str:
    fields = msgspec.structs.asdict(inspection.file)
    lines = [f"{name:<20}{show(value)}" for name, value in fields.items() if value is not None]
    lines += [f"{place.role:<20}{describe_place(place)}" for place in inspection.places]
    if inspection.parts is not None:
        lines.append(f"{'parts':<20}{describe_parts(inspection.parts)}")
    lines += [
        f"{'reservation':<20}{describe_reservation(found)}" for found in inspection.reservations
    ]
    return "\n".join([*lines, "", f"why   {inspection.why}", f"next  {inspection.next}"])


def show(value: Any) -> str:
    return repr(value) if isinstance(value, str) and not value.isprintable() else str(value)


def describe_place(place: Place) -> str:
    where = f"{place.bucket}/{place.key}"
    if place.error is not None:
        return f"{where}: the store cannot be read ({place.error})"
    if place.size is None:
        return f"{where}: no object"
    return (
        f"{where}: {place.size} bytes, {place.content_type}, ETag {place.etag},"
        f" {place.last_modified}"
    )


def describe_parts(parts: PartsAtStore) -> str:
    return (
        f"{parts.come} of {parts.count} at the store"
        if parts.error is None
        else f"of {parts.count}: {parts.error}"
    )


def describe_reservation(reservation: Reservation) -> str:
    end = (
        f"doomed {reservation.doomed_at}"
        if reservation.doomed_at
        else f"lease until {reservation.lease_until}"
    )
    return (
        f"{reservation.vault_key}: since {reservation.created_at}, {end}"
        f"{', multipart upload' if reservation.upload_id else ''}"
    )
