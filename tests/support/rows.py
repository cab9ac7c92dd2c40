"""Files without a store: rows that are declared, claimed and committed, and one without a row."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import uuid4

import asyncpg

from service.model import Claim, Declaration, File, ProvedFile, Sha256, State, make_id
from service.queries import files, verdicts
from tests.support.claims import EVERY_KIND, claim_files
from tests.support.objects import key_of

LEASE = timedelta(minutes=1)
DIGEST = Sha256(bytes(32))
OTHER = Sha256(bytes(31) + b"\x01")


def make_proved_file(owner: str, *, size: int, moment: datetime, sha256: Sha256) -> ProvedFile:
    """Return a ready file that has no row. All of its dates are `moment`."""
    return ProvedFile(
        id=make_id(),
        owner=owner,
        filename="photo.jpg",
        size=size,
        content_type="image/jpeg",
        declared_sha256=None,
        metadata={},
        incoming_key=None,
        part_size=None,
        upload_id=None,
        state=State.READY,
        hash=sha256,
        minio_object_name=uuid4(),
        vault_etag="etag",
        upload_date=moment,
        rejection_reason=None,
        rejection_detail=None,
        created_at=moment,
        expires_at=moment,
    )


def make_declaration(
    filename: str = "photo.jpg",
    *,
    owner: str = "ann",
    size: int = 3,
    content_type: str | None = "image/jpeg",
    sha256: Sha256 | None = None,
    metadata: Mapping[str, str] | None = None,
    multipart: bool | None = None,
) -> Declaration:
    return Declaration(
        owner=owner,
        filename=filename,
        size=size,
        content_type=content_type,
        sha256=sha256,
        metadata=dict(metadata or {}),
        multipart=multipart,
    )


async def declare_row(pool: asyncpg.Pool, declaration: Declaration | None = None) -> File:
    file_id = make_id()
    return await files.declare_file(
        pool,
        declaration or make_declaration(),
        file_id=file_id,
        incoming_key=file_id.hex,
        part_size=None,
        upload_ttl=timedelta(days=1),
        grace=timedelta(hours=1),
    )


async def claim_row(pool: asyncpg.Pool, file: File) -> Claim:
    """Record an arrival of the file and claim it. No other file may be due."""
    await files.record_event(pool, key_of(file))
    [claimed] = await claim_files(pool, 1, lease=LEASE, kinds=EVERY_KIND)
    assert claimed.id == file.id
    return claimed


async def commit_row(pool: asyncpg.Pool, held: Claim, *, sha256: Sha256 = DIGEST) -> File | None:
    return await verdicts.commit_verification(pool, held, size=held.size, sha256=sha256, etag="e")
