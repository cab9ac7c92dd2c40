"""A damaged file whose bytes are sent again: its commit, its refusals, and what races with it.

The tests check both the database and the vault.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from service import problems
from service.downloads.streaming import DownloadBuffers, open_source
from service.files.lookup import delete_file
from service.http.digests import SHA_256, StatedDigest
from service.model import File, ProvedFile, Sha256, State
from service.object_store import StoreError
from service.queries import files, reservations
from service.queries import mending as queries
from service.queries.reservations import HeldKey
from service.queries.rows import Database
from service.queries.scrubbing import mark_damaged, mark_whole
from service.resources import Resources
from service.uploads.buffers import PART_BYTES, UploadBuffers
from service.uploads.mending import send_again
from service.uploads.streamed import UploadHeaders, upload_stream
from service.worker.sweeper import sweep
from tests.integration.locks import held_open, until_waiting
from tests.integration.steps import find, let_settle
from tests.support.clock import DAY, pass_time
from tests.support.faults import FaultyBucket, FaultyPool, Gate, lose_answer, lose_connection
from tests.support.invariants import (
    check_invariants,
    check_nothing_left,
    check_uploads_aborted,
    list_bucket,
)
from tests.support.objects import put_object, read_all

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

Statement = Callable[[Database], Awaitable[Any]]
HISTORY = "SELECT state, by, why FROM file_history ORDER BY sequence"
SMALL = os.urandom(70_000)
MEDIUM = os.urandom(300_000)  # sent by a thread
LARGE = os.urandom(PART_BYTES + 5)
SIZES = pytest.mark.parametrize(
    "content", [b"", SMALL, MEDIUM, LARGE], ids=["empty", "small", "medium", "large"]
)
SMALL_AND_LARGE = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])


def key_of_object(file: File) -> UUID:
    assert file.minio_object_name is not None
    return file.minio_object_name


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 65_536):
        yield content[start : start + 65_536]


async def make_damaged(resources: Resources, content: bytes) -> ProvedFile:
    """Return a file that was found damaged, because its object was altered."""
    headers = UploadHeaders(owner="ann", filename="ä.jpg", content_type="a/b", most_bytes=None)
    buffers = UploadBuffers()
    try:
        file = await upload_stream(resources, buffers.open_loan("ann"), headers, pieces(content))
    finally:
        buffers.close()
    put_object(resources.vault, str(key_of_object(file)), b"altered")
    assert await mark_damaged(resources.pool, file.id, key_of_object(file), why="it is altered")
    damaged = await find(resources, file)
    assert isinstance(damaged, ProvedFile)
    return damaged


async def resend(
    resources: Resources,
    file: ProvedFile,
    content: bytes,
    *,
    length: int | None = None,
    digests: tuple[StatedDigest, ...] = (),
) -> File:
    buffers = UploadBuffers()
    whole = buffers.bytes_left
    try:
        return await send_again(
            resources,
            buffers.open_loan(file.owner),
            file,
            length=length,
            digests=digests,
            body=pieces(content),
        )
    finally:
        assert buffers.bytes_left == whole
        buffers.close()


async def check_whole(resources: Resources, before: ProvedFile, content: bytes) -> None:
    """Check that the file is ready under another key, and that the old object is doomed."""
    file = await find(resources, before)
    assert file.state == State.READY
    assert key_of_object(file) != before.minio_object_name
    unchanged = {"state": before.state, "minio_object_name": before.minio_object_name}
    assert msgspec.structs.replace(file, **unchanged, vault_etag=before.vault_etag) == before
    assert read_all(resources.vault, str(key_of_object(file)), etag=file.vault_etag) == content
    await check_left(resources, file, old=before)
    assert before.minio_object_name in await list_doomed(resources)
    await let_settle(resources)
    await check_nothing_left(resources)
    assert (await find(resources, before)).state == State.READY


async def check_damaged(resources: Resources, before: ProvedFile, *, state: State) -> None:
    """Check that the row still names the old key, and that nothing of the new one is left."""
    file = await find(resources, before)
    assert (file.state, file.minio_object_name) == (state, before.minio_object_name)
    await check_left(resources, file)
    await let_settle(resources)
    await check_uploads_aborted(resources)
    kept = set() if state == State.DELETED else {str(before.minio_object_name)}
    assert await list_bucket(resources.vault) == kept


async def check_left(resources: Resources, file: File, *, old: File | None = None) -> None:
    """Check that the vault has only the object of the file, and that of `old` if it is given."""
    await check_invariants(resources)
    await check_uploads_aborted(resources)
    left = {str(one.minio_object_name) for one in (file, old) if one is not None}
    assert await list_bucket(resources.vault) == left


async def list_doomed(resources: Resources) -> set[UUID]:
    rows = await resources.pool.fetch(
        "SELECT vault_key FROM reservations WHERE doomed_at IS NOT NULL"
    )
    return {row["vault_key"] for row in rows}


@SIZES
async def test_the_proved_bytes_make_a_damaged_file_ready(
    resources: Resources, content: bytes
) -> None:
    damaged = await make_damaged(resources, content)
    returned = await resend(resources, damaged, content, length=len(content))
    assert returned == await find(resources, damaged)
    row = await resources.pool.fetchrow(
        "SELECT proved_at = checked_at AND proved_at > final_at AS proved_now FROM files"
    )
    assert row["proved_now"]
    history = await resources.pool.fetch(
        "SELECT state, by, why FROM file_history ORDER BY sequence"
    )
    assert [one["state"] for one in history] == ["ready", "damaged", "ready"]
    assert (history[-1]["by"], history[-1]["why"]) == ("client", "the bytes were sent again")
    await check_whole(resources, damaged, content)


async def test_the_old_object_is_deleted_after_the_delay_of_the_sweeper(
    resources: Resources,
) -> None:
    delay = timedelta(minutes=5)
    settings = msgspec.structs.replace(resources.settings, sweep_delay=delay)
    damaged = await make_damaged(resources, SMALL)
    await resend(msgspec.structs.replace(resources, settings=settings), damaged, SMALL)
    await sweep(resources)
    assert str(damaged.minio_object_name) in await list_bucket(resources.vault)
    await pass_time(resources.pool, delay)
    await sweep(resources)
    assert str(damaged.minio_object_name) not in await list_bucket(resources.vault)
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_a_damaged_file_without_an_object_is_sent_again(resources: Resources) -> None:
    damaged = await make_damaged(resources, SMALL)
    await resources.vault.delete(str(damaged.minio_object_name))
    await resend(resources, damaged, SMALL)
    assert (await find(resources, damaged)).state == State.READY
    await let_settle(resources)
    await check_nothing_left(resources)


@pytest.mark.parametrize(
    ("proved", "sent"),
    [
        (SMALL, bytes(len(SMALL))),
        (SMALL, SMALL[:-1]),
        (SMALL, SMALL + b"x"),
        (SMALL, LARGE),
        (LARGE, LARGE[:-1] + b"x"),
        (LARGE, LARGE[:-6]),
        (LARGE, LARGE + b"x"),
        (b"", b"x"),
    ],
    ids=["bytes", "short", "long", "too long", "large", "small", "large long", "not empty"],
)
async def test_other_bytes_are_refused_and_leave_the_file_damaged(
    resources: Resources, proved: bytes, sent: bytes
) -> None:
    damaged = await make_damaged(resources, proved)
    with pytest.raises(problems.DigestMismatch, match="stays damaged"):
        await resend(resources, damaged, sent)
    await check_damaged(resources, damaged, state=State.DAMAGED)


async def test_an_empty_body_for_a_damaged_file_is_explained(resources: Resources) -> None:
    damaged = await make_damaged(resources, SMALL)
    for length in (0, None):
        with pytest.raises(problems.InvalidRequest, match="send its 70000 bytes as the body"):
            await resend(resources, damaged, b"", length=length)
    await check_damaged(resources, damaged, state=State.DAMAGED)


async def test_a_wrong_length_or_digest_is_refused_before_the_body(resources: Resources) -> None:
    damaged = await make_damaged(resources, SMALL)
    other = StatedDigest("Repr-Digest", SHA_256, hashlib.sha256(b"x").digest())
    vault = FaultyBucket(resources.vault)
    watched = msgspec.structs.replace(resources, vault=vault)
    with pytest.raises(problems.DigestMismatch, match="has 5 bytes"):
        await resend(watched, damaged, SMALL, length=5)
    with pytest.raises(problems.DigestMismatch, match="Repr-Digest"):
        await resend(watched, damaged, SMALL, digests=(other,))
    assert not vault.calls
    await check_damaged(resources, damaged, state=State.DAMAGED)


async def test_another_digest_of_the_request_is_compared_with_the_body(
    resources: Resources,
) -> None:
    damaged = await make_damaged(resources, SMALL)
    wrong = StatedDigest("Content-MD5", "md5", bytes(16))
    with pytest.raises(problems.DigestMismatch, match="Content-MD5"):
        await resend(resources, damaged, SMALL, digests=(wrong,))
    await check_damaged(resources, damaged, state=State.DAMAGED)


# Races


@SMALL_AND_LARGE
async def test_of_two_requests_at_once_one_is_committed(
    resources: Resources, content: bytes
) -> None:
    damaged = await make_damaged(resources, content)
    gate = Gate()
    pool = FaultyPool(resources.pool, queries.COMMIT, before=gate)
    held = msgspec.structs.replace(resources, pool=pool)
    second = asyncio.create_task(resend(held, damaged, content))
    await gate.reached.wait()
    await resend(resources, damaged, content)
    gate.opened.set()
    with pytest.raises(problems.AlreadyUploaded) as refused:
        await second
    assert refused.value.extension == {"state": "ready"}
    await check_whole(resources, damaged, content)


async def test_a_key_that_was_replaced_meanwhile_is_not_replaced_again(
    resources: Resources,
) -> None:
    """Let another request commit, and damage its object before the first one commits."""
    damaged = await make_damaged(resources, SMALL)

    async def overtake() -> None:
        other = await resend(resources, damaged, SMALL)
        put_object(resources.vault, str(key_of_object(other)), b"altered")
        await mark_damaged(resources.pool, other.id, key_of_object(other), why="altered again")

    pool = FaultyPool(resources.pool, queries.COMMIT, before=overtake)
    with pytest.raises(problems.Unavailable):
        await resend(msgspec.structs.replace(resources, pool=pool), damaged, SMALL)
    again = await find(resources, damaged)
    assert (again.state, again.minio_object_name == damaged.minio_object_name) == (
        State.DAMAGED,
        False,
    )
    await check_left(resources, again, old=damaged)
    assert isinstance(again, ProvedFile)
    await resend(resources, again, SMALL)
    await let_settle(resources)
    await check_nothing_left(resources)


@SMALL_AND_LARGE
async def test_a_file_that_is_found_whole_meanwhile_keeps_its_object(
    resources: Resources, content: bytes
) -> None:
    damaged = await make_damaged(resources, content)
    key = damaged.minio_object_name

    async def find_whole() -> None:
        etag = put_object(resources.vault, str(key), content)
        assert await mark_whole(resources.pool, damaged.id, key, etag=etag)

    pool = FaultyPool(resources.pool, queries.COMMIT, before=find_whole)
    with pytest.raises(problems.AlreadyUploaded):
        await resend(msgspec.structs.replace(resources, pool=pool), damaged, content)
    await check_damaged(resources, damaged, state=State.READY)
    await check_nothing_left(resources)


async def test_a_verdict_on_the_old_object_does_not_change_the_file(resources: Resources) -> None:
    damaged = await make_damaged(resources, SMALL)
    key = damaged.minio_object_name
    await resend(resources, damaged, SMALL)
    assert not await mark_damaged(resources.pool, damaged.id, key, why="it is altered")
    assert not await mark_whole(resources.pool, damaged.id, key, etag="old")
    await check_whole(resources, damaged, SMALL)


@SMALL_AND_LARGE
async def test_a_file_that_is_deleted_meanwhile_stays_deleted(
    resources: Resources, content: bytes
) -> None:
    damaged = await make_damaged(resources, content)
    pool = FaultyPool(
        resources.pool,
        queries.COMMIT,
        before=lambda: delete_file(resources, damaged.id, owner="ann"),
    )
    with pytest.raises(problems.FileGone):
        await resend(msgspec.structs.replace(resources, pool=pool), damaged, content)
    await check_damaged(resources, damaged, state=State.DELETED)


async def sweep_ended(resources: Resources) -> None:
    """Expire every lease, and sweep."""
    await resources.pool.execute(
        "UPDATE reservations SET lease_until = now() - interval '1 second'"
    )
    await sweep(resources)


@SMALL_AND_LARGE
async def test_a_request_whose_reservation_is_doomed_leaves_the_file_damaged(
    resources: Resources, content: bytes
) -> None:
    damaged = await make_damaged(resources, content)
    pool = FaultyPool(resources.pool, queries.COMMIT, before=lambda: sweep_ended(resources))
    with pytest.raises(problems.Unavailable):
        await resend(msgspec.structs.replace(resources, pool=pool), damaged, content)
    await check_damaged(resources, damaged, state=State.DAMAGED)


@SMALL_AND_LARGE
async def test_a_commit_without_a_response_is_recognized_by_the_key(
    resources: Resources, content: bytes
) -> None:
    damaged = await make_damaged(resources, content)
    pool = FaultyPool(resources.pool, queries.COMMIT, after=lose_connection)
    file = await resend(msgspec.structs.replace(resources, pool=pool), damaged, content)
    assert (file.state, pool.calls) == (State.READY, 1)
    await check_whole(resources, damaged, content)


@SMALL_AND_LARGE
async def test_a_commit_that_was_lost_leaves_the_file_damaged(
    resources: Resources, content: bytes
) -> None:
    damaged = await make_damaged(resources, content)
    pool = FaultyPool(resources.pool, queries.COMMIT, before=lose_connection)
    with pytest.raises(ConnectionResetError):
        await resend(msgspec.structs.replace(resources, pool=pool), damaged, content)
    await check_damaged(resources, damaged, state=State.DAMAGED)


@pytest.mark.parametrize("runs", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize(
    ("call", "content"),
    [("put", SMALL), ("put_now", MEDIUM), ("put_part", LARGE), ("complete_upload", LARGE)],
)
async def test_a_write_without_a_response_leaves_the_file_damaged(
    resources: Resources, call: str, content: bytes, runs: bool
) -> None:
    damaged = await make_damaged(resources, content)
    vault = FaultyBucket(resources.vault)
    (vault.after if runs else vault.before)[call] = lose_answer
    with pytest.raises(StoreError):
        await resend(msgspec.structs.replace(resources, vault=vault), damaged, content)
    assert vault.calls[call] == runs, "no request that writes is sent twice"
    await check_damaged(resources, damaged, state=State.DAMAGED)


@SMALL_AND_LARGE
async def test_a_request_that_is_cancelled_leaves_the_file_damaged(
    resources: Resources, content: bytes
) -> None:
    """Cancel the request as a stopping process does, and let the sweeper end it."""
    damaged = await make_damaged(resources, content)
    gate = Gate()
    pool = FaultyPool(resources.pool, queries.COMMIT, before=gate)
    sending = asyncio.create_task(
        resend(msgspec.structs.replace(resources, pool=pool), damaged, content)
    )
    await gate.reached.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await check_damaged(resources, damaged, state=State.DAMAGED)


async def test_a_reader_that_has_read_the_row_before_gets_the_new_object(
    resources: Resources,
) -> None:
    damaged = await make_damaged(resources, SMALL)
    before = msgspec.structs.replace(damaged, state=State.READY)
    await resend(resources, damaged, SMALL)
    await pass_time(resources.pool, DAY)
    await sweep(resources)
    downloads = DownloadBuffers(2**20)
    try:
        source = await open_source(resources, downloads, before, None)
        assert source.read(len(SMALL)) == SMALL
        source.close()
    finally:
        downloads.close()


async def test_a_reservation_of_the_old_key_is_doomed_by_the_commit(resources: Resources) -> None:
    """Let another process reserve the old key, as `assay reconcile` may do in a race."""
    damaged = await make_damaged(resources, SMALL)
    await reserve(resources.pool, damaged)
    await resend(resources, damaged, SMALL)
    await check_whole(resources, damaged, SMALL)


async def reserve(pool: asyncpg.Pool | Any, file: ProvedFile) -> None:
    await pool.execute(
        "INSERT INTO reservations (vault_key, file_id, owner, lease, lease_until)"
        " VALUES ($1, $2, $3, gen_random_uuid(), now() + interval '1 minute')",
        file.minio_object_name,
        file.id,
        file.owner,
    )


# Statements that wait for each other


async def hold_key(resources: Resources, file: ProvedFile) -> HeldKey:
    """Reserve a key of a request that is about to commit. Nothing is written under it."""
    return await reservations.reserve_key(
        resources.pool, file.id, file.owner, lease=timedelta(minutes=1)
    )


async def commit(database: Database, held: HeldKey, file: ProvedFile, **other: Any) -> File | None:
    proved: dict[str, Any] = {"size": file.size, "sha256": file.hash}
    return await queries.commit_mended_file(
        database,
        held,
        file.id,
        old_key=file.minio_object_name,
        etag="new",
        sweep_delay=timedelta(0),
        by="client",
        why="sent again",
        **proved | other,
    )


async def meet(pool: asyncpg.Pool, first: Statement, second: Statement) -> tuple[Any, Any]:
    """Run `second` while `first` holds its rows, and return both results."""
    async with held_open(pool) as holder:
        outcome = await first(holder)
        waiting = asyncio.create_task(awaited(second(pool)))
        await until_waiting(pool, 1)
        await holder.execute("COMMIT")
        return outcome, await waiting


async def awaited(statement: Awaitable[Any]) -> Any:
    return await statement


async def test_the_commit_compares_the_size_and_the_digest_itself(resources: Resources) -> None:
    damaged = await make_damaged(resources, SMALL)
    held = await hold_key(resources, damaged)
    for other in ({"size": 1}, {"sha256": Sha256(bytes(32))}):
        assert await commit(resources.pool, held, damaged, **other) is None
    assert (await find(resources, damaged)).state == State.DAMAGED
    assert await commit(resources.pool, held, damaged) is not None


@pytest.mark.parametrize("what", ["deleted", "whole", "sent again"])
async def test_a_commit_that_waits_for_another_change_commits_nothing(
    resources: Resources, what: str
) -> None:
    damaged = await make_damaged(resources, SMALL)
    held, other = [await hold_key(resources, damaged) for _ in range(2)]
    changes: dict[str, Statement] = {
        "deleted": lambda database: files.delete_file(database, damaged.id, owner="ann"),
        "whole": lambda database: mark_whole(
            database, damaged.id, damaged.minio_object_name, etag="e"
        ),
        "sent again": lambda database: commit(database, other, damaged),
    }
    changed, committed = await meet(
        resources.pool, changes[what], lambda database: commit(database, held, damaged)
    )
    assert changed
    assert committed is None
    assert held.vault_key in await list_live(resources), "its process dooms it"


async def test_a_verdict_that_waits_for_a_commit_changes_nothing(resources: Resources) -> None:
    damaged = await make_damaged(resources, SMALL)
    held, key = await hold_key(resources, damaged), damaged.minio_object_name
    committed, changed = await meet(
        resources.pool,
        lambda database: commit(database, held, damaged),
        lambda database: mark_whole(database, damaged.id, key, etag="old"),
    )
    assert committed is not None
    assert not changed
    assert (await find(resources, damaged)).vault_etag == "new"


async def test_a_deletion_that_waits_for_a_commit_purges_the_new_object(
    resources: Resources,
) -> None:
    damaged = await make_damaged(resources, SMALL)
    held = await hold_key(resources, damaged)
    committed, deleted = await meet(
        resources.pool,
        lambda database: commit(database, held, damaged),
        lambda database: files.delete_file(database, damaged.id, owner="ann"),
    )
    assert committed is not None
    assert deleted
    assert (await find(resources, damaged)).minio_object_name == held.vault_key
    assert damaged.minio_object_name in await list_doomed(resources)
    await let_settle(resources)
    assert await list_bucket(resources.vault) == set()


async def list_live(resources: Resources) -> set[UUID]:
    rows = await resources.pool.fetch("SELECT vault_key FROM reservations WHERE doomed_at IS NULL")
    return {row["vault_key"] for row in rows}
