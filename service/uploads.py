"""Declare, sign, notice, change, cancel: everything that happens to a file's row before somebody looks at its bytes.

1. Declare: insert the row, then sign. The row is there before the URL is. A crash in between: the row expires.
2. Sign: the URL binds method, key, exact length, content type, `If-None-Match: *`, the declared SHA-256, and that the headers of
   `ABSENT_FROM_PUT` (service/presign.py) are not sent. For a redirect it binds the length and those headers alone. It never outlives the
   file.
   A file that is cut into parts gets no URL here: service/multipart.py signs a URL a part.
3. Notice by event: the key moves the row to `verifying` and makes it due. Nobody is asked, nothing else in the body is believed.
   Unknown key, final file: nothing happens.
4. Cancel: one statement on `files`, in any state. What lies in the buckets is the sweeper's.
"""

import asyncio
import contextlib
import secrets
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from service import problems
from service.database import UNREACHABLE
from service.model import (
    GONE,
    LARGEST_OBJECT_BYTES,
    LARGEST_PUT_BYTES,
    MIB,
    UNPROVED,
    Declaration,
    File,
    Parts,
    Sha256,
    State,
    cut,
    make_id,
)
from service.object_store import ObjectMissing, StoreError, StoreUnavailable
from service.queries import files, idempotency
from service.queries.rows import Database
from service.resources import Resources
from service.telemetry import NOTICES, report_transition

SLOWEST_PUT_BYTES_PER_SECOND: Final = 64 * 1024
"""A PUT may go on after its URL's end; slower than this, and the file may be given up while it runs."""
PART_BYTES: Final = 16 * MIB
"""Of a file of up to 156 GiB: small enough to be sent again after a cut, and to be hashed in a browser's memory."""
UNHEARD_SECONDS: Final = 1.0
"""How often a waiter reads its row while nobody would tell it of a change."""


class Upload(msgspec.Struct, frozen=True):
    """How to send the bytes: exactly these headers and exactly `size` bytes, unchunked, to `url`, begun before `expires_at`."""

    method: str
    url: str
    headers: dict[str, str]
    expires_at: datetime


class PartCount(msgspec.Struct, frozen=True):
    """Parts 1 to `parts`, each of `part_size` bytes but the last one, which has the rest."""

    part_size: int
    parts: int


class MultipartUpload(msgspec.Struct, frozen=True):
    """How to send the bytes in parts: ask `POST /files/{id}/parts` for a URL a part, then `complete`, all before `expires_at`."""

    multipart: PartCount
    expires_at: datetime


class Declared(msgspec.Struct, frozen=True):
    """A file and how to send it; `upload` is None when it needs none any more. `replayed`: declared by an earlier request."""

    file: File
    upload: Upload | MultipartUpload | None
    replayed: bool = False


async def declare_file(resources: Resources, declaration: Declaration) -> Declared:
    """Insert the row and say how to send the bytes. Raises FileTooLarge."""
    check_size(resources, declaration)
    file = await insert_file(resources, declaration, make_id(), database=resources.pool)
    resources.signals.give_history()
    return Declared(file, offer_upload(resources, file, now=file.created_at))


async def declare_file_once(resources: Resources, declaration: Declaration, *, key: str, request: Sha256) -> Declared:
    """The same for a request that may be a retry: `request` digests its decoded body. Raises FileTooLarge, IdempotencyMismatch."""
    check_size(resources, declaration)
    file_id = make_id()
    async with resources.pool.acquire() as connection, connection.transaction():
        remembered = await idempotency.remember_request(connection, declaration.owner, key, request=request, file_id=file_id)
        if remembered is None:
            file = await insert_file(resources, declaration, file_id, database=connection)
    if remembered is None:
        resources.signals.give_history()
        return Declared(file, offer_upload(resources, file, now=file.created_at))
    if remembered.request_sha256 != request:
        raise problems.IdempotencyMismatch("this Idempotency-Key came with another body before: use a new key for a new file")
    return await replay_declaration(resources, remembered.file_id)


