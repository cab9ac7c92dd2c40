"""Faults of the store or the database during a verification.

The tests check the file's row, its reservations and the vault.
"""

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

from service.model import Claim, File, State
from service.queries import reservations, verdicts
from service.resources import Resources, open_resources
from service.settings import Secret, Settings
from tests.integration.locks import held_open, until_waiting
from tests.integration.steps import (
    BODY,
    claim,
    find,
    let_settle,
    prove,
    read_row,
    run,
    send,
    sha256,
)
from tests.support.faults import FaultyBucket, FaultyPool, lose_answer, lose_connection
from tests.support.invariants import check_nothing_left, list_bucket
from tests.support.methods import ONLY_COPIED, Method
from tests.support.objects import read_all
from tests.support.proxies import FaultyProxy, faulty_way
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


# Faults of the store


@ONLY_COPIED
@pytest.mark.parametrize("read_bytes", [0, 700], ids=["refused", "truncated"])
async def test_the_next_claim_repeats_a_hash_that_the_store_interrupted(
    resources: Resources, method: Method, read_bytes: int
) -> None:
    declared = await send(resources)
    vault = FaultyBucket(resources.vault)
    if read_bytes:
        vault.cut_reads_after = read_bytes
    else:
        vault.before["open"] = lose_answer
    assert not await run(
        msgspec.structs.replace(resources, vault=vault), await claim(resources, declared.file)
    )
    [copy] = await reservations.list_reservations(resources.pool, declared.file.id)
    assert copy.doomed_at is not None
    row = await read_row(resources, declared.file)
    assert (row["state"], row["lease"], row["later"]) == ("verifying", None, True)
    assert await list_bucket(resources.vault) == set()
    assert (await prove(resources, declared.file)).hash == sha256(BODY)
    await let_settle(resources)
    await check_nothing_left(resources)


@ONLY_COPIED
async def test_a_copy_that_cannot_be_deleted_at_once_is_left_to_the_sweeper(
    resources: Resources,
    method: Method,
) -> None:
    """Lose the store during the hash, and keep it unavailable while the worker deletes the copy."""
    declared = await send(resources)
    vault = FaultyBucket(resources.vault)
    vault.cut_reads_after = 700
    vault.before["delete"] = lose_answer
    assert not await run(
        msgspec.structs.replace(resources, vault=vault), await claim(resources, declared.file)
    )
    assert len(await list_bucket(resources.vault)) == 1
    await let_settle(resources)
    assert await list_bucket(resources.vault) == set()
    assert (await prove(resources, declared.file)).state == State.READY


@pytest.mark.parametrize("call", ["look", "write"])
async def test_an_error_of_the_store_ends_the_lease_and_delays_the_next_claim(
    resources: Resources, method: Method, call: str
) -> None:
    declared = await send(resources)
    incoming, vault = FaultyBucket(resources.incoming), FaultyBucket(resources.vault)
    if call == "look":
        incoming.before[method.look] = lose_answer
    else:
        vault.before[method.write] = lose_answer
    assert not await run(
        msgspec.structs.replace(resources, incoming=incoming, vault=vault),
        await claim(resources, declared.file),
    )
    row = await read_row(resources, declared.file)
    assert (row["state"], row["lease"], row["later"]) == ("verifying", None, True)
    assert "unavailable" in row["last_error"]
    assert (await prove(resources, declared.file)).state == State.READY


# Faults of the database


async def test_a_commit_whose_response_is_lost_keeps_the_object(
    resources: Resources, method: Method
) -> None:
    declared = await send(resources)
    lossy = FaultyPool(resources.pool, verdicts.COMMIT, after=lose_connection)
    await run(msgspec.structs.replace(resources, pool=lossy), await claim(resources, declared.file))
    assert lossy.calls == 1
    await check_proved(resources, declared.file)


