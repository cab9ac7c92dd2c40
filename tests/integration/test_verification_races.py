"""The races of a verification, each made to happen.

Other processes act on the file at the same time, and requests take effect late or twice.
"""

import asyncio
import contextlib
import functools
from datetime import datetime, timedelta

import msgspec
import pytest

from service import clock
from service.files.lookup import delete_file
from service.model import State
from service.object_store import Bucket, ObjectChanged, ObjectMissing
from service.queries import claims, files, reservations, verdicts
from service.resources import Resources
from service.uploads.arrivals import record_event
from service.worker.sweeper import sweep
from tests.integration.steps import (
    BODY,
    OTHER,
    RETRY,
    claim,
    claim_due,
    declare,
    find,
    let_settle,
    prove,
    put,
    run,
    send,
    sha256,
)
from tests.support.claims import claim_files
from tests.support.faults import FaultyBucket, FaultyPool, Gate
from tests.support.invariants import check_invariants, check_nothing_left, list_bucket
from tests.support.methods import COPIED, ONLY_COPIED, Method
from tests.support.objects import key_of, put_as_root, read_all
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]


async def test_an_event_between_check_and_return_to_pending_is_not_lost(
    resources: Resources,
) -> None:
    declared = await declare(resources)
    held = await claim(resources, declared.file)

    async def upload_and_announce() -> None:
        await put(declared)
        await record_event(resources, key_of(declared.file))

    interrupted = FaultyPool(resources.pool, claims.RETURN, before=upload_and_announce)
    await run(msgspec.structs.replace(resources, pool=interrupted), held)
    assert interrupted.calls == 1
    await run(resources, await claim_due(resources))
    assert (await find(resources, declared.file)).state == State.READY


async def test_a_copy_that_takes_effect_late_is_never_served_and_is_removed(
    resources: Resources,
    method: Method,
) -> None:
    declared = await send(resources)
    vault = FaultyBucket(resources.vault)
    vault.late.add(method.write)
    assert not await run(
        msgspec.structs.replace(resources, vault=vault), await claim(resources, declared.file)
    )
    await sweep(resources)
    # This copies the same incoming object under another key.
    file = await prove(resources, declared.file)
    await vault.land()
    assert len(await list_bucket(resources.vault)) == 2
    await check_invariants(resources)
    await let_settle(resources)
    await check_nothing_left(resources)
    assert read_all(resources.vault, str(file.minio_object_name)) == BODY


async def test_a_copy_is_not_sent_after_the_first_lease_period(
    resources: Resources, method: Method
) -> None:
    declared = await send(resources)
    held = await claim(resources, declared.file)
    await run(
        resources, held, claimed_at=clock.read_seconds() - resources.settings.lease.total_seconds()
    )
    assert await list_bucket(resources.vault) == set()
    assert await reservations.list_reservations(resources.pool, held.id) == []
    assert (await prove(resources, declared.file)).state == State.READY


@ONLY_COPIED
async def test_an_object_that_changes_between_check_and_copy_is_checked_again(
    resources: Resources, method: Method, root_incoming: Bucket
) -> None:
    declared = await declare(resources)
    put_as_root(root_incoming, key_of(declared.file), BODY)
    incoming = FaultyBucket(resources.incoming)
    incoming.after[method.look] = lambda: put_as_root(root_incoming, key_of(declared.file), OTHER)
    await run(
        msgspec.structs.replace(resources, incoming=incoming), await claim(resources, declared.file)
    )
    assert await list_bucket(resources.vault) == set()
    await run(resources, await claim_due(resources))
    assert (await find(resources, declared.file)).hash == sha256(OTHER)
    await check_invariants(resources)


async def test_overwriting_the_object_while_its_copy_is_hashed_has_no_effect(
    resources: Resources, method: Method, root_incoming: Bucket
) -> None:
    declared = await declare(resources)
    put_as_root(root_incoming, key_of(declared.file), BODY)
    vault = FaultyBucket(resources.vault)
    vault.after[method.write] = lambda: put_as_root(root_incoming, key_of(declared.file), OTHER)
    await run(
        msgspec.structs.replace(resources, vault=vault), await claim(resources, declared.file)
    )
    assert (await find(resources, declared.file)).hash == sha256(BODY)
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_the_sweeper_wins_against_a_later_commit_of_an_expired_lease(
    resources: Resources,
    method: Method,
) -> None:
    declared = await send(resources)
    held = await claim(resources, declared.file)

    async def end_lease_and_sweep() -> None:
        await resources.pool.execute("UPDATE reservations SET lease_until = now() - interval '1 s'")
        await sweep(resources)

    interrupted = FaultyPool(resources.pool, verdicts.COMMIT, before=end_lease_and_sweep)
    await run(msgspec.structs.replace(resources, pool=interrupted), held)
    assert interrupted.calls == 1
    assert (await find(resources, declared.file)).state == State.VERIFYING
    assert await list_bucket(resources.vault) == set()
    assert (await prove(resources, declared.file)).state == State.READY
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_the_sweeper_keeps_the_object_of_a_commit_after_the_lease(
    resources: Resources,
    method: Method,
) -> None:
    declared = await send(resources)
    held = await claim(resources, declared.file)
    await resources.pool.execute("UPDATE reservations SET lease_until = now() - interval '1 s'")
    slow = FaultyPool(resources.pool, verdicts.COMMIT, after=lambda: sweep_twice(resources))
    await run(msgspec.structs.replace(resources, pool=slow), held)
    assert slow.calls == 1
    assert (await find(resources, declared.file)).state == State.READY
    await let_settle(resources)
    await check_nothing_left(resources)


