"""Faults and delays of the store or the database during a streamed upload.

The tests check both the database and the vault.
"""

import hashlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from service import problems
from service.database import reserved_keys
from service.database.reserved_keys import open_reserved_keys
from service.model import File, State
from service.object_store import StoreError, UploadMissing
from service.queries import idempotency, reservations
from service.resources import Resources
from service.uploads.buffers import PART_BYTES, UploadBuffers
from service.uploads.repeated import Uploaded, upload_once
from service.uploads.streamed import UploadHeaders, upload_stream
from service.worker.sweeper import sweep
from tests.integration.steps import let_settle
from tests.support.faults import FaultyBucket, FaultyPool, lose_answer, lose_connection
from tests.support.invariants import (
    check_invariants,
    check_nothing_left,
    check_uploads_aborted,
    list_bucket,
)
from tests.support.objects import read_all
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

DOOMED = "SELECT count(*) FROM reservations WHERE doomed_at IS NOT NULL"
SMALL = os.urandom(70_000)
MEDIUM = os.urandom(300_000)  # sent by a thread
LARGE = os.urandom(PART_BYTES + 5)
HEADERS = UploadHeaders(owner="ann", filename="photo.jpg", content_type=None, most_bytes=None)


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 65_536):
        yield content[start : start + 65_536]


async def upload(resources: Resources, content: bytes) -> File:
    buffers = UploadBuffers()
    whole = buffers.bytes_left
    try:
        return await upload_stream(
            resources, buffers.open_loan(HEADERS.owner), HEADERS, pieces(content)
        )
    finally:
        assert buffers.bytes_left == whole
        buffers.close()


async def list_live(resources: Resources) -> set[UUID]:
    """Return the keys that are reserved and not doomed, but for those that were not handed out."""
    keys = resources.reserved_keys
    await until(lambda: not keys.wanted.is_set())
    rows = await resources.pool.fetch("SELECT vault_key FROM reservations WHERE doomed_at IS NULL")
    return {row["vault_key"] for row in rows} - {key.held.vault_key for key in keys.stock}


async def check_only(resources: Resources, *files: File) -> None:
    """Check that only these files and their objects are left.

    Every remaining reservation is doomed and has neither an object nor parts, or was made in
    advance and is not used.
    """
    await check_invariants(resources)
    assert await list_bucket(resources.vault) == {str(file.minio_object_name) for file in files}
    assert await resources.pool.fetchval("SELECT count(*) FROM files") == len(files)
    assert await list_live(resources) == set()
    await check_uploads_aborted(resources)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_the_file_is_ready_and_its_reservation_is_removed(
    resources: Resources, content: bytes
) -> None:
    file = await upload(resources, content)
    assert file.state == State.READY
    assert read_all(resources.vault, str(file.minio_object_name), etag=file.vault_etag) == content
    assert str(file.hash) == hashlib.sha256(content).hexdigest()
    await check_only(resources, file)
    assert (
        await resources.pool.fetch("SELECT 1 FROM reservations WHERE doomed_at IS NOT NULL") == []
    )


