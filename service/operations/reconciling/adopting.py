"""The adoption of an object whose row was lost with a state of the database."""

import functools
from typing import Final
from urllib.parse import unquote
from uuid import UUID

import msgspec

from service.database.heartbeat import Heartbeat
from service.files.validation import check_filename, is_owner, parse_content_type
from service.model import UNPROVED, Sha256, State
from service.object_store import ObjectMissing, StoredObject, StoreError
from service.problems import InvalidRequest
from service.queries import reconciling as queries
from service.queries import reservations
from service.queries.importing import ImportedFile, commit_imported_file
from service.queries.mending import commit_mended_file
from service.queries.reconciling import KnownState
from service.queries.reservations import HeldKey
from service.queries.rows import Database
from service.resources import WorkerResources
from service.worker.proofs import Proof
from service.worker.rereading import FORBIDDEN, Rereader
from service.worker.store_health import probe_store

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

    resources: WorkerResources
    rereader: Rereader
    adoption: Adoption
    only_with_digest: bool = False
    """Whether a file without a row is adopted only from an object with a recorded digest."""

    async def adopt(self, key: UUID, seen: StoredObject) -> str:
        """Adopt the object if its file is unproved or damaged or has no row, and say what was done.

        Raises NotAdopted and StoreError.
        """
        record = read_record(seen)
        known = await queries.find_state(self.resources.pool, record.file_id)
        if known is not None and known.state not in ADOPTING:
            raise NotAdopted(f"left over: the file {record.file_id} is {known.state} without it")
        if known is None and not self.adoption.wanted:
            raise NotAdopted(
                f"the file {record.file_id} of {record.owner} has no row:"
                " --adopt-as-recorded or --adopt OWNER takes it back"
            )
        if known is None and self.only_with_digest and record.declared_sha256 is None:
            raise NotAdopted("it has no recorded digest")
        lease = self.resources.settings.lease
        held = await queries.take_reservation(self.resources.pool, key, lease=lease)
        if held is not None:
            return await self.adopt_held(held, known, record, seen)
        return await self.adopt_unnamed(key, known, record, seen)

    async def adopt_held(
        self, held: HeldKey, known: KnownState | None, record: Record, seen: StoredObject
    ) -> str:
        """Adopt the object of an old reservation. If that fails, delete the reservation, so that
        the sweeper does not delete the object.
        """
        pool, lease = self.resources.pool, self.resources.settings.lease
        extend = functools.partial(reservations.extend_reservation, pool, held, lease)
        heartbeat = Heartbeat(extend, lease=lease, file_id=record.file_id)
        try:
            proof = await self.prove(held.vault_key, record)
            return await self.enter(pool, held, known, record, seen, proof)
        except NotAdopted:
            await reservations.forget_reservation(pool, held.vault_key, held.lease)
            raise
        finally:
            await heartbeat.stop()

    async def adopt_unnamed(
        self, key: UUID, known: KnownState | None, record: Record, seen: StoredObject
    ) -> str:
        """Adopt an object that no reservation names.

        The key is reserved and the file committed by one transaction, after the object was hashed.
        If this is interrupted, no reservation is left, and the sweeper does not delete the object.
        """
        proof = await self.prove(key, record)
        if await look_at(self.resources, key) is None:
            raise NotAdopted("it was deleted meanwhile")
        async with (
            self.resources.pool.acquire() as connection,
            connection.transaction(isolation="read_committed"),
        ):
            held = await queries.reserve_found_key(
                connection,
                key,
                file_id=record.file_id,
                owner=record.owner,
                lease=self.resources.settings.lease,
            )
            if held is None:
                raise NotAdopted("a row or a reservation names it by now")
            return await self.enter(connection, held, known, record, seen, proof)

    async def prove(self, key: UUID, record: Record) -> Proof:
        """Hash the object, and compare it with the recorded digest. Raises NotAdopted."""
        try:
            proof = await self.rereader.hash(self.resources.vault, key)
        except ObjectMissing as error:
            raise NotAdopted("it was deleted meanwhile") from error
        except StoreError as error:
            await raise_if_unavailable(self.resources, error)
            raise NotAdopted(f"it cannot be read: {error}") from error
        if record.declared_sha256 not in (None, proof.sha256):
            raise NotAdopted(f"its bytes differ from the declared digest {record.declared_sha256}")
        return proof

    async def enter(
        self,
        database: Database,
        held: HeldKey,
        known: KnownState | None,
        record: Record,
        seen: StoredObject,
        proof: Proof,
    ) -> str:
        if known is None:
            return await self.insert(database, held, record, seen, proof)
        if known.minio_object_name is not None:
            return await self.mend(database, held, record, known.minio_object_name, proof)
        return await self.commit(database, held, record, proof)

    async def insert(
        self,
        database: Database,
        held: HeldKey,
        record: Record,
        seen: StoredObject,
        proof: Proof,
    ) -> str:
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
            database, held, file, sha256=proof.sha256, etag=proof.etag
        ):
            raise NotAdopted("another object became this file, or the reservation was doomed")
        return f"adopted as the file {file.id} of {file.owner}"

    async def commit(self, database: Database, held: HeldKey, record: Record, proof: Proof) -> str:
        if not await queries.commit_found_file(
            database,
            held,
            record.file_id,
            size=proof.size,
            sha256=proof.sha256,
            etag=proof.etag,
        ):
            raise NotAdopted(f"the file {record.file_id} is final, or was declared otherwise")
        return f"the file {record.file_id} is ready"

    async def mend(
        self, database: Database, held: HeldKey, record: Record, old_key: UUID, proof: Proof
    ) -> str:
        """Make a damaged file `ready` with the object, if that has the proved bytes.

        Its owner had sent them again, and the database has lost the commit. Raises NotAdopted.
        """
        mended = await commit_mended_file(
            database,
            held,
            record.file_id,
            old_key=old_key,
            size=proof.size,
            sha256=proof.sha256,
            etag=proof.etag,
            sweep_delay=self.resources.settings.sweep_delay,
            by="worker",
            why="reconcile found the bytes in the vault",
        )
        if mended is None:
            raise NotAdopted(f"it has not the proved bytes of the damaged file {record.file_id}")
        return f"the file {record.file_id} is ready again"


async def look_at(resources: WorkerResources, key: UUID) -> StoredObject | None:
    """Return the store's description of an object, or None if there is none.

    Raises NotAdopted if the store can describe others but not this one, and StoreError.
    """
    try:
        return await resources.vault.head(str(key))
    except ObjectMissing:
        return None
    except StoreError as error:
        await raise_if_unavailable(resources, error)
        raise NotAdopted(f"it cannot be read: {error}") from error


async def raise_if_unavailable(resources: WorkerResources, error: StoreError) -> None:
    """Raise the error if it concerns the whole store, as a probe of the store shows."""
    if error.status == FORBIDDEN or await probe_store(resources) is not None:
        raise error


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
