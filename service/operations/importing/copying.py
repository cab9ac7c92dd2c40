"""The copy of one object into the vault, under a reservation, and the commit of its file.

A small object (service/worker/small_files.py):

1. GET the object, with its type. Hash it in memory, and compare it with the list or the table.
2. Take a key that was reserved in advance, and PUT the bytes, once. The request binds the digest.
3. Commit.

Any other object:

1. HEAD the object, for its type.
2. Reserve a vault key, and extend its lease from then on.
3. Have the store copy the object, in parts if it exceeds 5 GiB (service/worker/copying.py), with
   the condition that its ETag is the one that was seen. Read the copy and hash it.
4. Compare, and commit.

Failures:

- *A small object differs:* no key was taken.
- *Nothing was written, because the object is missing or has changed, or the store has refused the
  request:* delete the reservation.
- *A larger object differs, any other error, or a commit that returned no row:* doom the
  reservation. If that updates a row, delete the copy. If not, the commit may have succeeded: read
  whether the file exists.
"""

import asyncio
import contextlib
import functools
import hashlib
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import asyncpg
import msgspec

from service import clock, database
from service.database.heartbeat import Heartbeat
from service.database.reserved_keys import ReservedKeys
from service.files.validation import parse_content_type
from service.model import Claim, Sha256, State, Work
from service.object_store import Bucket, ObjectMissing, RequestRefused, SentTooLate, StoreError
from service.operations.importing.candidates import Candidate
from service.problems import InvalidRequest
from service.queries import importing as queries
from service.queries import reservations
from service.queries.importing import ImportedFile
from service.queries.reservations import HeldKey
from service.resources import WorkerResources
from service.worker.copying import CERTAIN, LeaseLost, copy_object, describe_object
from service.worker.small_files import READ_SECONDS, SMALL_BYTES, WRITE_SECONDS, is_small
from service.worker.verification import hash_copy

HASHING_THREADS: Final = 4
UNWRITTEN: Final = (SentTooLate, RequestRefused, *CERTAIN)


class CannotImport(Exception):
    """The reason why one object was not imported. Its copy was deleted, or will be."""


class Importer(msgspec.Struct, frozen=True, kw_only=True):
    """What an import works with.

    `resources` has the vault, and the source in the place of the incoming bucket, both as the
    identity that may read the one and write to the other.
    """

    resources: WorkerResources
    reserved_keys: ReservedKeys
    hashing: ThreadPoolExecutor

    @property
    def pool(self) -> asyncpg.Pool:
        return self.resources.pool

    @property
    def source(self) -> Bucket:
        return self.resources.incoming

    @property
    def vault(self) -> Bucket:
        return self.resources.vault


async def import_object(importer: Importer, candidate: Candidate) -> int:
    """Import one object, and return its size. Raises CannotImport."""
    try:
        if is_small(candidate.file.size):
            return await import_small_object(importer, candidate)
        return await import_large_object(importer, candidate)
    except ObjectMissing as error:
        raise CannotImport("the object is missing") from error
    except (StoreError, LeaseLost) as error:
        raise CannotImport(str(error)) from error


async def import_small_object(importer: Importer, candidate: Candidate) -> int:
    seen, content = await importer.source.get(
        candidate.key, most_bytes=SMALL_BYTES, timeout_seconds=READ_SECONDS
    )
    check_seen(candidate, size=seen.size, etag=seen.etag)
    if content is None:
        raise CannotImport("the store sent another number of bytes than it announced")
    file = add_type(candidate, seen.content_type)
    sha256 = Sha256(hashlib.sha256(content).digest())
    check_digest(file, sha256)
    reserved = await importer.reserved_keys.take()
    async with cleaned_up(importer, reserved.held, file):
        etag = await importer.vault.put(
            str(reserved.held.vault_key),
            content,
            sha256=str(sha256),
            send_before=reserved.end,
            timeout_seconds=WRITE_SECONDS,
            **describe(file),
        )
        await commit(importer, reserved.held, file, sha256=sha256, etag=etag)
    return file.size


