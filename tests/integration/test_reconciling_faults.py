"""Reconciliations that are interrupted, or meet objects that the store cannot read."""

from typing import Any

import msgspec
import pytest

from service.marker import MARKER_KEY
from service.model import ProvedFile, State
from service.operations import listing
from service.operations.reconciling import Options
from service.queries.scrubbing import mark_damaged
from service.resources import Resources
from service.worker import rereading
from service.worker.sweeper import sweep, sweep_reservations
from tests.integration.restored import (
    back_up_now,
    key_of_object,
    reconcile_all,
    resend,
    restore_backup,
    stream,
)
from tests.integration.steps import BODY, OTHER, find, let_settle, prove, send, sha256
from tests.support.clock import DAY, pass_time
from tests.support.faults import FaultyBucket, SpoiltBucket
from tests.support.invariants import check_files_are_proved, check_invariants, list_bucket
from tests.support.objects import put_object

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]
NO_ADOPTION = Options()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the third read of an object follow at once."""
    monkeypatch.setattr(rereading, "THIRD_READ_SECONDS", 0.0)


async def check_allowed(resources: Resources) -> None:
    resources.guard.due_at = 0.0
    assert (await resources.guard.check()).stopped is None


async def test_an_adoption_that_ends_early_deletes_no_object(resources: Resources) -> None:
    """Interrupt it after an earlier run has set the marker, so that the sweeper runs."""
    await back_up_now(resources)
    file = await stream(resources)
    await restore_backup(resources)
    assert [one.what for one in await reconcile_all(resources, NO_ADOPTION)] == ["orphan"]
    await check_allowed(resources)
    vault = FaultyBucket(resources.vault)
    vault.after["open"] = cancel
    spoilt: Any = vault
    with pytest.raises(Ended):
        await reconcile_all(msgspec.structs.replace(resources, vault=spoilt))
    for _ in range(3):
        await pass_time(resources.pool, DAY)
        await sweep(resources)
    assert await list_bucket(resources.vault) == {str(key_of_object(file))}
    assert [one.what for one in await reconcile_all(resources)] == ["adopted"]
    assert (await find(resources, file)).state == State.READY
    await let_settle(resources)
    await check_invariants(resources)


class Ended(Exception):
    """The end of a process, in a test."""


def cancel() -> None:
    raise Ended


async def test_an_unreadable_object_does_not_end_the_run(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = await prove(resources, (await send(resources)).file)
    await mark_damaged(resources.pool, damaged.id, key_of_object(damaged), why="altered")
    ready = await prove(resources, (await send(resources)).file)
    await resources.pool.execute("UPDATE files SET vault_etag = 'x' WHERE id = $1", ready.id)
    lost = await stream(resources)
    await resources.pool.execute("DELETE FROM file_history WHERE file_id = $1", lost.id)
    await resources.pool.execute("DELETE FROM files WHERE id = $1", lost.id)
    keys = {str(key_of_object(file)) for file in (damaged, ready, lost)}
    vault: Any = SpoiltBucket(resources.vault, keys)
    monkeypatch.setattr(rereading, "open_store", lambda _: Second(vault))
    found = await reconcile_all(msgspec.structs.replace(resources, vault=vault))
    assert sorted((one.what, one.key) for one in found) == [
        ("damaged", str(key_of_object(ready))),
        ("orphan", str(key_of_object(lost))),
    ]
    assert await list_bucket(resources.vault) == keys
    assert [one.what for one in await reconcile_all(resources)] != []
    for file in (damaged, ready, lost):
        assert (await find(resources, file)).state == State.READY
    await let_settle(resources)
    await check_invariants(resources)


class Second:
    """The second connection of a read, to a bucket that fails."""

    def __init__(self, vault: Any) -> None:
        self.vault = vault

    def bucket(self, _: str) -> Any:
        return self.vault

    def close(self) -> None:
        """Leave the bucket's own connections open."""


@pytest.mark.parametrize("number", range(4))
async def test_what_was_sent_again_is_found_in_any_order_of_keys(
    resources: Resources, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Restore the state before the damage was found. The keys are random."""
    del number
    monkeypatch.setattr(listing, "PAGE", 1)
    file = await prove(resources, (await send(resources)).file)
    await back_up_now(resources)
    await alter_and_resend(resources, file)
    await restore_backup(resources)
    await resources.pool.execute("DELETE FROM reservations WHERE doomed_at IS NULL")
    await reconcile_all(resources, NO_ADOPTION)
    assert (await find(resources, file)).state == State.READY
    await let_settle(resources)
    await check_invariants(resources)


@pytest.mark.parametrize("number", range(4))
async def test_of_two_objects_of_a_lost_row_the_right_one_is_adopted(
    resources: Resources, number: int
) -> None:
    del number
    await back_up_now(resources)
    file = await stream(resources)
    await alter_and_resend(resources, file)
    await restore_backup(resources)
    found = await reconcile_all(resources)
    assert [(one.what, one.key) for one in found] == [
        ("adopted", str((await find(resources, file)).minio_object_name)),
        ("orphan", str(key_of_object(file))),
    ]
    assert (await find(resources, file)).hash == sha256(BODY)
    await check_files_are_proved(resources)
    assert len(await list_bucket(resources.vault)) == 2


async def alter_and_resend(resources: Resources, file: Any) -> None:
    """Alter the object, find that, and send the bytes again."""
    key = str(key_of_object(file))
    seen = await resources.vault.head(key)
    await resources.vault.put(
        key,
        OTHER,
        content_type="text/plain",
        metadata=dict(seen.metadata),
        tags={},
        timeout_seconds=20,
    )
    assert await mark_damaged(resources.pool, file.id, key_of_object(file), why="altered")
    damaged = await find(resources, file)
    assert isinstance(damaged, ProvedFile)
    await resend(resources, damaged)


async def test_a_sweep_that_has_begun_ends_when_work_is_stopped(resources: Resources) -> None:
    await resources.pool.execute(
        "INSERT INTO reservations (vault_key, file_id, lease, lease_until, doomed_at, sweep_at)"
        " VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), now(), now(), now())"
    )
    put_object(resources.vault, MARKER_KEY, b"no marker")
    resources.guard.due_at = 0.0
    assert (await resources.guard.check()).stopped is not None
    assert await sweep_reservations(resources) == 0
    await resources.vault.delete(MARKER_KEY)
    await check_allowed(resources)
    assert await sweep_reservations(resources) == 1
