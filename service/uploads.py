"""Declare, sign, notice, complete, cancel: everything that happens to a file before somebody looks at its bytes.

1. Declare: insert the row, then sign. The row is there before the URL is. A crash in between: the row expires.
2. Sign: the URL binds method, key, exact length, content type, `If-None-Match: *` and the declared SHA-256. It never outlives the file.
3. Notice by event: the key moves the row to `verifying` and makes it due. Nobody is asked, nothing else in the body is believed.
   Unknown key, final file: nothing happens.
4. Complete: the row is read first. Final: answered from the row. A digest other than the known one: refused, nothing changes.
   The store is asked. Missing: the row is read again, for a worker may just have proved the file and tidied up; still unproved: refused.
   There: the row is noticed; if somebody made it final in between, it is read again and answered as final.
5. Cancel: one statement on `files`, in any state. What lies in the buckets is the sweeper's.
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
from service.model import GONE, LARGEST_PUT_BYTES, UNPROVED, Declaration, File, Sha256, State, make_id
from service.object_store import ObjectMissing
from service.queries import files, idempotency
from service.queries.rows import Database
from service.resources import Resources
from service.telemetry import NOTICES, report_transition

SLOWEST_PUT_BYTES_PER_SECOND: Final = 64 * 1024
"""A PUT may go on after its URL's end; slower than this, and the file may be given up while it runs."""
UNHEARD_SECONDS: Final = 1.0
"""How often a waiter reads its row while nobody would tell it of a change."""


class Upload(msgspec.Struct, frozen=True):
    """How to send the bytes: exactly these headers and exactly `size` bytes, unchunked, to `url`, begun before `expires_at`.

    `token` is a Bearer token for `complete`, `upload`, `metadata` and DELETE of this file alone, for whoever sends without a key; null
    where no secret is set to sign it with.
    """

    method: str
    url: str
    headers: dict[str, str]
    expires_at: datetime
    token: str | None = None


class Declared(msgspec.Struct, frozen=True):
    """A file and how to send it; `upload` is None when it needs none any more. `replayed`: declared by an earlier request."""

    file: File
    upload: Upload | None
    replayed: bool = False


async def declare_file(resources: Resources, declaration: Declaration) -> Declared:
    """Insert the row and sign its URL. Raises FileTooLarge."""
    check_size(resources, declaration.size)
    file = await insert_file(resources, declaration, make_id(), database=resources.pool)
    return Declared(file, sign_upload(resources, file, now=file.created_at))


async def declare_file_once(resources: Resources, declaration: Declaration, *, key: str, request: Sha256) -> Declared:
    """The same for a request that may be a retry: `request` digests its decoded body. Raises FileTooLarge, IdempotencyMismatch."""
    check_size(resources, declaration.size)
    file_id = make_id()
    async with resources.pool.acquire() as connection, connection.transaction():
        remembered = await idempotency.remember_request(connection, declaration.owner, key, request=request, file_id=file_id)
        if remembered is None:
            file = await insert_file(resources, declaration, file_id, database=connection)
    if remembered is None:
        return Declared(file, sign_upload(resources, file, now=file.created_at))
    if remembered.request_sha256 != request:
        raise problems.IdempotencyMismatch("this Idempotency-Key came with another body before: use a new key for a new file")
    return await replay_declaration(resources, remembered.file_id)


async def replay_declaration(resources: Resources, file_id: UUID) -> Declared:
    """The same file, and a fresh URL while it still waits for its bytes."""
    file, now = await asyncio.gather(find_file(resources, file_id, owner=None), files.ask_time(resources.pool))
    open_still = file.state == State.PENDING and now < file.expires_at
    return Declared(file, sign_upload(resources, file, now=now) if open_still else None, replayed=True)


def check_size(resources: Resources, size: int) -> None:
    most = min(resources.settings.max_file_bytes, LARGEST_PUT_BYTES)
    if size > most:
        raise problems.FileTooLarge.at("size", f"{size} bytes are more than the {most} that one PUT may carry here", limit=most)


async def insert_file(resources: Resources, declaration: Declaration, file_id: UUID, *, database: Database) -> File:
    settings = resources.settings
    return await files.declare_file(
        database,
        declaration,
        file_id=file_id,
        incoming_key=secrets.token_hex(16),  # not derived from the id: on an old MinIO a known key is enough to write it
        upload_ttl=settings.upload_ttl,
        grace=settings.upload_grace + timedelta(seconds=declaration.size / SLOWEST_PUT_BYTES_PER_SECOND),
    )