async def sweep_twice(resources: Resources) -> None:
    await asyncio.gather(sweep(resources), sweep(resources))


async def test_a_file_that_is_deleted_while_it_is_verified_leaves_nothing(
    resources: Resources,
    method: Method,
) -> None:
    declared = await send(resources)
    vault, gate = FaultyBucket(resources.vault), Gate()
    vault.after[method.write] = gate
    verifying = asyncio.create_task(
        run(msgspec.structs.replace(resources, vault=vault), await claim(resources, declared.file))
    )
    await gate.reached.wait()
    await delete_file(resources, declared.file.id, owner="ann")
    gate.opened.set()
    await verifying
    assert (await find(resources, declared.file)).state == State.DELETED
    await let_settle(resources)
    assert await list_bucket(resources.incoming) | await list_bucket(resources.vault) == set()


async def test_a_file_that_is_claimed_twice_is_proved_once(
    resources: Resources, method: Method
) -> None:
    """Verify a file with two workers, one of which has lost its lease.

    One worker commits, and nothing is left of the other's copy.
    """
    declared = await send(resources)
    first = await claim(resources, declared.file)
    await resources.pool.execute(
        "UPDATE files SET lease_until = now() - interval '1 s', due_at = now()"
    )
    second = await claim_due(resources)
    await asyncio.gather(run(resources, first), run(resources, second))
    file = await find(resources, declared.file)
    assert (file.state, file.minio_object_name) == (State.READY, second.vault_key)
    await let_settle(resources)
    await check_nothing_left(resources)
    assert await files.find_file(resources.pool, file.id, owner="bob") is None


async def test_a_long_verification_keeps_its_lease(resources: Resources, method: Method) -> None:
    short = msgspec.structs.replace(
        resources,
        settings=msgspec.structs.replace(resources.settings, lease=timedelta(seconds=4.5)),
    )
    declared = await send(short)
    vault, gate = FaultyBucket(short.vault), Gate()
    vault.after[method.write] = gate
    held = await claim(short, declared.file)
    verifying = asyncio.create_task(run(msgspec.structs.replace(short, vault=vault), held))
    await gate.reached.wait()
    first = last = await lease_end(resources)
    while last < first + short.settings.lease:
        await until(functools.partial(has_moved, resources, last))
        last = await lease_end(resources)
        assert await claim_files(resources.pool, 1, lease=RETRY) == []
    gate.opened.set()
    await verifying
    assert (await find(resources, declared.file)).state == State.READY


async def has_moved(resources: Resources, last: datetime) -> bool:
    return await lease_end(resources) != last


async def lease_end(resources: Resources) -> datetime:
    end: datetime = await resources.pool.fetchval("SELECT lease_until FROM files")
    return end


async def test_a_cancelled_verification_gives_its_lease_back(
    resources: Resources, method: Method
) -> None:
    declared = await send(resources)
    vault, gate = FaultyBucket(resources.vault), Gate()
    vault.after[method.write] = gate
    verifying = asyncio.create_task(
        run(msgspec.structs.replace(resources, vault=vault), await claim(resources, declared.file))
    )
    await gate.reached.wait()
    verifying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await verifying
    assert await resources.pool.fetchval("SELECT lease FROM files") is None
    assert (await prove(resources, declared.file)).state == State.READY
    await let_settle(resources)
    await check_nothing_left(resources)


@pytest.mark.parametrize("swept", [False, True], ids=["incoming there", "incoming swept"])
async def test_a_copy_that_takes_effect_again_changes_no_served_byte(
    resources: Resources, method: Method, swept: bool
) -> None:
    """Repeat the copy request when the file is ready, as a proxy might do."""
    declared = await send(resources)
    vault = FaultyBucket(resources.vault)
    vault.repeated.add(method.write)
    await run(
        msgspec.structs.replace(resources, vault=vault), await claim(resources, declared.file)
    )
    if swept:
        await sweep(resources)
        with pytest.raises(ObjectMissing) if method == COPIED else contextlib.nullcontext():
            await vault.land()
    else:
        await vault.land()
    file = await find(resources, declared.file)
    assert file.state == State.READY
    assert read_all(resources.vault, str(file.minio_object_name), etag=file.vault_etag) == BODY
    await let_settle(resources)
    await check_nothing_left(resources)


@ONLY_COPIED
async def test_an_object_that_was_overwritten_is_not_copied_again(
    resources: Resources, method: Method, root_incoming: Bucket
) -> None:
    """Repeat the copy request after its source was overwritten.

    Its If-Match condition then fails, so the proved bytes are not replaced.
    """
    declared = await send(resources)
    vault = FaultyBucket(resources.vault)
    vault.repeated.add(method.write)
    await run(
        msgspec.structs.replace(resources, vault=vault), await claim(resources, declared.file)
    )
    put_as_root(root_incoming, key_of(declared.file), OTHER)
    with pytest.raises(ObjectChanged):
        await vault.land()
    await check_invariants(resources)