@pytest.mark.parametrize("runs", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize(
    ("call", "content"),
    [
        ("put", SMALL),
        ("put_now", MEDIUM),
        ("create_upload", LARGE),
        ("put_part", LARGE),
        ("complete_upload", LARGE),
    ],
)
async def test_no_orphan_is_left_when_the_stores_response_is_lost(
    resources: Resources, call: str, content: bytes, runs: bool
) -> None:
    vault = FaultyBucket(resources.vault)
    (vault.after if runs else vault.before)[call] = lose_answer
    with pytest.raises(StoreError):
        await upload(msgspec.structs.replace(resources, vault=vault), content)
    assert vault.calls[call] == runs, "no request that writes is sent twice"
    await check_only(resources)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_commit_whose_response_was_lost_is_recognized(
    resources: Resources, content: bytes
) -> None:
    pool = FaultyPool(resources.pool, reservations.COMMIT, after=lose_connection)
    file = await upload(msgspec.structs.replace(resources, pool=pool), content)
    assert pool.calls == 1
    await check_only(resources, file)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_no_orphan_is_left_when_the_commit_is_lost(
    resources: Resources, content: bytes
) -> None:
    pool = FaultyPool(resources.pool, reservations.COMMIT, before=lose_connection)
    with pytest.raises(ConnectionResetError):
        await upload(msgspec.structs.replace(resources, pool=pool), content)
    assert pool.calls == 1
    await check_only(resources)


async def sweep_ended(resources: Resources) -> None:
    """Expire every lease, and sweep."""
    await resources.pool.execute(
        "UPDATE reservations SET lease_until = now() - interval '1 second'"
    )
    await sweep(resources)


async def test_the_sweeper_wins_if_the_lease_expired_before_the_first_part(
    resources: Resources,
) -> None:
    pool = FaultyPool(
        resources.pool, reservations.NAME_UPLOAD, after=lambda: sweep_ended(resources)
    )
    with pytest.raises(UploadMissing):
        await upload(msgspec.structs.replace(resources, pool=pool), LARGE)
    await check_only(resources)


@pytest.mark.parametrize("completed", [False, True], ids=["before its completion", "after it"])
async def test_the_sweeper_wins_against_an_upload_whose_lease_expired(
    resources: Resources, completed: bool
) -> None:
    vault = FaultyBucket(resources.vault)
    (vault.after if completed else vault.before)["complete_upload"] = lambda: sweep_ended(resources)
    with pytest.raises(problems.Unavailable if completed else UploadMissing):
        await upload(msgspec.structs.replace(resources, vault=vault), LARGE)
    await check_only(resources)


@pytest.mark.parametrize("call", ["abort_upload", "delete"])
async def test_the_sweeper_removes_what_a_failed_upload_could_not_remove(
    resources: Resources, call: str
) -> None:
    """Fail the cleanup of an upload, which leaves an object, or parts that no listing shows."""
    vault = FaultyBucket(resources.vault)
    vault.before[call] = lose_answer
    vault.after["put_part" if call == "abort_upload" else "complete_upload"] = lose_answer
    with pytest.raises(StoreError):
        await upload(msgspec.structs.replace(resources, vault=vault), LARGE)
    [row] = await resources.pool.fetch(
        "SELECT vault_key, upload_id FROM reservations WHERE doomed_at IS NOT NULL"
    )
    if call == "abort_upload":
        assert await resources.vault.list_parts(str(row["vault_key"]), row["upload_id"])
    else:
        assert await list_bucket(resources.vault) == {str(row["vault_key"])}
    await sweep(resources)
    await check_only(resources)


LATE = {"put": SMALL, "put_now": MEDIUM, "put_part": LARGE, "complete_upload": LARGE}
LATE_AT = [
    ("put", "delete"),
    ("put", None),
    ("put_now", "delete"),
    ("put_now", None),
    ("put_part", "abort_upload"),
    ("complete_upload", "abort_upload"),
    ("complete_upload", "delete"),
    ("complete_upload", None),
]


@pytest.mark.parametrize(("call", "before"), LATE_AT)
async def test_a_request_that_takes_effect_after_the_doom_leaves_nothing(
    resources: Resources, call: str, before: str | None
) -> None:
    """Let a request without a response take effect after its reservation has been doomed.

    The store executes it before the reservation is deleted.
    """
    vault = FaultyBucket(resources.vault)
    vault.late.add(call)
    if before:
        vault.before[before] = lambda: land(resources, vault)
    with pytest.raises(StoreError):
        await upload(msgspec.structs.replace(resources, vault=vault), LATE[call])
    await land(resources, vault)
    assert not vault.under_way
    # Every object in the vault still has its reservation.
    await check_invariants(resources)
    await let_settle(resources)
    await check_nothing_left(resources)
    assert await list_bucket(resources.vault) == set()


async def land(resources: Resources, vault: FaultyBucket) -> None:
    assert await list_live(resources) == set()
    try:
        await vault.land()
    # The multipart upload was aborted before, so the store refuses a part or a completion.
    except UploadMissing:
        assert not vault.calls["put"] + vault.calls["put_now"]


@pytest.mark.parametrize("call", LATE)
async def test_a_request_that_takes_effect_twice_changes_no_served_byte(
    resources: Resources, call: str
) -> None:
    vault = FaultyBucket(resources.vault)
    vault.repeated.add(call)
    file = await upload(msgspec.structs.replace(resources, vault=vault), LATE[call])
    await land(resources, vault)
    assert (
        read_all(resources.vault, str(file.minio_object_name), etag=file.vault_etag) == LATE[call]
    )
    await check_only(resources, file)


async def test_a_put_is_not_sent_after_its_lease_has_expired(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserved_keys, "LEASE", timedelta(microseconds=1))
    monkeypatch.setattr(reserved_keys, "NEEDED", timedelta(days=-1))
    with pytest.raises(problems.Unavailable):
        await upload(resources, SMALL)
    await check_only(resources)
    assert (
        await resources.pool.fetch("SELECT 1 FROM reservations WHERE doomed_at IS NOT NULL") == []
    )


async def test_a_key_that_cannot_be_reserved_leaves_nothing(resources: Resources) -> None:
    pool: Any = FaultyPool(resources.pool, reservations.RESERVE_KEYS, before=lose_connection)
    async with open_reserved_keys(pool, resources.notifications) as keys:
        with pytest.raises(ConnectionResetError):
            await upload(msgspec.structs.replace(resources, reserved_keys=keys), SMALL)
        await check_only(resources)


async def test_a_key_serves_one_upload_after_a_lost_put(resources: Resources) -> None:
    vault = FaultyBucket(resources.vault)
    vault.late.add("put")
    with pytest.raises(StoreError):
        await upload(msgspec.structs.replace(resources, vault=vault), SMALL)
    file = await upload(resources, LARGE[:90_000])
    await vault.land()
    assert (
        read_all(resources.vault, str(file.minio_object_name), etag=file.vault_etag)
        == (LARGE[:90_000])
    )
    await let_settle(resources)
    await check_only(resources, file)


async def test_a_lease_is_extended_while_the_client_sends(resources: Resources) -> None:
    short = msgspec.structs.replace(resources.settings, lease=timedelta(seconds=0.6))

    async def watch(pool: asyncpg.Pool) -> AsyncIterator[bytes]:
        async for piece in pieces(LARGE):
            yield piece
        first = await pool.fetchval("SELECT lease_until FROM reservations")
        while await pool.fetchval("SELECT lease_until FROM reservations") == first:
            await pool.fetchval("SELECT pg_sleep(0.05)")

    buffers = UploadBuffers()
    file = await upload_stream(
        msgspec.structs.replace(resources, settings=short),
        buffers.open_loan(HEADERS.owner),
        HEADERS,
        watch(resources.pool),
    )
    buffers.close()
    await check_only(resources, file)


KEYED = msgspec.structs.replace(HEADERS, idempotency_key="one")


async def upload_keyed(resources: Resources, content: bytes) -> Uploaded:
    buffers = UploadBuffers()
    try:
        return await upload_once(resources, buffers.open_loan(KEYED.owner), KEYED, pieces(content))
    finally:
        buffers.close()


async def check_key_names(resources: Resources, file: File) -> None:
    found = await idempotency.recall_request(resources.pool, file.owner, "one")
    assert found is not None
    assert found.file_id == file.id


@pytest.mark.parametrize("other", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_commit_after_that_of_the_same_key_inserts_nothing(
    resources: Resources, content: bytes, other: bytes
) -> None:
    """Let another request with the key begin and commit just before the commit of the first."""
    rivals: list[Uploaded] = []

    async def overtake() -> None:
        rivals.append(await upload_keyed(resources, other))

    pool = FaultyPool(resources.pool, reservations.COMMIT, before=overtake)
    overtaken = upload_keyed(msgspec.structs.replace(resources, pool=pool), content)
    if content == other:
        assert await overtaken == Uploaded(rivals[0].file, replayed=True)
    else:
        with pytest.raises(problems.IdempotencyMismatch):
            await overtaken
    assert [rival.replayed for rival in rivals] == [False]
    await check_only(resources, rivals[0].file)
    await check_key_names(resources, rivals[0].file)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_repeat_after_a_lost_response_gets_the_file(
    resources: Resources, content: bytes
) -> None:
    """Commit without a response while the database is unavailable, and then send a repeat."""
    committing = FaultyPool(resources.pool, reservations.COMMIT, after=lose_connection)
    pool = FaultyPool(committing, reservations.DOOM, before=lose_connection)
    with pytest.raises(ConnectionResetError):
        await upload_keyed(msgspec.structs.replace(resources, pool=pool), content)
    repeated = await upload_keyed(resources, content)
    assert repeated.replayed
    await check_only(resources, repeated.file)
    await check_key_names(resources, repeated.file)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_lost_commit_does_not_use_its_key(resources: Resources, content: bytes) -> None:
    pool = FaultyPool(resources.pool, reservations.COMMIT, before=lose_connection)
    with pytest.raises(ConnectionResetError):
        await upload_keyed(msgspec.structs.replace(resources, pool=pool), content)
    assert await resources.pool.fetchval("SELECT count(*) FROM idempotency_keys") == 0
    repeated = await upload_keyed(resources, content)
    assert not repeated.replayed
    await check_only(resources, repeated.file)


async def test_a_doomed_commit_does_not_use_its_key(resources: Resources) -> None:
    pool = FaultyPool(resources.pool, reservations.COMMIT, before=lambda: sweep_ended(resources))
    with pytest.raises(problems.Unavailable):
        await upload_keyed(msgspec.structs.replace(resources, pool=pool), SMALL)
    assert await resources.pool.fetchval("SELECT count(*) FROM idempotency_keys") == 0
    await check_only(resources)
