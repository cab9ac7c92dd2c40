"""The proof of a small file by a worker: one GET, one PUT, and each branch of the protocol."""

import asyncio
from typing import Any

import msgspec
import pytest

from service.model import RejectionReason, Sha256, State
from service.object_store import Bucket, ObjectUnreadable, RequestRefused, StoreUnavailable
from service.queries import reservations, verdicts
from service.resources import Resources
from service.uploads.arrivals import record_arrival, record_event
from service.uploads.declaring import Declared
from service.worker.small_files import SMALL_BYTES
from tests.integration.steps import (
    BODY,
    OTHER,
    claim,
    claim_due,
    declare,
    find,
    let_settle,
    prove,
    put,
    read_row,
    run,
    send,
    sha256,
    watch,
    working,
)
from tests.support.faults import FaultyPool, lose_answer
from tests.support.invariants import check_nothing_left, list_bucket
from tests.support.objects import key_of, put_as_root, read_all
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


async def send_other(resources: Resources, root_incoming: Bucket, digest: Sha256) -> Declared:
    """Declare a file with this digest, and put BODY under its key, which no URL would allow."""
    declared = await declare(resources, digest=digest)
    put_as_root(root_incoming, key_of(declared.file), BODY, content_type="text/plain")
    return declared


async def check_nothing_written(resources: Resources) -> None:
    assert await list_bucket(resources.vault) == set()
    assert await resources.pool.fetchval("SELECT count(*) FROM reservations") == 0


async def test_one_read_and_one_write_prove_a_small_file(resources: Resources) -> None:
    declared = await send(resources)
    watched, incoming, vault = watch(resources)
    assert await run(watched, await claim(resources, declared.file))
    file = await find(resources, declared.file)
    assert (file.state, file.hash, file.size) == (State.READY, sha256(BODY), len(BODY))
    assert read_all(resources.vault, str(file.minio_object_name), etag=file.vault_etag) == BODY
    assert (dict(incoming.calls), dict(vault.calls)) == ({"get": 1}, {"put": 1})
    assert await resources.pool.fetchval("SELECT count(*) FROM reservations") == 0
    await let_settle(resources)
    await check_nothing_left(resources)


@pytest.mark.parametrize("size", [0, 1, SMALL_BYTES, SMALL_BYTES + 1])
async def test_the_size_decides_how_a_file_is_proved(resources: Resources, size: int) -> None:
    body = b"x" * size
    declared = await declare(resources, size=size)
    assert (await put(declared, body)).status == 200
    await record_event(resources, key_of(declared.file))
    watched, _, vault = watch(resources)
    assert await run(watched, await claim_due(resources))
    file = await find(resources, declared.file)
    assert (file.state, file.hash) == (State.READY, sha256(body))
    write = "put" if size <= SMALL_BYTES else "copy_from"
    assert (vault.calls["put"], vault.calls["copy_from"]) == (write == "put", write != "put")


@pytest.mark.parametrize("body", [BODY[:-1], BODY + b"!", b"", b"y" * (SMALL_BYTES + 1)])
async def test_an_object_of_another_size_is_rejected_without_a_write(
    resources: Resources, root_incoming: Bucket, body: bytes
) -> None:
    declared = await declare(resources)
    put_as_root(root_incoming, key_of(declared.file), body)
    await record_event(resources, key_of(declared.file))
    watched, _, vault = watch(resources)
    await run(watched, await claim_due(resources))
    file = await find(resources, declared.file)
    assert (file.state, file.rejection_reason) == (State.REJECTED, RejectionReason.SIZE_MISMATCH)
    assert not vault.calls["put"]
    await check_nothing_written(resources)


async def test_a_digest_that_differs_twice_is_rejected_without_a_write(
    resources: Resources, root_incoming: Bucket
) -> None:
    declared = await send_other(resources, root_incoming, sha256(OTHER))
    watched, incoming, vault = watch(resources)
    await run(watched, await claim(resources, declared.file))
    file = await find(resources, declared.file)
    assert (file.state, file.rejection_reason, file.rejection_detail) == (
        State.REJECTED,
        RejectionReason.DIGEST_MISMATCH,
        f"declared {sha256(OTHER)}, received {sha256(BODY)}",
    )
    assert (incoming.calls["get"], vault.calls["put"]) == (2, 0)
    await check_nothing_written(resources)


async def test_one_wrong_read_blames_no_client(resources: Resources, root_incoming: Bucket) -> None:
    declared = await send_other(resources, root_incoming, sha256(BODY))
    watched, incoming, vault = watch(resources)
    incoming.wrong_reads = 1
    assert not await run(watched, await claim(resources, declared.file))
    row = await read_row(resources, declared.file)
    assert (row["state"], row["lease"]) == ("verifying", None)
    assert "different bytes" in row["last_error"]
    assert not vault.calls["put"]
    await check_nothing_written(resources)
    assert (await prove(resources, declared.file)).state == State.READY


async def test_a_failed_second_read_is_no_verdict(
    resources: Resources, root_incoming: Bucket
) -> None:
    declared = await send_other(resources, root_incoming, sha256(OTHER))
    watched, incoming, _ = watch(resources)
    incoming.after["get"] = lambda: incoming.before.update(get=lose_answer)
    assert not await run(watched, await claim(resources, declared.file))
    assert (await find(resources, declared.file)).state == State.VERIFYING
    await check_nothing_written(resources)