def sign_upload(resources: Resources, file: File, *, now: datetime) -> Upload:
    """One PUT of exactly this file. `now` is the database's time."""
    return sign_put(resources, file, now=now, bound=True)


def sign_length_alone(resources: Resources, file: File, *, now: datetime) -> Upload:
    """For a client that sends what it likes beside the body: a redirected `curl -T`."""
    return sign_put(resources, file, now=now, bound=False)


def sign_put(resources: Resources, file: File, *, now: datetime, bound: bool) -> Upload:
    assert file.incoming_key is not None  # noqa: S101  # only files that were declared are signed for
    issued_at = now.replace(microsecond=0)
    expires_at = min(issued_at + resources.settings.upload_url_ttl, file.expires_at.replace(microsecond=0))
    put = resources.signer.presign_put(
        resources.settings.incoming_bucket,
        file.incoming_key,
        size=file.size,
        content_type=file.content_type if bound else None,
        sha256=str(file.declared_sha256) if bound and file.declared_sha256 else None,
        if_none_match=bound,
        issued_at=issued_at,
        expires_in_seconds=max(1, int((expires_at - issued_at).total_seconds())),
    )
    return Upload("PUT", put.url, put.headers, expires_at)


async def find_file(resources: Resources, file_id: UUID, *, owner: str | None) -> File:
    """The owner's file, or NotFound; `owner` None acts for every owner."""
    file = await files.find_file(resources.pool, file_id, owner=owner)
    if file is None:
        raise problems.NotFound("no such file")
    return file


async def renew_upload(resources: Resources, file_id: UUID, *, owner: str | None) -> Declared:
    """A fresh URL for the same key. Raises NotFound, FileGone, AlreadyUploaded; the last one after giving a notice."""
    file = await find_file(resources, file_id, owner=owner)
    if file.state in GONE:
        raise gone(file)
    if file.state != State.PENDING or await is_uploaded(resources, file):
        noticed = await notice(resources, file, None, source="complete") or file
        raise problems.AlreadyUploaded(f"the file is {noticed.state}: ask its metadata what became of it", state=str(noticed.state))
    now = await files.ask_time(resources.pool)
    if now >= file.expires_at:
        raise problems.FileGone(f"the time for this upload ended at {file.expires_at.isoformat()}: declare the file anew")
    return Declared(file, sign_upload(resources, file, now=now))


async def notice_event(resources: Resources, incoming_key: str) -> None:
    """The store says that an object was created. A hint: an unknown key or a final file is nothing to complain about."""
    NOTICES.labels("event").inc()
    file_id = await files.notice_key(resources.pool, incoming_key)
    if file_id is not None:
        resources.signals.give_work()


async def notice(resources: Resources, file: File, sha256: Sha256 | None, *, source: str) -> File | None:
    noticed = await files.notice_file(resources.pool, file.id, sha256)
    if noticed is not None:
        NOTICES.labels(source).inc()
        resources.signals.give_work()
    return noticed


async def complete_upload(resources: Resources, file_id: UUID, *, owner: str | None, sha256: Sha256 | None) -> File:
    """ "My bytes are there": the file as it is now. Raises NotFound, FileGone, NotUploaded, DigestConflict."""
    while True:
        file = await find_file(resources, file_id, owner=owner)
        if file.state in GONE:
            raise gone(file)
        check_digest(file, sha256)
        if file.state not in UNPROVED:
            return file
        if not await is_uploaded(resources, file):
            await check_still_unproved(resources, file)
        noticed = await notice(resources, file, sha256, source="complete")
        if noticed is not None:
            return noticed
        # Final, deleted, or given another digest since it was read: what it is now decides.


async def is_uploaded(resources: Resources, file: File) -> bool:
    try:
        await resources.incoming.head(file.incoming_key or "")
    except ObjectMissing:
        return False
    return True


async def check_still_unproved(resources: Resources, file: File) -> None:
    """Nothing lies in incoming: either nothing was sent, or a worker was faster and has tidied up."""
    again = await find_file(resources, file.id, owner=None)
    if again.state in UNPROVED:
        raise problems.NotUploaded("the store has no object for this file: send the bytes first, then complete", state=str(again.state))


def check_digest(file: File, sha256: Sha256 | None) -> None:
    known = file.hash or file.declared_sha256
    if sha256 is not None and known is not None and sha256 != known:
        raise problems.DigestConflict(f"sha256: {sha256} is not the {known} that is known for this file; nothing was changed")


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