async def import_large_object(importer: Importer, candidate: Candidate) -> int:
    seen = await importer.source.head(candidate.key)
    check_seen(candidate, size=seen.size, etag=seen.etag)
    file = add_type(candidate, seen.content_type)
    lease = importer.resources.settings.lease
    begun_at = clock.read_seconds()
    held = await reservations.reserve_key(importer.pool, file.id, file.owner, lease=lease)
    extend = functools.partial(reservations.extend_reservation, importer.pool, held, lease)
    heartbeat = Heartbeat(extend, lease=lease, file_id=file.id)
    claim = make_claim(file, candidate.key, held)
    try:
        async with cleaned_up(importer, held, file):
            etag = await copy_object(
                importer.resources,
                claim,
                seen,
                send_before=begun_at + lease.total_seconds(),
                stopped=heartbeat.ended,
            )
            sha256 = await read_copy(importer, claim, etag, stopped=heartbeat.ended)
            check_digest(file, sha256)
            await commit(importer, held, file, sha256=sha256, etag=etag)
    finally:
        await heartbeat.stop()
    return file.size


async def read_copy(
    importer: Importer, claim: Claim, etag: str, *, stopped: threading.Event
) -> Sha256:
    """Return the digest of the copy. Raises LeaseLost, and CannotImport if it cannot be read."""
    run = asyncio.get_running_loop().run_in_executor
    try:
        proof = await run(
            importer.hashing, hash_copy, importer.vault, claim, etag, claim.size, stopped
        )
    except StoreError as error:
        raise CannotImport(f"the copy cannot be read: {error}") from error
    return proof.sha256


def check_seen(candidate: Candidate, *, size: int, etag: str) -> None:
    """Raise CannotImport if the object is not the one that was listed."""
    if candidate.etag is not None and etag != candidate.etag:
        raise CannotImport("the object was replaced during the import: run it again")
    if size != candidate.file.size:
        raise CannotImport(f"the object has {size} bytes, and the table says {candidate.file.size}")


def check_digest(file: ImportedFile, sha256: Sha256) -> None:
    if file.declared_sha256 not in (None, sha256):
        raise CannotImport(
            f"the object has the digest {sha256}, and the table says {file.declared_sha256}"
        )


def add_type(candidate: Candidate, found: str) -> ImportedFile:
    """Return the file with the content type of its object, if it is to have that."""
    if candidate.has_type:
        return candidate.file
    try:
        content_type = parse_content_type(found)
    except InvalidRequest:
        content_type = None
    return msgspec.structs.replace(candidate.file, content_type=content_type)


def describe(file: ImportedFile) -> dict[str, Any]:
    return describe_object(
        file.id,
        file.owner,
        file.filename,
        content_type=file.content_type,
        declared=file.declared_sha256,
    )


def make_claim(file: ImportedFile, key: str, held: HeldKey) -> Claim:
    """Return the claim by which the functions of a worker copy and hash the object.

    No row of `files` has it.
    """
    return Claim(
        id=file.id,
        owner=file.owner,
        filename=file.filename,
        size=file.size,
        content_type=file.content_type,
        declared_sha256=file.declared_sha256,
        incoming_key=key,
        state=State.VERIFYING,
        work=Work.LARGE,
        lease=held.lease,
        vault_key=held.vault_key,
        attempts=1,
        arrivals=0,
        grace_over=False,
    )


class NotCommitted(Exception):
    """A commit that inserted no row."""


async def commit(
    importer: Importer, held: HeldKey, file: ImportedFile, *, sha256: Sha256, etag: str
) -> None:
    """Insert the file. Raises NotCommitted, and the errors of the database."""
    if not await queries.commit_imported_file(importer.pool, held, file, sha256=sha256, etag=etag):
        raise NotCommitted
    importer.resources.notifications.notify_change(file.id)


@contextlib.asynccontextmanager
async def cleaned_up(importer: Importer, held: HeldKey, file: ImportedFile) -> AsyncIterator[None]:
    """Run the block, and the branches for its failures of the protocol above.

    Raises CannotImport if the file was not inserted, and StoreError.
    """
    try:
        yield
    except UNWRITTEN:
        await reservations.forget_reservation(importer.pool, held.vault_key, held.lease)
        raise
    except (NotCommitted, asyncpg.PostgresError, *database.UNREACHABLE) as error:
        if not await asyncio.shield(take_back(importer, held, file)):
            raise CannotImport("the file was not committed: run the import again") from error
    except BaseException:
        await asyncio.shield(take_back(importer, held, file))
        raise


async def take_back(importer: Importer, held: HeldKey, file: ImportedFile) -> bool:
    """Doom the reservation and delete the copy, and return whether the file exists after all."""
    if not await reservations.doom_reservation(importer.pool, held.vault_key, held.lease):
        return file.id in await queries.find_known(importer.pool, [file.id])
    with contextlib.suppress(StoreError):
        await importer.vault.delete(str(held.vault_key))
    return False