def refuse_to_write() -> None:
    raise RequestRefused("the store refuses the request", status=400, code="InvalidRequest")


async def test_a_refused_write_leaves_no_reservation(resources: Resources) -> None:
    declared = await send(resources)
    watched, _, vault = watch(resources)
    vault.before["put"] = refuse_to_write
    await run(watched, await claim(resources, declared.file))
    await check_nothing_written(resources)
    assert (await prove(resources, declared.file)).state == State.READY


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
async def test_a_write_without_a_response_dooms_its_reservation(
    resources: Resources, stored: bool
) -> None:
    declared = await send(resources)
    watched, _, vault = watch(resources)
    (vault.after if stored else vault.before)["put"] = lose_answer
    assert not await run(watched, await claim(resources, declared.file))
    [left] = await reservations.list_reservations(resources.pool, declared.file.id)
    assert left.doomed_at is not None
    assert await list_bucket(resources.vault) == set()
    assert (await prove(resources, declared.file)).state == State.READY
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_an_object_that_is_gone_returns_the_file_to_pending(resources: Resources) -> None:
    declared = await declare(resources)
    await record_event(resources, key_of(declared.file))
    watched, incoming, _ = watch(resources)
    await run(watched, await claim_due(resources))
    assert (await find(resources, declared.file)).state == State.PENDING
    assert dict(incoming.calls) == {"get": 1}
    await check_nothing_written(resources)


def refuse_for_good() -> None:
    raise ObjectUnreadable("the key of the client is needed", status=400, code="InvalidRequest")


async def test_a_permanently_unreadable_small_object_is_rejected(resources: Resources) -> None:
    declared = await send(resources)
    watched, incoming, _ = watch(resources)
    incoming.before["get"] = refuse_for_good
    await run(watched, await claim(resources, declared.file))
    file = await find(resources, declared.file)
    assert (file.state, file.rejection_reason) == (State.REJECTED, RejectionReason.UNVERIFIABLE)
    await check_nothing_written(resources)


async def test_a_truncated_read_is_an_error_of_the_store(
    resources: Resources, root_incoming: Bucket
) -> None:
    def truncate() -> None:
        raise StoreUnavailable("the body was truncated and 700 bytes are missing")

    declared = await send_other(resources, root_incoming, sha256(OTHER))
    watched, incoming, _ = watch(resources)
    incoming.after["get"] = truncate
    assert not await run(watched, await claim(resources, declared.file))
    assert (await find(resources, declared.file)).state == State.VERIFYING
    await check_nothing_written(resources)


async def test_a_digest_that_comes_after_the_claim_is_compared_by_the_commit(
    resources: Resources,
) -> None:
    declared = await send(resources)
    held = await claim(resources, declared.file)

    async def complete() -> None:
        assert await record_arrival(resources, declared.file, sha256(OTHER), why="complete")

    pool = FaultyPool(resources.pool, verdicts.COMMIT, before=complete)
    await run(msgspec.structs.replace(resources, pool=pool), held)
    assert (await find(resources, declared.file)).state == State.VERIFYING
    watched, incoming, vault = watch(resources)
    await run(watched, await claim_due(resources))
    file = await find(resources, declared.file)
    assert (file.state, file.rejection_reason) == (State.REJECTED, RejectionReason.DIGEST_MISMATCH)
    assert (incoming.calls["get"], vault.calls["put"]) == (2, 0)
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_an_object_that_changes_after_the_read_has_no_effect(
    resources: Resources, root_incoming: Bucket
) -> None:
    declared = await declare(resources)
    put_as_root(root_incoming, key_of(declared.file), BODY)
    watched, incoming, _ = watch(resources)
    incoming.after["get"] = lambda: put_as_root(root_incoming, key_of(declared.file), OTHER)
    await record_event(resources, key_of(declared.file))
    assert await run(watched, await claim_due(resources))
    file = await find(resources, declared.file)
    assert (file.state, file.hash) == (State.READY, sha256(BODY))
    assert read_all(resources.vault, str(file.minio_object_name), etag=file.vault_etag) == BODY
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_small_files_need_no_slots_and_are_bounded(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.worker.loop.SMALL_AT_ONCE", 6)
    monkeypatch.setattr("service.worker.loop.SMALL_A_CLAIM", 3)
    one_slot = msgspec.structs.replace(resources.settings, worker_slots=1)
    watched, incoming, _ = watch(resources)
    opened = asyncio.Event()

    async def wait_until_opened() -> None:
        await opened.wait()

    incoming.before["get"] = wait_until_opened
    for _ in range(12):
        declared = await send(resources)
        await record_event(resources, key_of(declared.file))
    async with working(msgspec.structs.replace(watched, settings=one_slot)) as worker:
        await until(lambda: len(worker.running) == 6)
        assert worker.free_slots(worker_kind(worker)) == 0
        opened.set()
        await until(lambda: is_everything_ready(resources))
    assert await resources.pool.fetchval("SELECT max(attempts) FROM files") == 1


def worker_kind(worker: Any) -> Any:
    return next(iter(worker.running.values())).work


async def is_everything_ready(resources: Resources) -> bool:
    unready = await resources.pool.fetchval("SELECT count(*) FROM files WHERE state <> 'ready'")
    return bool(unready == 0)
