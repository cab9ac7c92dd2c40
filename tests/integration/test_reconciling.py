"""Tests of `assay reconcile`: after it, the invariants hold again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from service.files.lookup import find_file
from service.marker import MARKER_KEY
from service.model import File, State
from service.object_store.objects import ListedObject
from service.operations import listing
from service.operations.reconciling import (
    Adoption,
    CannotReconcile,
    Options,
    reconcile,
)
from service.problems import NotFound
from service.queries.locks import MARKER as LOCK
from service.resources import Resources
from service.worker.sweeper import sweep
from tests.integration.restored import (
    back_up_now,
    key_of_object,
    reconcile_all,
    restore_backup,
    stream,
)
from tests.integration.steps import (
    BODY,
    OTHER,
    claim,
    declare,
    find,
    let_settle,
    prove,
    put,
    run,
    send,
    sha256,
)
from tests.support.backups import restore
from tests.support.clock import pass_time
from tests.support.faults import FaultyBucket
from tests.support.invariants import check_invariants, list_bucket
from tests.support.objects import put_object, read_all

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]
AS_RECORDED = Options(adoption=Adoption(wanted=True))
ID = "0198f2a4-5b1c-7d3e-8f90-a1b2c3d4e5f6"
TAKE_OVER = Options(take_over=True)


async def check_agreement(resources: Resources) -> None:
    """Check that work is allowed, and that the invariants hold and still do later.

    The incoming objects of lost rows are left to the lifecycle rule. They are deleted first.
    """
    resources.guard.due_at = 0.0
    assert (await resources.guard.check()).stopped is None
    keys = await resources.pool.fetch("SELECT incoming_key FROM files")
    for key in await list_bucket(resources.incoming) - {row["incoming_key"] for row in keys}:
        await resources.incoming.delete(key)
    await check_invariants(resources)
    await let_settle(resources)
    await check_invariants(resources)


async def check_ready(resources: Resources, file: File, body: bytes = BODY) -> None:
    """Check the row, and the bytes under the key that it names."""
    again = await find(resources, file)
    assert (again.state, again.hash, again.owner) == (State.READY, sha256(body), file.owner)
    assert again.filename == file.filename
    assert read_all(resources.vault, str(key_of_object(again)), etag=again.vault_etag) == body


async def test_nothing_differs_after_nothing_was_restored(resources: Resources) -> None:
    file = await prove(resources, (await send(resources)).file)
    assert await reconcile_all(resources) == []
    assert await reconcile_all(resources) == []
    await check_ready(resources, file)
    await check_agreement(resources)


async def test_a_file_whose_row_is_lost_is_adopted_as_recorded(resources: Resources) -> None:
    await back_up_now(resources)
    uploaded = await prove(resources, (await send(resources)).file)
    streamed = await stream(resources)
    await restore_backup(resources)
    with pytest.raises(NotFound):
        await find(resources, uploaded)
    await sweep(resources)
    found = await reconcile_all(resources)
    assert {one.what for one in found} == {"adopted"}
    assert {one.key for one in found} == {
        str(key_of_object(uploaded)),
        str(key_of_object(streamed)),
    }
    await check_ready(resources, uploaded)
    await check_ready(resources, streamed)
    await check_agreement(resources)


async def test_a_file_whose_row_is_lost_is_reported_and_stays(resources: Resources) -> None:
    await back_up_now(resources)
    file = await prove(resources, (await send(resources)).file)
    await restore_backup(resources)
    [found] = await reconcile_all(resources, Options())
    assert (found.what, found.key) == ("orphan", str(key_of_object(file)))
    assert str(file.id) in found.detail
    assert "--adopt-as-recorded" in found.detail
    resources.guard.due_at = 0.0
    await let_settle(resources)
    assert await list_bucket(resources.vault) == {str(key_of_object(file))}
    await reconcile_all(resources)
    await check_ready(resources, file)


async def test_a_file_whose_row_is_lost_is_adopted_for_an_owner(resources: Resources) -> None:
    await back_up_now(resources)
    file = await prove(resources, (await send(resources)).file)
    await restore_backup(resources)
    await reconcile_all(resources, Options(adoption=Adoption(wanted=True, owner="bob")))
    assert (await find_file(resources, file.id, owner="bob")).owner == "bob"
    await check_agreement(resources)


async def test_a_file_that_is_unproved_again_becomes_ready(resources: Resources) -> None:
    """Check also that its incoming object is not needed: the sweeper has deleted it."""
    declared = await declare(resources)
    await back_up_now(resources)
    await put(declared)
    await prove(resources, declared.file)
    await sweep(resources)
    assert await list_bucket(resources.incoming) == set()
    await restore_backup(resources)
    await pass_time(resources.pool, timedelta(days=3))
    assert (await find(resources, declared.file)).state == State.PENDING
    [found] = await reconcile_all(resources, Options())
    assert found.what == "adopted"
    await check_ready(resources, declared.file)
    await check_agreement(resources)


async def test_a_reservation_whose_object_was_committed_is_taken_over(
    resources: Resources,
) -> None:
    """Check it with a lease that is live at first: reconcile waits for its end."""
    short = msgspec.structs.replace(resources.settings, lease=timedelta(seconds=3))
    quick = msgspec.structs.replace(resources, settings=short)
    declared = await send(quick)
    held = await claim(quick, declared.file)
    await back_up_now(quick)
    await run(quick, held)
    await restore_backup(quick)
    found = await reconcile_all(quick, Options())
    assert [one.what for one in found] == ["waiting", "ready"]
    await check_ready(quick, declared.file)
    await check_agreement(quick)


async def test_an_interrupted_adoption_is_finished(resources: Resources) -> None:
    await back_up_now(resources)
    file = await prove(resources, (await send(resources)).file)
    await restore_backup(resources)
    vault = FaultyBucket(resources.vault)
    vault.before["open"] = stop
    spoilt: Any = vault
    with pytest.raises(Stopped):
        await reconcile_all(msgspec.structs.replace(resources, vault=spoilt))
    assert await resources.pool.fetchval("SELECT count(*) FROM reservations") == 0
    await pass_time(resources.pool, timedelta(hours=1))
    await sweep(resources)
    # Without the wish to adopt, the reservation must not lead to a deletion.
    [found] = await reconcile_all(resources, Options())
    assert found.what == "orphan"
    await reconcile_all(resources)
    await check_ready(resources, file)
    await check_agreement(resources)


class Stopped(Exception):
    """The end of a process, in a test."""


def stop() -> None:
    raise Stopped


@pytest.mark.parametrize("call", ["get", "head", "open", "put"])
async def test_a_run_that_ends_anywhere_can_be_repeated(resources: Resources, call: str) -> None:
    """End it before each request of this kind in turn, until one run is complete."""
    missing = await prove(resources, (await send(resources)).file)
    declared = await send(resources)
    pending = await declare(resources)
    held = await claim(resources, declared.file)
    await back_up_now(resources)
    await run(resources, held)
    await put(pending)
    await prove(resources, pending.file)
    lost = [await prove(resources, (await send(resources)).file), await stream(resources)]
    await resources.vault.delete(str(key_of_object(missing)))
    await restore_backup(resources)
    vault = FaultyBucket(resources.vault)
    spoilt: Any = vault
    calls = 0

    def stop_at_the_next() -> None:
        if vault.calls[call] >= calls:
            raise Stopped

    vault.before[call] = stop_at_the_next
    while True:
        vault.calls.clear()
        await pass_time(resources.pool, timedelta(hours=1))
        with contextlib.suppress(Stopped):
            await reconcile_all(msgspec.structs.replace(resources, vault=spoilt))
            break
        resources.guard.due_at = 0.0
        await sweep(resources)
        calls += 1
    for file in (declared.file, pending.file, *lost):
        await check_ready(resources, file)
    assert (await find(resources, missing)).state == State.DAMAGED
    resources.guard.due_at = 0.0
    assert (await resources.guard.check()).stopped is None
    await let_settle(resources)


async def test_a_database_that_is_restored_twice(resources: Resources) -> None:
    await back_up_now(resources)
    file = await prove(resources, (await send(resources)).file)
    await restore_backup(resources)
    await reconcile_all(resources)
    await restore_backup(resources)
    await reconcile_all(resources)
    await check_ready(resources, file)
    await check_agreement(resources)


async def test_a_failover_that_lost_a_commit(resources: Resources) -> None:
    """Check a standby that has everything but the commit, and another timeline."""
    declared = await send(resources)
    held = await claim(resources, declared.file)
    await back_up_now(resources)
    counter = await resources.pool.fetchval("SELECT counter FROM vault_marker")
    await run(resources, held)
    await restore(resources.pool)
    await resources.pool.execute(
        "UPDATE vault_marker SET counter = $1, identity = identity || '1'", counter
    )
    resources.guard.due_at = 0.0
    stopped = (await resources.guard.check()).stopped
    assert stopped is not None
    assert "failed over" in stopped
    await pass_time(resources.pool, timedelta(minutes=5))
    await reconcile_all(resources, Options())
    await check_ready(resources, declared.file)
    await check_agreement(resources)


async def test_files_without_an_object_are_damaged_and_come_back(resources: Resources) -> None:
    """Check a vault that is restored from yesterday, and then to today."""
    kept = await prove(resources, (await send(resources)).file)
    lost = await prove(resources, (await send(resources)).file)
    key = str(key_of_object(lost))
    await resources.vault.delete(key)
    [found] = await reconcile_all(resources, Options())
    assert (found.what, found.key) == ("damaged", key)
    assert (await find(resources, lost)).state == State.DAMAGED
    await check_ready(resources, kept)
    put_object(resources.vault, key, BODY, content_type="application/pdf")
    [found] = await reconcile_all(resources, Options())
    assert (found.what, found.key) == ("whole", key)
    await check_ready(resources, lost)
    await check_agreement(resources)


async def test_altered_objects_are_damaged_and_restored_ones_are_not(
    resources: Resources,
) -> None:
    altered = await prove(resources, (await send(resources)).file)
    large = await stream(resources, bytes(9 * 1024**2))  # in parts: it has another kind of ETag
    put_object(resources.vault, str(key_of_object(altered)), OTHER)
    put_object(resources.vault, str(key_of_object(large)), bytes(9 * 1024**2))
    found = {one.key: one for one in await reconcile_all(resources, Options())}
    assert found[str(key_of_object(altered))].what == "damaged"
    assert str(sha256(OTHER)) in found[str(key_of_object(altered))].detail
    assert found[str(key_of_object(large))].what == "whole"
    assert (await find(resources, altered)).state == State.DAMAGED
    await check_ready(resources, large, bytes(9 * 1024**2))


async def test_a_deleted_file_is_not_adopted_again(resources: Resources) -> None:
    """Check that the sweeper deletes the object, as the row says."""
    file = await prove(resources, (await send(resources)).file)
    await resources.pool.execute(
        "UPDATE files SET state = 'deleted', purge_at = now(), changed_by = 'client' WHERE id = $1",
        file.id,
    )
    await back_up_now(resources)
    await restore_backup(resources)
    assert await reconcile_all(resources) == []
    await check_agreement(resources)
    assert await list_bucket(resources.vault) == set()


async def test_an_object_of_a_final_file_is_reported(resources: Resources) -> None:
    file = await prove(resources, (await send(resources)).file)
    key = str(uuid4())
    await resources.vault.put(
        key,
        BODY,
        content_type="text/plain",
        metadata={
            "assay-file-id": str(file.id),
            "assay-owner": "ann",
            "assay-filename": "x",
        },
        tags={},
        timeout_seconds=20,
    )
    [found] = await reconcile_all(resources)
    assert (found.what, found.key) == ("orphan", key)
    assert "ready without it" in found.detail
    await check_ready(resources, file)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"assay-file-id": "x", "assay-owner": "ann", "assay-filename": "x"},
        {"assay-file-id": ID, "assay-owner": "", "assay-filename": "x"},
        {"assay-file-id": ID, "assay-owner": "ann", "assay-filename": "a%2Fb%00"},
        {"assay-file-id": ID, "assay-owner": "%ff", "assay-filename": "x"},
        {
            "assay-file-id": ID,
            "assay-owner": "ann",
            "assay-filename": "x",
            "assay-declared-sha256": "0" * 64,
        },
    ],
    ids=["none", "id", "owner", "filename", "encoding", "digest"],
)
async def test_an_object_with_other_metadata_or_bytes_is_reported(
    resources: Resources, metadata: dict[str, str]
) -> None:
    key = str(uuid4())
    await resources.vault.put(
        key, BODY, content_type="text/plain", metadata=metadata, tags={}, timeout_seconds=20
    )
    [found] = await reconcile_all(resources)
    assert (found.what, found.key) == ("orphan", key)
    assert await resources.pool.fetchval("SELECT count(*) FROM files") == 0
    resources.guard.due_at = 0.0
    await let_settle(resources)
    assert await list_bucket(resources.vault) == {key}, "nothing is deleted"


@pytest.mark.parametrize("key", ["notes.txt", "0" * 32, ID.upper(), f"zz/{ID}"])
async def test_a_foreign_key_is_reported(resources: Resources, key: str) -> None:
    file = await prove(resources, (await send(resources)).file)
    put_object(resources.vault, key, BODY)
    [found] = await reconcile_all(resources)
    assert (found.what, found.key) == ("orphan", key)
    await check_ready(resources, file)


async def test_an_emptied_vault_damages_nothing_by_itself(resources: Resources) -> None:
    file = await prove(resources, (await send(resources)).file)
    await resources.guard.check()
    for key in [*await list_bucket(resources.vault), MARKER_KEY]:
        await resources.vault.delete(key)
    with pytest.raises(CannotReconcile, match="--take-over"):
        await reconcile_all(resources)
    await check_state(resources, file, State.READY)
    [found] = await reconcile_all(resources, TAKE_OVER)
    assert found.what == "damaged"
    await check_state(resources, file, State.DAMAGED)
    resources.guard.due_at = 0.0
    assert (await resources.guard.check()).stopped is None


async def check_state(resources: Resources, file: File, state: State) -> None:
    assert (await find(resources, file)).state == state


async def test_a_lost_database_takes_over_the_vault(resources: Resources) -> None:
    """Check a database that is new and empty. For the vault, it is another deployment."""
    file = await prove(resources, (await send(resources)).file)
    await resources.guard.check()
    await resources.pool.execute(
        "TRUNCATE files, file_history, reservations, idempotency_keys;"
        " UPDATE vault_marker SET deployment = gen_random_uuid(), counter = 0, raised_at = NULL"
    )
    with pytest.raises(CannotReconcile, match="deployment"):
        await reconcile_all(resources)
    await reconcile_all(resources, msgspec.structs.replace(AS_RECORDED, take_over=True))
    await check_ready(resources, file)
    await check_agreement(resources)


async def test_a_listing_that_is_out_of_order_ends_the_run(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [await prove(resources, (await send(resources)).file) for _ in range(3)]
    real = resources.vault.list_keys

    async def disorderly(*given: Any) -> AsyncIterator[ListedObject]:
        for listed in reversed([listed async for listed in real(*given)]):
            yield listed

    monkeypatch.setattr(resources.vault, "list_keys", disorderly)
    with pytest.raises(CannotReconcile, match="order"):
        await reconcile_all(resources)
    for file in files:
        await check_state(resources, file, State.READY)


async def test_a_listing_that_omits_objects_damages_nothing(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [await prove(resources, (await send(resources)).file) for _ in range(3)]

    async def empty(*_: Any) -> AsyncIterator[ListedObject]:
        listed: ListedObject
        for listed in ():
            yield listed

    monkeypatch.setattr(resources.vault, "list_keys", empty)
    assert await reconcile_all(resources) == []
    for file in files:
        await check_ready(resources, file)


@pytest.mark.parametrize("page", [1, 2, 3])
async def test_small_pages_find_the_same(
    resources: Resources, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    files = [await prove(resources, (await send(resources)).file) for _ in range(5)]
    by_key = sorted(files, key=lambda file: str(key_of_object(file)))
    for file in (by_key[0], by_key[2], by_key[4]):
        await resources.vault.delete(str(key_of_object(file)))
    orphans = {"00000000-0000-7000-8000-000000000000", "ffffffff-ffff-4fff-bfff-ffffffffffff"}
    for key in orphans:
        put_object(resources.vault, key, BODY)
    monkeypatch.setattr(listing, "PAGE", page)
    found = await reconcile_all(resources)
    damaged = {one.key for one in found if one.what == "damaged"}
    assert damaged == {str(key_of_object(by_key[number])) for number in (0, 2, 4)}
    assert {one.key for one in found if one.what == "orphan"} == orphans


async def test_two_runs_at_once(resources: Resources) -> None:
    await resources.guard.check()
    await back_up_now(resources)
    file = await prove(resources, (await send(resources)).file)
    await restore_backup(resources)
    outcomes = await asyncio.gather(
        reconcile_all(resources), reconcile_all(resources), return_exceptions=True
    )
    assert sorted(isinstance(one, CannotReconcile) for one in outcomes) == [False, True]
    await check_ready(resources, file)


async def test_uploads_go_on_during_a_run(resources: Resources) -> None:
    """Objects that are written during the listing are neither damaged nor adopted."""
    await back_up_now(resources)
    lost = [await prove(resources, (await send(resources)).file) for _ in range(3)]
    await restore_backup(resources)
    uploads = asyncio.gather(*(stream(resources, b"%d" % number) for number in range(20)))
    found = await reconcile_all(resources)
    streamed = await uploads
    adopted = {one.key for one in found if one.what == "adopted"}
    assert adopted == {str(key_of_object(file)) for file in lost}
    assert {one.what for one in found} <= {"adopted", "waiting"}, "uploads settle themselves"
    for number, file in enumerate(streamed):
        await check_ready(resources, file, b"%d" % number)
    await check_agreement(resources)


async def test_a_restore_during_a_run_is_not_covered_by_it(resources: Resources) -> None:
    """Check that the run ends with the connection that has the lock, and sets no marker."""
    await back_up_now(resources)
    await prove(resources, (await send(resources)).file)
    await restore_backup(resources)
    run_of_it = reconcile(resources, AS_RECORDED)
    await anext(run_of_it)
    ended = await resources.pool.fetchval(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        " AND (classid::bigint << 32) + objid::bigint = $1",
        LOCK,
    )
    assert ended
    with pytest.raises(Exception, match=r".*"):
        [found async for found in run_of_it]
    resources.guard.due_at = 0.0
    assert (await resources.guard.check()).stopped is not None