async def replay_declaration(resources: Resources, file_id: UUID) -> Declared:
    """The same file, and a fresh URL while it still waits for its bytes."""
    file, now = await asyncio.gather(find_file(resources, file_id, owner=None), files.ask_time(resources.pool))
    open_still = file.state == State.PENDING and now < file.expires_at
    return Declared(file, offer_upload(resources, file, now=now) if open_still else None, replayed=True)


def check_size(resources: Resources, declaration: Declaration) -> None:
    parts = choose_parts(resources, declaration)
    largest, way = (LARGEST_PUT_BYTES, "one PUT") if parts is None else (LARGEST_OBJECT_BYTES, "a file")
    most = min(resources.settings.max_file_bytes, largest)
    if declaration.size > most:
        raise problems.FileTooLarge.at("size", f"{declaration.size} bytes are more than the {most} that {way} may carry here", limit=most)


def choose_parts(resources: Resources, declaration: Declaration) -> Parts | None:
    """How the file is to be cut; None: one PUT."""
    wanted = declaration.multipart
    multipart = declaration.size > resources.settings.multipart_above if wanted is None else wanted
    return cut(declaration.size, usual_part_size=PART_BYTES) if multipart else None


async def insert_file(resources: Resources, declaration: Declaration, file_id: UUID, *, database: Database) -> File:
    settings, parts = resources.settings, choose_parts(resources, declaration)
    largest_put = declaration.size if parts is None else min(declaration.size, parts.part_size)
    return await files.declare_file(
        database,
        declaration,
        file_id=file_id,
        incoming_key=secrets.token_hex(16),  # not derived from the id: on an old MinIO a known key is enough to write it
        part_size=None if parts is None else parts.part_size,
        upload_ttl=settings.upload_ttl,
        grace=settings.upload_grace + timedelta(seconds=largest_put / SLOWEST_PUT_BYTES_PER_SECOND),
    )


def offer_upload(resources: Resources, file: File, *, now: datetime) -> Upload | MultipartUpload:
    """How the file's bytes may be sent. `now` is the database's time."""
    if file.parts is None:
        return sign_upload(resources, file, now=now)
    return MultipartUpload(PartCount(file.parts.part_size, file.parts.count), file.expires_at)


def sign_upload(resources: Resources, file: File, *, now: datetime) -> Upload:
    """One PUT of exactly this file. `now` is the database's time."""
    return sign_put(resources, file, now=now, bound=True)


def sign_length_alone(resources: Resources, file: File, *, now: datetime) -> Upload:
    """For a client that adds headers of its own to the body: a redirected `curl -T`. The headers that do harm are forbidden here too."""
    return sign_put(resources, file, now=now, bound=False)


def sign_put(resources: Resources, file: File, *, now: datetime, bound: bool) -> Upload:
    assert file.incoming_key is not None  # noqa: S101  # only files that were declared are signed for
    issued_at, expires_at = bound_url(resources, file, now=now)
    put = resources.signer.presign_put(
        resources.settings.incoming_bucket,
        file.incoming_key,
        size=file.size,
        content_type=file.content_type if bound else None,
        sha256=str(file.declared_sha256) if bound and file.declared_sha256 else None,
        if_none_match=bound,
        issued_at=issued_at,
        expires_in_seconds=count_seconds(issued_at, expires_at),
    )
    return Upload("PUT", put.url, put.headers, expires_at)


def bound_url(resources: Resources, file: File, *, now: datetime) -> tuple[datetime, datetime]:
    """From when until when a URL for this file's bytes may be used, in whole seconds."""
    issued_at = now.replace(microsecond=0)
    return issued_at, min(issued_at + resources.settings.upload_url_ttl, file.expires_at.replace(microsecond=0))


