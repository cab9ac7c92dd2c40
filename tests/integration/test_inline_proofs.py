"""The proof of a small file by `complete`: no claim, and each branch of the protocol."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from service import problems
from service.database.reserved_keys import ReservedKey
from service.files.lookup import delete_file
from service.model import File, RejectionReason, Sha256, State
from service.object_store import Bucket, RequestRefused
from service.queries import completing, files, reservations
from service.resources import Resources
from service.uploads.arrivals import record_arrival, record_event
from service.uploads.completion import complete_upload
from service.uploads.declaring import Declared
from service.worker.small_files import SMALL_BYTES
from service.worker.sweeper import sweep
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
)
from tests.support.faults import (
    FaultyPool,
    Gate,
    Hook,
    lose_answer,
    lose_connection,
)
from tests.support.invariants import check_nothing_left, list_bucket
from tests.support.objects import key_of, put_as_root, read_all
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]


def watch_statement(
    resources: Resources, statement: str, *, before: Hook | None = None, after: Hook | None = None
) -> tuple[Resources, FaultyPool]:
    pool = FaultyPool(resources.pool, statement, before=before, after=after)
    return msgspec.structs.replace(resources, pool=pool), pool


async def complete(resources: Resources, file: File, digest: Sha256 | None = None) -> File:
    return await complete_upload(resources, file.id, owner="ann", sha256=digest)


async def send_other(
    resources: Resources, root_incoming: Bucket, *, content_type: str = "text/plain"
) -> Declared:
    """Declare a file with the digest of OTHER, and put BODY under its key."""
    declared = await declare(resources, digest=sha256(OTHER))
    put_as_root(root_incoming, key_of(declared.file), BODY, content_type=content_type)
    return declared


async def count_reservations(resources: Resources) -> tuple[int, int]:
    """Return the number of reservations that are not doomed and not in the stock, and of doomed
    ones.
    """
    stock = [key.held.vault_key for key in resources.reserved_keys.stock]
    row = await resources.pool.fetchrow(
        """
        SELECT count(*) FILTER (WHERE doomed_at IS NULL AND vault_key <> ALL ($1::uuid[])),
               count(*) FILTER (WHERE doomed_at IS NOT NULL) FROM reservations
        """,
        stock,
    )
    return row[0], row[1]


async def check_left_to_worker(resources: Resources, file: File, *, doomed: int = 0) -> None:
    """Check that the file has an arrival and the vault nothing, and that a worker proves it."""
    row = await read_row(resources, file)
    assert (row["state"], row["lease"], row["later"]) == ("verifying", None, False)
    assert await list_bucket(resources.vault) == set()
    assert await count_reservations(resources) == (0, doomed)
    assert (await prove(resources, file)).state == State.READY
    await forget_stock(resources)
    await let_settle(resources)
    await check_nothing_left(resources)


async def forget_stock(resources: Resources) -> None:
    """Delete the reservations of unused keys, as a process does that stops."""
    stock = resources.reserved_keys.stock
    await resources.reserved_keys.forget([*stock])
    stock.clear()


async def test_one_read_and_one_write_prove_a_file_without_a_claim(resources: Resources) -> None:
    declared = await send(resources)
    watched, incoming, vault = watch(resources)
    file = await complete(watched, declared.file)
    assert (file.state, file.hash, file.size) == (State.READY, sha256(BODY), len(BODY))
    assert file == await find(resources, declared.file)
    assert read_all(resources.vault, str(file.minio_object_name), etag=file.vault_etag) == BODY
    assert (dict(incoming.calls), dict(vault.calls)) == ({"get": 1}, {"put": 1})
    counts = await resources.pool.fetchrow("SELECT attempts, arrivals FROM files")
    assert tuple(counts) == (0, 1)
    assert await count_reservations(resources) == (0, 0)
    await forget_stock(resources)
    await let_settle(resources)
    await check_nothing_left(resources)


@pytest.mark.parametrize("size", [0, 1, SMALL_BYTES, SMALL_BYTES + 1])
async def test_only_a_small_file_is_proved_inline(resources: Resources, size: int) -> None:
    body = b"x" * size
    declared = await declare(resources, size=size)
    assert (await put(declared, body)).status == 200
    state = State.READY if size <= SMALL_BYTES else State.VERIFYING
    assert (await complete(resources, declared.file)).state == state
    assert len(await list_bucket(resources.vault)) == (state == State.READY)


RESEMBLING = [
    b"<Error><Code>NoSuchKey</Code></Error>",
    b"<?xml version='1.0'?> <Error><Code>InvalidObjectState</Code></Error>",
    b"<Errors/>",
]


@pytest.mark.parametrize("body", RESEMBLING)
@pytest.mark.parametrize("by", ["complete", "worker"])
async def test_bytes_that_resemble_an_error_of_the_store_are_proved(
    resources: Resources, body: bytes, by: str
) -> None:
    declared = await send(resources, body)
    file = (
        await complete(resources, declared.file)
        if by == "complete"
        else await prove(resources, declared.file)
    )
    assert (file.state, file.hash) == (State.READY, sha256(body))
    assert read_all(resources.vault, str(file.minio_object_name), etag=file.vault_etag) == body


async def test_the_stated_digest_becomes_the_declared_one(resources: Resources) -> None:
    declared = await send(resources)
    file = await complete(resources, declared.file, sha256(BODY))
    assert (file.state, file.declared_sha256) == (State.READY, sha256(BODY))
    assert (await complete(resources, declared.file, sha256(BODY))).state == State.READY
    with pytest.raises(problems.DigestConflict):
        await complete(resources, declared.file, sha256(OTHER))


async def test_a_stated_digest_that_differs_twice_rejects_the_file(resources: Resources) -> None:
    declared = await send(resources)
    watched, incoming, vault = watch(resources)
    file = await complete(watched, declared.file, sha256(OTHER))
    assert (file.state, file.rejection_reason, file.rejection_detail) == (
        State.REJECTED,
        RejectionReason.DIGEST_MISMATCH,
        f"declared {sha256(OTHER)}, received {sha256(BODY)}",
    )
    assert file.declared_sha256 == sha256(OTHER)
    assert await resources.pool.fetchval("SELECT arrivals FROM files") == 1
    assert (incoming.calls["get"], vault.calls["put"]) == (2, 0)
    assert await count_reservations(resources) == (0, 0)
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_another_content_type_rejects_the_file(
    resources: Resources, root_incoming: Bucket
) -> None:
    declared = await send_other(resources, root_incoming, content_type="text/html")
    file = await complete(resources, declared.file)
    assert (file.state, file.rejection_reason) == (
        State.REJECTED,
        RejectionReason.CONTENT_TYPE_MISMATCH,
    )
    assert await list_bucket(resources.vault) == set()


@pytest.mark.parametrize("body", [BODY[:-1], BODY + b"!", b"y" * (SMALL_BYTES + 1)])
async def test_an_object_of_another_size_is_left_to_a_worker(
    resources: Resources, root_incoming: Bucket, body: bytes
) -> None:
    declared = await declare(resources)
    put_as_root(root_incoming, key_of(declared.file), body)
    assert (await complete(resources, declared.file)).state == State.VERIFYING
    await run(resources, await claim_due(resources))
    file = await find(resources, declared.file)
    assert (file.state, file.rejection_reason) == (State.REJECTED, RejectionReason.SIZE_MISMATCH)
    assert await list_bucket(resources.vault) == set()


async def test_a_file_without_an_object_stays_pending(resources: Resources) -> None:
    declared = await declare(resources)
    with pytest.raises(problems.NotUploaded):
        await complete(resources, declared.file)
    assert (await find(resources, declared.file)).state == State.PENDING
    assert await count_reservations(resources) == (0, 0)


async def test_an_object_that_a_worker_has_proved_and_removed_is_no_error(
    resources: Resources,
) -> None:
    declared = await send(resources)

    async def overtake() -> None:
        await prove(resources, declared.file)
        await sweep(resources)
        assert await list_bucket(resources.incoming) == set()

    watched, incoming, vault = watch(resources)
    incoming.before["get"] = overtake
    assert (await complete(watched, declared.file)).state == State.READY
    assert not vault.calls["put"]


async def test_a_failed_read_is_left_to_a_worker(resources: Resources) -> None:
    declared = await send(resources)
    watched, incoming, _ = watch(resources)
    incoming.before["get"] = lose_answer
    assert (await complete(watched, declared.file)).state == State.VERIFYING
    await check_left_to_worker(resources, declared.file)


async def test_two_reads_that_differ_are_no_verdict(resources: Resources) -> None:
    declared = await send(resources)
    watched, incoming, _ = watch(resources)
    incoming.wrong_reads = 1
    assert (await complete(watched, declared.file, sha256(BODY))).state == State.VERIFYING
    assert incoming.calls["get"] == 2
    await check_left_to_worker(resources, declared.file)


async def test_without_a_reserved_key_the_file_is_left_to_a_worker(resources: Resources) -> None:
    declared = await send(resources)
    real = resources.reserved_keys.pool
    failing: Any = FaultyPool(real, reservations.RESERVE_KEYS, before=lose_connection)
    resources.reserved_keys.pool = failing
    assert (await complete(resources, declared.file)).state == State.VERIFYING
    assert failing.calls == 1
    await check_left_to_worker(resources, declared.file)


async def test_a_write_that_is_too_late_is_not_sent(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = await send(resources)
    taken = await resources.reserved_keys.take()

    async def take_old() -> ReservedKey:
        return taken._replace(end=0.0)

    monkeypatch.setattr(resources.reserved_keys, "take", take_old)
    assert (await complete(resources, declared.file)).state == State.VERIFYING
    await check_left_to_worker(resources, declared.file)


async def test_a_refused_write_leaves_no_reservation(resources: Resources) -> None:
    def refuse() -> None:
        raise RequestRefused("the store refuses the request", status=400, code="InvalidRequest")

    declared = await send(resources)
    watched, _, vault = watch(resources)
    vault.before["put"] = refuse
    assert (await complete(watched, declared.file)).state == State.VERIFYING
    await check_left_to_worker(resources, declared.file)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
async def test_a_write_without_a_response_dooms_its_reservation(
    resources: Resources, stored: bool
) -> None:
    declared = await send(resources)
    watched, _, vault = watch(resources)
    (vault.after if stored else vault.before)["put"] = lose_answer
    assert (await complete(watched, declared.file)).state == State.VERIFYING
    await check_left_to_worker(resources, declared.file, doomed=1)


async def test_a_late_write_is_removed_in_the_end(resources: Resources) -> None:
    declared = await send(resources)
    watched, _, vault = watch(resources)
    vault.late = {"put"}
    assert (await complete(watched, declared.file)).state == State.VERIFYING
    await vault.land()
    assert len(await list_bucket(resources.vault)) == 1
    assert (await prove(resources, declared.file)).state == State.READY
    await forget_stock(resources)
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_a_commit_that_was_not_sent_is_left_to_a_worker(resources: Resources) -> None:
    declared = await send(resources)
    broken, pool = watch_statement(resources, completing.COMMIT, before=lose_connection)
    assert (await complete(broken, declared.file)).state == State.VERIFYING
    assert pool.calls == 1
    await check_left_to_worker(resources, declared.file, doomed=1)


async def test_a_commit_without_a_response_may_have_succeeded(resources: Resources) -> None:
    declared = await send(resources)
    broken, pool = watch_statement(resources, completing.COMMIT, after=lose_connection)
    file = await complete(broken, declared.file)
    assert (file.state, pool.calls) == (State.READY, 1)
    assert read_all(resources.vault, str(file.minio_object_name), etag=file.vault_etag) == BODY
    assert await count_reservations(resources) == (0, 0)


async def test_a_commit_of_a_doomed_reservation_updates_nothing(resources: Resources) -> None:
    async def doom() -> None:
        stock = [key.held.vault_key for key in resources.reserved_keys.stock]
        await resources.pool.execute(
            """
            UPDATE reservations SET doomed_at = now(), sweep_at = now()
            WHERE vault_key <> ALL ($1::uuid[])
            """,
            stock,
        )
        await sweep(resources)

    declared = await send(resources)
    overtaken, _ = watch_statement(resources, completing.COMMIT, before=doom)
    assert (await complete(overtaken, declared.file)).state == State.VERIFYING
    await check_left_to_worker(resources, declared.file, doomed=1)


@pytest.mark.parametrize("statement", [completing.COMMIT, completing.REJECT])
async def test_a_file_that_is_deleted_meanwhile_stays_deleted(
    resources: Resources, statement: str
) -> None:
    declared = await send(resources)

    async def delete() -> None:
        await delete_file(resources, declared.file.id, owner="ann")

    overtaken, pool = watch_statement(resources, statement, before=delete)
    stated = sha256(BODY if statement == completing.COMMIT else OTHER)
    with pytest.raises(problems.FileGone):
        await complete(overtaken, declared.file, stated)
    assert pool.calls == 1
    assert (await find(resources, declared.file)).state == State.DELETED
    await forget_stock(resources)
    await let_settle(resources)
    await check_nothing_left(resources)


@pytest.mark.parametrize("stated", [None, sha256(BODY)], ids=["none stated", "stated"])
async def test_a_digest_that_becomes_known_meanwhile_is_compared(
    resources: Resources, stated: Sha256 | None
) -> None:
    declared = await send(resources)

    async def state_other() -> None:
        assert await record_arrival(resources, declared.file, sha256(OTHER), why="complete")

    overtaken, _ = watch_statement(resources, completing.COMMIT, before=state_other)
    if stated is None:
        assert (await complete(overtaken, declared.file)).state == State.VERIFYING
    else:
        with pytest.raises(problems.DigestConflict):
            await complete(overtaken, declared.file, stated)
    assert await list_bucket(resources.vault) == set()
    assert (await prove(resources, declared.file)).state == State.REJECTED


async def test_a_rejection_needs_the_digest_that_was_compared(resources: Resources) -> None:
    declared = await send(resources)

    async def state_right() -> None:
        assert await record_arrival(resources, declared.file, sha256(BODY), why="complete")

    overtaken, pool = watch_statement(resources, completing.REJECT, before=state_right)
    with pytest.raises(problems.DigestConflict):
        await complete(overtaken, declared.file, sha256(OTHER))
    assert pool.calls == 1
    await check_left_to_worker(resources, declared.file)


@pytest.mark.parametrize("took_effect", [True, False], ids=["took effect", "not sent"])
async def test_a_rejection_without_a_response_is_no_error(
    resources: Resources, took_effect: bool
) -> None:
    declared = await send(resources)
    hook: dict[str, Hook] = {"after" if took_effect else "before": lose_connection}
    broken, _ = watch_statement(resources, completing.REJECT, **hook)
    state = State.REJECTED if took_effect else State.VERIFYING
    assert (await complete(broken, declared.file, sha256(OTHER))).state == state
    assert (await prove_if_due(resources, declared.file)).state == State.REJECTED


async def prove_if_due(resources: Resources, file: File) -> File:
    found = await find(resources, file)
    return await prove(resources, file) if found.state == State.VERIFYING else found


async def test_a_worker_that_has_claimed_the_file_meanwhile_loses_it(resources: Resources) -> None:
    declared = await send(resources)
    held = []

    async def claim_meanwhile() -> None:
        held.append(await claim(resources, declared.file))

    # The event is recorded, although the file is being proved: the wait for the proof ends first.
    overtaken, _ = watch_statement(resources, completing.COMMIT, before=claim_meanwhile)
    file = await complete(overtaken, declared.file)
    assert file.state == State.READY
    assert await run(resources, held[0])
    assert await find(resources, declared.file) == file
    assert await list_bucket(resources.vault) == {str(file.minio_object_name)}
    await forget_stock(resources)
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_a_file_that_a_worker_holds_is_left_to_it(resources: Resources) -> None:
    declared = await send(resources)
    held = await claim(resources, declared.file)
    watched, incoming, _ = watch(resources)
    assert (await complete(watched, declared.file)).state == State.VERIFYING
    assert not incoming.calls["get"]
    await run(resources, held)
    assert (await find(resources, declared.file)).state == State.READY


async def test_a_file_with_a_failed_attempt_is_left_to_a_worker(resources: Resources) -> None:
    declared = await send(resources)
    watched, incoming, _ = watch(resources)
    incoming.before["get"] = lose_answer
    await run(watched, await claim(resources, declared.file))
    incoming.before.clear()
    incoming.calls.clear()
    assert (await complete(watched, declared.file)).state == State.VERIFYING
    assert not incoming.calls["get"]


async def test_proofs_are_bounded_and_one_per_file(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.uploads.inline.MOST_AT_ONCE", 2)
    gate = Gate()
    watched, incoming, _ = watch(resources)
    incoming.before["get"] = gate
    sent = [(await send(resources)).file for _ in range(3)]
    first = asyncio.create_task(complete(watched, sent[0]))
    await gate.reached.wait()
    assert (await complete(watched, sent[0])).state == State.VERIFYING
    second = asyncio.create_task(complete(watched, sent[1]))
    await until(lambda: len(resources.settled_uploads.settling) == 2)
    assert (await complete(watched, sent[2])).state == State.VERIFYING
    gate.opened.set()
    assert [(await task).state for task in (first, second)] == [State.READY] * 2
    assert not resources.settled_uploads.settling


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
async def test_a_cancelled_request_dooms_its_reservation(
    resources: Resources, stored: bool
) -> None:
    declared = await send(resources)
    gate = Gate()
    watched, _, vault = watch(resources)
    (vault.after if stored else vault.before)["put"] = gate
    task = asyncio.create_task(complete(watched, declared.file))
    await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await count_reservations(resources) == (0, 1)
    assert (await find(resources, declared.file)).state == State.PENDING
    assert (await prove(resources, declared.file)).state == State.READY
    await forget_stock(resources)
    await let_settle(resources)
    await check_nothing_left(resources)


def count_events(resources: Resources) -> tuple[Resources, FaultyPool]:
    return watch_statement(resources, files.RECORD_EVENT)


async def test_the_event_of_a_settled_file_needs_no_statement(resources: Resources) -> None:
    await until(lambda: resources.notifications.connected)
    file = (await send(resources)).file
    await complete(resources, file)
    counting, pool = count_events(resources)
    await record_event(counting, key_of(file))
    assert pool.calls == 0
    await record_event(counting, key_of(file))
    assert pool.calls == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda resources: setattr(resources.notifications, "connected", False),
        lambda resources: setattr(resources.notifications, "connections", 99),
    ],
    ids=["while no listener is connected", "after a reconnection"],
)
async def test_the_event_of_a_settled_file_is_recorded(
    resources: Resources, change: Callable[[Resources], None]
) -> None:
    await until(lambda: resources.notifications.connected)
    file = (await send(resources)).file
    await complete(resources, file)
    change(resources)
    counting, pool = count_events(resources)
    await record_event(counting, key_of(file))
    assert pool.calls == 1
    assert (await find(resources, file)).state == State.READY


async def test_an_event_waits_for_the_end_of_the_proof(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.database.settled_uploads.SETTLING_SECONDS", 60)
    await until(lambda: resources.notifications.connected)
    file = (await send(resources)).file
    gate = Gate()
    watched, incoming, _ = watch(resources)
    incoming.before["get"] = gate
    proving = asyncio.create_task(complete(watched, file))
    await gate.reached.wait()
    counting, pool = count_events(resources)
    recording = asyncio.create_task(record_event(counting, key_of(file)))
    gate.opened.set()
    assert (await proving).state == State.READY
    await recording
    assert pool.calls == 0


async def test_an_event_does_not_wait_long_for_a_slow_proof(resources: Resources) -> None:
    file = (await send(resources)).file
    gate = Gate()
    watched, incoming, _ = watch(resources)
    incoming.before["get"] = gate
    proving = asyncio.create_task(complete(watched, file))
    await gate.reached.wait()
    await record_event(resources, key_of(file))
    assert (await find(resources, file)).state == State.VERIFYING
    gate.opened.set()
    assert (await proving).state == State.READY
