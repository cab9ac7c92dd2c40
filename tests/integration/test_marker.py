"""Tests of the marker: what disagrees is found, and then nothing is verified or deleted."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from service.marker import MARKER_KEY, Guard
from service.marker import guard as guards
from service.marker.document import Document, read_document, write_document
from service.model import State, UnprovedFile, Work
from service.object_store import ObjectMissing, StoreUnavailable
from service.operations.doctor.marker import check_marker
from service.queries import claims, sweeping
from service.queries.locks import MARKER as LOCK
from service.resources import Resources
from service.uploads.completion import complete_upload
from service.worker.loop import POLL, Worker
from service.worker.sweeper import sweep
from tests.integration.steps import BODY, claim, declare, find, prove, put, send
from tests.support.backups import back_up, restore
from tests.support.clock import pass_time
from tests.support.faults import FaultyBucket, lose_answer
from tests.support.invariants import list_bucket
from tests.support.objects import key_of, put_object

pytestmark = pytest.mark.anyio
EARLIER = "the database was restored to an earlier state"
RAISE_NOW = "UPDATE vault_marker SET raised_at = raised_at - interval '1 minute'"


def open_guard(resources: Resources) -> Guard:
    """Return the guard of another process."""
    return Guard(resources.pool, resources.vault, resources.settings.listen_url)


async def look(resources: Resources) -> str | None:
    """Return why a process that starts now does no work, or None."""
    return (await open_guard(resources).check()).stopped


async def raise_again(resources: Resources) -> int:
    await resources.pool.execute(RAISE_NOW)
    return (await open_guard(resources).check()).counter


async def read_counter(pool: asyncpg.Pool) -> int:
    counter: int = await pool.fetchval("SELECT counter FROM vault_marker")
    return counter


async def seen(resources: Resources) -> Document:
    document = await read_document(resources.vault)
    assert document is not None
    return document


def renew_soon(resources: Resources) -> None:
    """Make the guard of the resources check again before its next use."""
    resources.guard.due_at = 0.0


async def test_the_first_check_writes_the_marker(resources: Resources) -> None:
    standing = await resources.guard.check()
    assert (standing.stopped, standing.counter) == (None, 1)
    document = await seen(resources)
    row = await resources.pool.fetchrow("SELECT deployment, identity FROM vault_marker")
    assert document == Document(row["deployment"], 1, row["identity"])
    system, oid, timeline = document.identity.split("/")
    assert oid == str(await resources.pool.fetchval("SELECT 'files'::regclass::oid"))
    assert system.isdigit()
    assert timeline == "1"


async def test_the_marker_is_raised_once_a_minute(resources: Resources) -> None:
    await resources.guard.check()
    assert await look(resources) is None
    assert (await seen(resources)).counter == 1
    assert await raise_again(resources) == 2
    assert (await read_counter(resources.pool), (await seen(resources)).counter) == (2, 2)


async def test_only_one_process_raises_at_a_time(resources: Resources, database_url: str) -> None:
    await resources.guard.check()
    other = await asyncpg.connect(database_url)
    try:
        await other.execute("SELECT pg_advisory_lock($1)", LOCK)
        assert await raise_again(resources) == 1
    finally:
        await other.close()
    assert await raise_again(resources) == 2


async def test_many_processes_that_start_at_once_agree(resources: Resources) -> None:
    standings = await asyncio.gather(*(open_guard(resources).check() for _ in range(8)))
    assert [one.stopped for one in standings] == [None] * 8
    assert (await seen(resources)).counter <= await read_counter(resources.pool)


async def test_a_raise_during_a_check_stops_nothing(resources: Resources) -> None:
    await resources.guard.check()
    vault = FaultyBucket(resources.vault)
    spoilt: Any = vault

    async def raise_between() -> None:
        vault.before.clear()
        assert await raise_again(resources) == 2

    vault.before["get"] = raise_between
    found = await Guard(resources.pool, spoilt, resources.settings.listen_url).check()
    assert (found.stopped, found.counter) == (None, 2)
    assert (await read_counter(resources.pool), (await seen(resources)).counter) == (2, 2)


async def test_a_marker_that_was_not_written_stops_nothing(resources: Resources) -> None:
    await resources.guard.check()
    vault = FaultyBucket(resources.vault)
    vault.before["put"] = lose_answer
    await resources.pool.execute(RAISE_NOW)
    spoilt: Any = vault
    await Guard(resources.pool, spoilt, resources.settings.listen_url).check()
    assert (await read_counter(resources.pool), (await seen(resources)).counter) == (2, 1)
    assert await look(resources) is None
    assert await raise_again(resources) == 3


async def make_restored(resources: Resources) -> None:
    """Restore the database to a state before the last raise of the marker."""
    await resources.guard.check()
    await back_up(resources.pool)
    await raise_again(resources)
    await restore(resources.pool)
    renew_soon(resources)


async def test_a_restored_database_is_found(resources: Resources) -> None:
    await make_restored(resources)
    stopped = (await resources.guard.check()).stopped
    assert stopped is not None
    assert stopped.startswith(EARLIER)
    assert stopped.endswith("assay reconcile`")
    await raise_again(resources)  # the row must not catch up with the vault
    assert (await read_counter(resources.pool), (await seen(resources)).counter) == (1, 2)


@pytest.mark.parametrize("field", ["oid", "timeline", "system"])
async def test_another_database_is_found(resources: Resources, field: str) -> None:
    await resources.guard.check()
    parts = (await seen(resources)).identity.split("/")
    parts[["system", "oid", "timeline"].index(field)] += "0"
    await resources.pool.execute("UPDATE vault_marker SET identity = $1", "/".join(parts))
    stopped = await look(resources)
    assert stopped is not None
    assert "failed over" in stopped


async def test_the_vault_of_another_deployment_is_found(resources: Resources) -> None:
    await resources.guard.check()
    await resources.pool.execute("UPDATE vault_marker SET deployment = $1", other := uuid4())
    stopped = await look(resources)
    assert stopped is not None
    assert str(other) in stopped
    assert str((await seen(resources)).deployment) in stopped


async def test_a_vault_without_its_marker_is_found(resources: Resources) -> None:
    await resources.guard.check()
    await resources.vault.delete(MARKER_KEY)
    stopped = await look(resources)
    assert stopped is not None
    assert "no marker" in stopped
    with pytest.raises(ObjectMissing):
        await resources.vault.head(MARKER_KEY)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"not JSON", b'{"counter": "x"}', bytes(20_000)]
)
async def test_a_marker_that_cannot_be_read_stops_everything(
    resources: Resources, body: bytes
) -> None:
    await resources.guard.check()
    put_object(resources.vault, MARKER_KEY, body)
    stopped = await look(resources)
    assert stopped is not None
    assert "not a marker" in stopped


async def test_a_restored_database_deletes_and_expires_nothing(resources: Resources) -> None:
    """Look at everything that the sweeper or a worker would do, with and without a new check."""
    garbage = await send(resources)
    held = await claim(resources, garbage.file)
    await resources.vault.copy_from(
        resources.incoming,
        key_of(garbage.file),
        etag=None,
        key=str(held.vault_key),
        content_type="text/plain",
        metadata={},
        tags={},
        send_before=1e12,
        timeout_seconds=20,
    )
    deleted = await prove(resources, (await send(resources)).file)
    await resources.pool.execute(
        "UPDATE files SET state = 'deleted', purge_at = now(), changed_by = 'client' WHERE id = $1",
        deleted.id,
    )
    never_sent = await declare(resources)
    await make_restored(resources)
    await pass_time(resources.pool, timedelta(days=30))
    before = [await list_bucket(bucket) for bucket in (resources.incoming, resources.vault)]
    assert len(before[1]) == 2

    async def take_everything(counter: int) -> list[Any]:
        pool, none = resources.pool, timedelta(0)
        taken: list[Any] = []
        for one in await claims.find_work(pool, {Work.SMALL: "", Work.LOOK: ""}):
            taken += await claims.claim_files(
                pool,
                one.work,
                9,
                held=dict.fromkeys(one.owners, 0),
                lease=timedelta(seconds=1),
                counter=counter,
            )
        taken += [1] * await sweeping.doom_ended_reservations(pool, 9, counter=counter)
        taken += await sweeping.claim_incoming_keys(pool, 9, none, counter=counter)
        taken += await sweeping.claim_deleted_objects(pool, 9, none, counter=counter)
        taken += await sweeping.claim_doomed_reservations(pool, 9, none, counter=counter)
        return taken

    assert await take_everything((await seen(resources)).counter) == [], (
        "each statement compares the markers itself"
    )
    assert await sweep(resources) == 0
    worker = Worker(resources)
    assert await worker.fill_slots() == POLL
    assert not worker.running
    assert (await find(resources, never_sent.file)).state == State.PENDING
    after = [await list_bucket(bucket) for bucket in (resources.incoming, resources.vault)]
    assert after == before
    await restore_agreement(resources)
    assert await take_everything((await seen(resources)).counter) != [], (
        "the same work is due when the markers agree"
    )


async def restore_agreement(resources: Resources) -> None:
    """Give the vault the counter of the row, as if the database had never been restored."""
    document = msgspec.structs.replace(
        await seen(resources), counter=await read_counter(resources.pool)
    )
    await write_document(resources.vault, document)
    renew_soon(resources)


@pytest.mark.parametrize("is_checked", [True, False])
async def test_complete_proves_nothing_in_a_restored_database(
    resources: Resources, *, is_checked: bool
) -> None:
    declared = await declare(resources)
    await make_restored(resources)
    assert (await put(declared)).status == 200
    if not is_checked:  # the process has read the vault before, and has not checked since
        resources.guard.standing = guards.Standing(counter=(await seen(resources)).counter)
        resources.guard.due_at = float("inf")
    completed = await complete_upload(resources, declared.file.id, owner="ann", sha256=None)
    assert isinstance(completed, UnprovedFile)
    assert completed.state == State.VERIFYING, "the arrival is recorded"
    assert await list_bucket(resources.vault) == set()


async def test_the_last_result_counts_for_a_while(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = FaultyBucket(resources.vault)
    spoilt: Any = vault
    guard = Guard(resources.pool, spoilt, resources.settings.listen_url)
    assert (await guard.check()).stopped is None
    vault.before["get"] = lose_answer
    guard.due_at = 0.0
    assert (await guard.check()).stopped is None
    assert guard.due_at > 0, "the next check waits a moment"
    monkeypatch.setattr(guards, "KEPT_SECONDS", 0.0)
    guard.due_at = 0.0
    stopped = (await guard.check()).stopped
    assert stopped is not None
    assert "cannot be read" in stopped
    del vault.before["get"]
    guard.due_at = 0.0
    assert (await guard.check()).stopped is None


async def test_a_store_that_is_away_at_the_start_allows_nothing(resources: Resources) -> None:
    vault = FaultyBucket(resources.vault)
    vault.before["get"] = lose_answer
    spoilt: Any = vault
    stopped = (await Guard(resources.pool, spoilt, resources.settings.listen_url).check()).stopped
    assert stopped is not None
    with pytest.raises(StoreUnavailable):
        await vault.get(MARKER_KEY, most_bytes=1)


async def test_the_doctor_says_what_disagrees(resources: Resources) -> None:
    [finding] = await check_marker(resources)
    assert finding.status == "ok"
    await make_restored(resources)
    [finding] = await check_marker(resources)
    assert (finding.status, finding.advice) == (
        "failed",
        "run `assay reconcile`, or see docs/operations.md",
    )
    assert EARLIER in finding.what


async def test_work_goes_on_when_the_markers_agree_again(resources: Resources) -> None:
    declared = await send(resources, BODY)
    await make_restored(resources)
    assert (await resources.guard.check()).stopped is not None
    await restore_agreement(resources)
    assert (await resources.guard.check()).stopped is None
    assert (await prove(resources, declared.file)).state == State.READY