def count_seconds(issued_at: datetime, expires_at: datetime) -> int:
    return max(1, int((expires_at - issued_at).total_seconds()))


async def find_file(resources: Resources, file_id: UUID, *, owner: str | None) -> File:
    """The owner's file, or NotFound; `owner` None acts for every owner."""
    file = await files.find_file(resources.pool, file_id, owner=owner)
    if file is None:
        raise problems.NotFound("no such file")
    return file


async def renew_upload(resources: Resources, file_id: UUID, *, owner: str | None) -> Declared:
    """A fresh offer for the same key. Raises NotFound, FileGone, AlreadyUploaded; the last one after giving a notice."""
    file = await find_file(resources, file_id, owner=owner)
    if file.state in GONE:
        raise gone(file)
    if file.state != State.PENDING or await is_uploaded(resources, file):
        raise await refuse_more(resources, file)
    return Declared(file, offer_upload(resources, file, now=await check_time(resources, file)))


async def refuse_more(resources: Resources, file: File) -> problems.Problem:
    """The bytes are there: a notice, and the refusal to take others. No notice: the file is final, and what it is now decides."""
    noticed = await notice(resources, file, None, why="the upload was there already") or await find_file(resources, file.id, owner=None)
    if noticed.state in GONE:
        return gone(noticed)
    return problems.AlreadyUploaded(f"the file is {noticed.state}: ask its metadata what became of it", state=str(noticed.state))


async def check_time(resources: Resources, file: File) -> datetime:
    """The database's time, while the file may still be sent. Raises FileGone."""
    now = await files.ask_time(resources.pool)
    if now >= file.expires_at:
        raise problems.FileGone(f"the time for this upload ended at {file.expires_at.isoformat()}: declare the file anew")
    return now


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


def gone(file: File) -> problems.FileGone:
    how = "was deleted" if file.state == State.DELETED else "expired: its upload never came"
    return problems.FileGone(f"the file {how}", state=str(file.state))


async def wait_until_final(resources: Resources, file: File, *, seconds: float) -> File:
    """The file when it has left pending and verifying, or as it is after so many seconds, or when the process ends.

    No database connection is held meanwhile. A database that goes away and is back in time costs nobody the answer; while no listener
    is connected, the row is read every UNHEARD_SECONDS.
    """
    if seconds <= 0:
        return file
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    with resources.signals.subscribe(file.id) as changed:
        while True:
            changed.clear()
            left = 0.0 if resources.signals.closing else max(0.0, deadline - clock())
            patience = left
            try:
                file = await find_file(resources, file.id, owner=None)
            except UNREACHABLE:
                if not left:
                    raise
                patience = min(left, UNHEARD_SECONDS)
            else:
                if file.state not in UNPROVED or not left:
                    return file
            if not resources.signals.connected:
                patience = min(left, UNHEARD_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await changed.wait()


async def change_file(
    resources: Resources, file_id: UUID, *, owner: str | None, filename: str | None, metadata: dict[str, str] | None
) -> File:
    """Another name, other metadata, or both. Raises NotFound, FileGone."""
    changed = await files.change_file(resources.pool, file_id, owner=owner, filename=filename, metadata=metadata)
    if changed is None:
        raise gone(await find_file(resources, file_id, owner=owner))
    return changed


async def delete_file(resources: Resources, file_id: UUID, *, owner: str | None, proved_too: bool = True) -> None:
    """Cancel or delete, in any state; again: nothing more happens. Raises NotFound, and Forbidden unless `proved_too`."""
    if await files.delete_file(resources.pool, file_id, owner=owner, proved_too=proved_too):
        file = await find_file(resources, file_id, owner=owner)
        resources.signals.give_change(file_id)
        resources.signals.give_leftovers()
        report_transition(file)
        return
    file = await find_file(resources, file_id, owner=owner)
    if file.state != State.DELETED and not proved_too:
        raise problems.Forbidden("the file is proved: only a key may delete it now")