async def test_a_commit_that_never_ran_leaves_no_orphan(
    resources: Resources,
    method: Method,
) -> None:
    declared = await send(resources)
    lossy = FaultyPool(resources.pool, verdicts.COMMIT, before=lose_connection)
    await run(msgspec.structs.replace(resources, pool=lossy), await claim(resources, declared.file))
    assert lossy.calls == 1
    assert await list_bucket(resources.vault) == set()
    assert (await prove(resources, declared.file)).state == State.READY
    await check_proved(resources, declared.file)


async def test_a_commit_that_is_sent_twice_takes_effect_once(
    resources: Resources, method: Method
) -> None:
    """Send the commit twice, as a proxy might do. Assay itself never sends it again."""
    declared = await send(resources)
    held = await claim(resources, declared.file)
    twice = FaultyPool(resources.pool, verdicts.COMMIT, after=lambda: commit_again(resources, held))
    await run(msgspec.structs.replace(resources, pool=twice), held)
    assert twice.calls == 1
    await check_proved(resources, declared.file)


async def commit_again(resources: Resources, held: Claim) -> None:
    assert (
        await verdicts.commit_verification(
            resources.pool, held, size=len(BODY), sha256=sha256(BODY), etag="another"
        )
        is None
    )


async def check_proved(resources: Resources, file: File) -> None:
    """Check that the file is ready, its object is in the vault, and nothing else is left."""
    proved = await find(resources, file)
    assert (proved.state, proved.hash) == (State.READY, sha256(BODY))
    assert read_all(resources.vault, str(proved.minio_object_name), etag=proved.vault_etag) == BODY
    await let_settle(resources)
    await check_nothing_left(resources)


# A connection that a proxy cuts


@pytest.fixture
def way(settings: Settings) -> Iterator[tuple[FaultyProxy, Settings]]:
    """Yield a proxy for the database, and settings that use it."""
    with faulty_way(settings.database_url) as (proxy, url):
        yield (
            proxy,
            msgspec.structs.replace(
                settings, database_url=Secret(url), database_listen_url=settings.database_url
            ),
        )


async def test_a_connection_cut_after_the_commit_was_sent_keeps_the_object(
    resources: Resources, method: Method, way: tuple[FaultyProxy, Settings]
) -> None:
    proxy, settings = way
    declared = await send(resources)
    async with open_resources(settings) as cut_off:
        # Only the commit sends this digest to the database.
        proxy.silence_after(sha256(BODY).digest)
        verifying = asyncio.create_task(run(cut_off, await claim(cut_off, declared.file)))
        await until(lambda: is_ready(resources, declared.file))
        assert not verifying.done()
        proxy.cut()
        proxy.restore()
        await verifying
    await check_proved(resources, declared.file)


async def is_ready(resources: Resources, file: File) -> bool:
    return (await find(resources, file)).state == State.READY


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "rolled back"])
async def test_a_commit_that_outlives_its_connection_decides_the_object(
    resources: Resources, method: Method, way: tuple[FaultyProxy, Settings], committed: bool
) -> None:
    """Cut the connection while the database still executes the commit.

    The worker's attempt to doom the reservation waits until the commit has ended.
    """
    proxy, settings = way
    declared = await send(resources)
    async with open_resources(settings) as cut_off, held_open(resources.pool) as holder:
        held = await claim(cut_off, declared.file)
        await holder.execute("SELECT FROM files WHERE id = $1 FOR UPDATE", declared.file.id)
        proxy.silence_after(sha256(BODY).digest)
        verifying = asyncio.create_task(run(cut_off, held))
        [commit] = await until_waiting(resources.pool, 1)
        proxy.cut()
        proxy.restore()
        # The second statement dooms the reservation, which the commit has locked.
        await until_waiting(resources.pool, 2)
        if not committed:
            await resources.pool.execute("SELECT pg_terminate_backend($1)", commit)
        await holder.execute("COMMIT")
        await verifying
    if not committed:
        assert await list_bucket(resources.vault) == set()
        assert (await prove(resources, declared.file)).state == State.READY
    await check_proved(resources, declared.file)
