"""The adoption of an object whose row was lost with a state of the database."""

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final
from urllib.parse import unquote
from uuid import UUID

import asyncpg
import msgspec

from service.database.heartbeat import Heartbeat
from service.files.validation import check_filename, is_owner, parse_content_type
from service.model import UNPROVED, Sha256, State
from service.object_store import Bucket, StoredObject
from service.problems import InvalidRequest
from service.queries import reconciling as queries
from service.queries import reservations
from service.queries.importing import ImportedFile, commit_imported_file
from service.queries.mending import commit_mended_file
from service.queries.reservations import HeldKey
from service.worker.proofs import Proof
from service.worker.rereading import hash_object

ADOPTING: Final = UNPROVED | {State.DAMAGED}
"""The states of a file that takes an object which its row does not name."""


class Adoption(msgspec.Struct, frozen=True):
    """Whether objects of files without a row become files again.

    The owner is the recorded one if `owner` is None.
    """

    wanted: bool = False
    owner: str | None = None


class NotAdopted(Exception):
    """The reason why an object was not adopted. It stays as it is."""


class Record(msgspec.Struct, frozen=True):
    """What the metadata of a vault object say about its file."""

    file_id: UUID
    owner: str
    filename: str
    declared_sha256: Sha256 | None


class Adopter(msgspec.Struct, frozen=True, kw_only=True):
    """What an adoption works with."""

    pool: asyncpg.Pool
    vault: Bucket
    hashing: ThreadPoolExecutor
    adoption: Adoption
    lease: timedelta
    sweep_delay: timedelta

    async def adopt(self, key: UUID, seen: StoredObject) -> str:
        """Adopt the object if its file is unproved or damaged or has no row, and say what was done.

        Raises NotAdopted and StoreError.
        """
        record = read_record(seen)
        known = await queries.find_state(self.pool, record.file_id)
        if known is not None and known.state not in ADOPTING:
            raise NotAdopted(f"left over: the file {record.file_id} is {known.state} without it")
        if known is None and not self.adoption.wanted:
            raise NotAdopted(
                f"the file {record.file_id} of {record.owner} has no row:"
                " --adopt-as-recorded or --adopt OWNER takes it back"
            )
        held = await self.hold(key, record)
        extend = functools.partial(reservations.extend_reservation, self.pool, held, self.lease)
        heartbeat = Heartbeat(extend, lease=self.lease, file_id=record.file_id)
        try:
            proof = await self.hash(key)
            if record.declared_sha256 not in (None, proof.sha256):
                await reservations.forget_reservation(self.pool, held.vault_key, held.lease)
                raise NotAdopted(
                    f"its bytes differ from the declared digest {record.declared_sha256}"
                )
            if known is None:
                return await self.insert(held, record, seen, proof)
            if known.minio_object_name is not None:
                return await self.mend(held, record, known.minio_object_name, proof)
            return await self.commit(held, record, proof)
        finally:
            await heartbeat.stop()

    async def hold(self, key: UUID, record: Record) -> HeldKey:
        """Take over the reservation of the key, or reserve it."""
        held = await queries.take_reservation(self.pool, key, lease=self.lease)
        if held is None:
            held = await queries.reserve_found_key(
                self.pool, key, file_id=record.file_id, owner=record.owner, lease=self.lease
            )
        if held is None:
            raise NotAdopted("a row names the object by now")
        return held

    async def insert(self, held: HeldKey, record: Record, seen: StoredObject, proof: Proof) -> str:
        file = ImportedFile(
            id=record.file_id,
            owner=self.adoption.owner or record.owner,
            filename=record.filename,
            size=proof.size,
            content_type=read_content_type(seen),
            declared_sha256=record.declared_sha256,
            metadata={},
            created_at=seen.last_modified,
            upload_date=seen.last_modified,
            why=f"reconcile adopted the object {held.vault_key}",
        )
        if not await commit_imported_file(
            self.pool, held, file, sha256=proof.sha256, etag=proof.etag
        ):
            raise NotAdopted("another object became this file, or the reservation was doomed")
        return f"adopted as the file {file.id} of {file.owner}"

    async def commit(self, held: HeldKey, record: Record, proof: Proof) -> str:
        if not await queries.commit_found_file(
            self.pool,
            held,
            record.file_id,
            size=proof.size,
            sha256=proof.sha256,
            etag=proof.etag,
        ):
            raise NotAdopted(f"the file {record.file_id} is final, or was declared otherwise")
        return f"the file {record.file_id} is ready"

    async def mend(self, held: HeldKey, record: Record, old_key: UUID, proof: Proof) -> str:
        """Make a damaged file `ready` with the object, if that has the proved bytes.

        Its owner had sent them again, and the database has lost the commit. Raises NotAdopted.
        """
        mended = await commit_mended_file(
            self.pool,
            held,
            record.file_id,
            old_key=old_key,
            size=proof.size,
            sha256=proof.sha256,
            etag=proof.etag,
            sweep_delay=self.sweep_delay,
            by="worker",
            why="reconcile found the bytes in the vault",
        )
        if mended is None:
            await reservations.forget_reservation(self.pool, held.vault_key, held.lease)
            raise NotAdopted(f"it has not the proved bytes of the damaged file {record.file_id}")
        return f"the file {record.file_id} is ready again"

    async def hash(self, key: UUID) -> Proof:
        """Read the object by its key alone. Raises StoreError."""
        run = asyncio.get_running_loop().run_in_executor
        return await run(self.hashing, hash_object, self.vault, str(key))


def read_record(seen: StoredObject) -> Record:
    """Read the metadata of a vault object (service/worker/copying.py). Raises NotAdopted."""
    metadata = seen.metadata
    try:
        declared = metadata.get("assay-declared-sha256")
        owner = unquote(metadata["assay-owner"], errors="strict")
        filename = check_filename(unquote(metadata["assay-filename"], errors="strict"))
        record = Record(
            UUID(metadata["assay-file-id"]),
            owner,
            filename,
            Sha256.parse(declared) if declared is not None else None,
        )
    except (KeyError, ValueError, InvalidRequest) as error:
        raise NotAdopted(f"its metadata are not those of Assay ({error})") from error
    if not is_owner(owner):
        raise NotAdopted("its metadata name no owner")
    return record


def read_content_type(seen: StoredObject) -> str | None:
    try:
        return parse_content_type(seen.content_type)
    except InvalidRequest:
        return None
