"""A database that has lost the commit by which a damaged file became `ready` again."""

import pytest

from service.model import File, ProvedFile, State
from service.operations.reconciling import Found, Options, reconcile
from service.queries.scrubbing import mark_damaged
from service.resources import Resources
from service.worker.sweeper import sweep
from tests.integration.restored import key_of_object, resend
from tests.integration.steps import OTHER, find, let_settle, prove, send
from tests.support.backups import back_up, restore
from tests.support.invariants import check_invariants, list_bucket
from tests.support.objects import put_object

pytestmark = pytest.mark.anyio


async def make_damaged(resources: Resources) -> ProvedFile:
    file = await prove(resources, (await send(resources)).file)
    put_object(resources.vault, str(key_of_object(file)), OTHER)
    assert await mark_damaged(resources.pool, file.id, key_of_object(file), why="it is altered")
    damaged = await find(resources, file)
    assert isinstance(damaged, ProvedFile)
    return damaged


async def lose_the_commit(resources: Resources, damaged: ProvedFile) -> File:
    """Send the bytes again, and restore the database to the state before."""
    resources.guard.due_at = 0.0
    await resources.guard.check()
    await back_up(resources.pool)
    await resources.pool.execute("UPDATE vault_marker SET raised_at = now() - interval '1 hour'")
    resources.guard.due_at = 0.0
    await resources.guard.check()
    sent = await resend(resources, damaged)
    await restore(resources.pool)
    assert (await find(resources, damaged)).state == State.DAMAGED
    resources.guard.due_at = 0.0
    assert (await resources.guard.check()).stopped is not None
    return sent


async def reconcile_all(resources: Resources) -> list[Found]:
    found = [found async for found in reconcile(resources, Options())]
    resources.guard.due_at = 0.0
    assert (await resources.guard.check()).stopped is None
    return found


@pytest.mark.parametrize("reserved", [False, True], ids=["lost reservation", "old reservation"])
async def test_a_file_that_was_sent_again_is_ready_after_a_restore(
    resources: Resources, *, reserved: bool
) -> None:
    damaged = await make_damaged(resources)
    sent = await lose_the_commit(resources, damaged)
    await resources.pool.execute("DELETE FROM reservations WHERE doomed_at IS NULL")
    if reserved:
        await resources.pool.execute(
            "INSERT INTO reservations (vault_key, file_id, owner, lease, lease_until)"
            " VALUES ($1, $2, 'ann', gen_random_uuid(), now() - interval '1 minute')",
            sent.minio_object_name,
            sent.id,
        )
    await sweep(resources)
    [found] = await reconcile_all(resources)
    assert found.detail == f"the file {sent.id} is ready again"
    assert (await find(resources, damaged)) == sent
    await check_invariants(resources)
    await let_settle(resources)
    await check_invariants(resources)
    assert await list_bucket(resources.vault) == {str(sent.minio_object_name)}


async def test_a_file_that_was_ready_before_takes_what_was_sent_again(
    resources: Resources,
) -> None:
    """Restore the state before the damage was found. The new key was reserved even then."""
    file = await prove(resources, (await send(resources)).file)
    resources.guard.due_at = 0.0
    await resources.guard.check()
    await back_up(resources.pool)
    await resources.pool.execute("UPDATE vault_marker SET raised_at = now() - interval '1 hour'")
    resources.guard.due_at = 0.0
    await resources.guard.check()
    put_object(resources.vault, str(key_of_object(file)), OTHER)
    assert await mark_damaged(resources.pool, file.id, key_of_object(file), why="it is altered")
    damaged = await find(resources, file)
    assert isinstance(damaged, ProvedFile)
    sent = await resend(resources, damaged)
    await restore(resources.pool)
    assert (await find(resources, file)).state == State.READY
    await resources.pool.execute("DELETE FROM reservations WHERE doomed_at IS NULL")
    await resources.pool.execute(
        "INSERT INTO reservations (vault_key, file_id, owner, lease, lease_until)"
        " VALUES ($1, $2, 'ann', gen_random_uuid(), now() - interval '1 minute')",
        sent.minio_object_name,
        sent.id,
    )
    assert [one.what for one in await reconcile_all(resources)] == ["damaged", "ready"]
    assert await find(resources, file) == sent
    await check_invariants(resources)
    await let_settle(resources)
    await check_invariants(resources)
    assert await list_bucket(resources.vault) == {str(sent.minio_object_name)}


async def test_an_object_with_other_bytes_is_reported_and_kept(resources: Resources) -> None:
    damaged = await make_damaged(resources)
    sent = await lose_the_commit(resources, damaged)
    seen = await resources.vault.head(str(sent.minio_object_name))
    await resources.vault.put(
        str(sent.minio_object_name),
        OTHER,
        content_type="text/plain",
        metadata=dict(seen.metadata),
        tags={},
        timeout_seconds=20,
    )
    [found] = await reconcile_all(resources)
    assert (found.what, found.key) == ("orphan", str(sent.minio_object_name))
    assert "differ from the declared digest" in found.detail
    assert (await find(resources, damaged)).state == State.DAMAGED
    await let_settle(resources)
    assert await list_bucket(resources.vault) == {
        str(damaged.minio_object_name),
        str(sent.minio_object_name),
    }
