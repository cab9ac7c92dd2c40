"""Copies of objects above 5 GiB, which no single request may copy.

The tests lower the limits and use real stores.
"""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from service.files.lookup import delete_file
from service.model import SMALLEST_PART_BYTES, File, State
from service.object_store import Bucket, ObjectMissing
from service.queries import claims, reservations
from service.resources import Resources
from service.worker import copying
from service.worker.sweeper import sweep
from tests.integration.steps import claim, claim_due, find, let_settle, read_row, run, send, sha256
from tests.support.faults import FaultyBucket, FaultyPool, Gate, lose_answer
from tests.support.invariants import (
    check_invariants,
    check_nothing_left,
    check_uploads_aborted,
    list_bucket,
)
from tests.support.objects import key_of, put_as_root

pytestmark = pytest.mark.anyio

BODY = b"a copy in parts " * (SMALLEST_PART_BYTES // 8) + b"the rest"
"""A body that is copied in three parts."""


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower both limits to 5 MiB, the smallest part that a store accepts."""
    monkeypatch.setattr(copying, "LARGEST_PUT_BYTES", SMALLEST_PART_BYTES)
    monkeypatch.setattr(copying, "PART_BYTES", SMALLEST_PART_BYTES)


async def send_large(resources: Resources) -> File:
    return (await send(resources, BODY)).file


async def check_proved_by_the_next_claim(resources: Resources, file: File) -> None:
    await check_invariants(resources)
    await resources.pool.execute("UPDATE files SET due_at = now()")
    await run(resources, await claim_due(resources))
    await check_proved(resources, file)


async def check_proved(resources: Resources, file: File) -> None:
    found = await find(resources, file)
    assert (found.state, found.hash) == (State.READY, sha256(BODY))
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_a_large_object_is_copied_in_parts_and_proved(resources: Resources) -> None:
    file = await send_large(resources)
    vault = FaultyBucket(resources.vault)
    await run(msgspec.structs.replace(resources, vault=vault), await claim(resources, file))
    assert (vault.calls["copy_part_from"], vault.calls["copy_from"]) == (3, 0)
    found = await find(resources, file)
    lies = await resources.vault.head(str(found.minio_object_name))
    assert (lies.etag, lies.size, lies.metadata["assay-file-id"]) == (
        found.vault_etag,
        len(BODY),
        str(file.id),
    )
    assert lies.content_type == "text/plain"
    await check_proved(resources, file)


async def test_the_upload_id_is_recorded_before_the_first_part(resources: Resources) -> None:
    file = await send_large(resources)
    vault = FaultyBucket(resources.vault)
    named: list[str | None] = []

    async def look() -> None:
        [copy] = await reservations.list_reservations(resources.pool, file.id)
        named.append(copy.upload_id)

    vault.before["copy_part_from"] = look
    await run(msgspec.structs.replace(resources, vault=vault), await claim(resources, file))
    assert len(named) == 3
    assert None not in named


@pytest.mark.parametrize("request_name", ["create_upload", "copy_part_from", "complete_upload"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_copy_is_abandoned_if_a_response_is_lost(
    resources: Resources, request_name: str, when: str
) -> None:
    file = await send_large(resources)
    vault = FaultyBucket(resources.vault)
    getattr(vault, when)[request_name] = lose_answer
    assert not await run(
        msgspec.structs.replace(resources, vault=vault), await claim(resources, file)
    )
    assert (await read_row(resources, file))["lease"] is None
    [copy] = await reservations.list_reservations(resources.pool, file.id)
    assert copy.doomed_at is not None
    await sweep(resources)
    assert await list_bucket(resources.vault) == set()
    await check_uploads_aborted(resources)
    await check_proved_by_the_next_claim(resources, file)


@pytest.mark.parametrize("request_name", ["copy_part_from", "complete_upload"])
async def test_a_request_that_arrives_after_the_abort_is_refused(
    resources: Resources, request_name: str
) -> None:
    file = await send_large(resources)
    vault = FaultyBucket(resources.vault)
    vault.late.add(request_name)
    assert not await run(
        msgspec.structs.replace(resources, vault=vault), await claim(resources, file)
    )
    await sweep(resources)
    [outcome] = await asyncio.gather(vault.land(), return_exceptions=True)
    assert "NoSuchUpload" in str(outcome)
    await check_proved_by_the_next_claim(resources, file)


async def test_an_object_that_changes_between_two_parts_is_checked_again(
    resources: Resources, root_incoming: Bucket
) -> None:
    file = await send_large(resources)
    vault = FaultyBucket(resources.vault)
    vault.before["copy_part_from"] = lambda: put_as_root(root_incoming, key_of(file), BODY[::-1])
    assert await run(msgspec.structs.replace(resources, vault=vault), await claim(resources, file))
    # The upload is known to be aborted, so its reservation is no longer needed.
    assert await reservations.list_reservations(resources.pool, file.id) == []
    await run(resources, await claim_due(resources))
    assert (await find(resources, file)).hash == sha256(BODY[::-1])
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_an_object_deleted_between_two_parts_leaves_nothing(resources: Resources) -> None:
    file = await send_large(resources)
    vault = FaultyBucket(resources.vault)

    async def take_away() -> None:
        await resources.incoming.delete(key_of(file))

    vault.before["copy_part_from"] = take_away
    assert await run(msgspec.structs.replace(resources, vault=vault), await claim(resources, file))
    assert await reservations.list_reservations(resources.pool, file.id) == []
    assert await list_bucket(resources.vault) == set()
    assert (await find(resources, file)).state == State.VERIFYING


async def test_a_failed_abort_leaves_the_reservation_to_the_sweeper(resources: Resources) -> None:
    file = await send_large(resources)
    vault = FaultyBucket(resources.vault)

    def gone() -> None:
        raise ObjectMissing("gone", status=404, code="NoSuchKey")

    vault.after["copy_part_from"] = gone
    vault.before["abort_upload"] = lose_answer
    await run(msgspec.structs.replace(resources, vault=vault), await claim(resources, file))
    [copy] = await reservations.list_reservations(resources.pool, file.id)
    assert copy.doomed_at is not None
    await sweep(resources)
    await check_uploads_aborted(resources)
    await check_proved_by_the_next_claim(resources, file)


async def test_a_copy_doomed_before_its_first_part_sends_no_part(resources: Resources) -> None:
    file = await send_large(resources)
    vault = FaultyBucket(resources.vault)

    async def end_lease_and_sweep() -> None:
        await resources.pool.execute("UPDATE reservations SET lease_until = now() - interval '1 s'")
        await sweep(resources)

    late = FaultyPool(resources.pool, reservations.NAME_UPLOAD, before=end_lease_and_sweep)
    await run(
        msgspec.structs.replace(resources, pool=late, vault=vault), await claim(resources, file)
    )
    assert (late.calls, vault.calls["copy_part_from"], vault.calls["abort_upload"]) == (1, 0, 1)
    await check_proved_by_the_next_claim(resources, file)


async def test_a_lost_lease_stops_the_remaining_parts(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PARTS_AT_ONCE", 1)
    file = await send_large(resources)
    deleted, told, vault = Gate(), Gate(), FaultyBucket(resources.vault)
    told.opened.set()
    pool = FaultyPool(resources.pool, claims.EXTEND, before=deleted, after=told)

    async def delete() -> None:
        await delete_file(resources, file.id, owner="ann")
        deleted.opened.set()
        await told.reached.wait()

    vault.after["copy_part_from"] = delete
    short = msgspec.structs.replace(resources.settings, lease=timedelta(milliseconds=300))
    await run(
        msgspec.structs.replace(resources, settings=short, pool=pool, vault=vault),
        await claim(resources, file),
    )
    assert (pool.calls, vault.calls["copy_part_from"]) == (1, 1)
    assert (await find(resources, file)).state == State.DELETED
    await let_settle(resources)
    await check_nothing_left(resources)
