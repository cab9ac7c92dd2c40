"""Races and faults of multipart uploads.

The tests create an upload twice, assemble it twice, delete or expire its file during the assembly,
and lose responses.
"""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from service import problems
from service.files.lookup import delete_file
from service.model import File, State
from service.object_store import Bucket, RequestRefused, StoreUnavailable
from service.queries import assemblies
from service.resources import Resources
from service.uploads import completion
from service.uploads.arrivals import record_event
from service.uploads.multipart import PartRequest, list_parts, sign_parts
from service.worker.sweeper import sweep
from tests.integration.steps import (
    TWO_PARTS,
    claim_due,
    declare_parts,
    find,
    let_settle,
    prove,
    put_parts,
    run,
    send_parts,
    sha256,
    take_due,
)
from tests.support.claims import claim_files
from tests.support.clock import DAY, pass_time
from tests.support.faults import FaultyBucket, FaultyPool, Gate, lose_answer, lose_connection
from tests.support.invariants import (
    check_invariants,
    check_nothing_left,
    check_upload_aborted,
    list_bucket,
)
from tests.support.objects import key_of, multipart_upload_of, put_as_root
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


async def complete(resources: Resources, file: File) -> File:
    return await completion.complete_upload(resources, file.id, owner="ann", sha256=None)


async def read_lease(resources: Resources, file: File) -> UUID | None:
    lease: UUID | None = await resources.pool.fetchval(
        "SELECT lease FROM files WHERE id = $1", file.id
    )
    return lease


async def end_lease(resources: Resources) -> None:
    await resources.pool.execute(
        "UPDATE files SET lease_until = now() - interval '1 s' WHERE lease IS NOT NULL"
    )


async def check_ready_and_clean(resources: Resources, file: File) -> None:
    """Check that the file is proved and that nothing else is left.

    A file that is not yet ready is claimed and verified first.
    """
    await check_invariants(resources)
    found = await find(resources, file)
    if found.state != State.READY:
        await take_due(resources)
    found = await find(resources, file)
    assert (found.state, found.hash) == (State.READY, sha256(TWO_PARTS))
    await let_settle(resources)
    await check_nothing_left(resources)


class NotingBucket(FaultyBucket):
    """A bucket that records the ids of all multipart uploads that it creates.

    This includes uploads that are discarded.
    """

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(bucket)
        self.created: list[str] = []

    async def create_upload(self, *arguments: Any, **options: Any) -> str:
        self.created.append(await self.bucket.create_upload(*arguments, **options))
        return self.created[-1]


# Creating the multipart upload


async def test_of_two_multipart_uploads_created_at_once_one_is_aborted(
    resources: Resources,
) -> None:
    file = await declare_parts(resources)

    async def begin_another() -> None:
        await sign_parts(resources, file.id, [PartRequest(1, None)], owner="ann")

    late = FaultyPool(resources.pool, assemblies.NAME_UPLOAD, before=begin_another)
    noting = NotingBucket(resources.incoming)
    [part] = await sign_parts(
        msgspec.structs.replace(resources, pool=late, incoming=noting),
        file.id,
        [PartRequest(2, None)],
        owner="ann",
    )
    named = (await find(resources, file)).upload_id
    assert named is not None
    assert named in part.url
    [created] = noting.created
    assert created != named
    await check_upload_aborted(resources.incoming, key_of(file), created)


async def test_an_upload_whose_id_may_be_recorded_is_not_aborted(resources: Resources) -> None:
    file = await declare_parts(resources)
    broken = FaultyPool(resources.pool, assemblies.NAME_UPLOAD, after=lose_connection)
    with pytest.raises(ConnectionResetError):
        await sign_parts(
            msgspec.structs.replace(resources, pool=broken),
            file.id,
            [PartRequest(1, None)],
            owner="ann",
        )
    await put_parts(resources, file, TWO_PARTS)
    await complete(resources, file)
    await check_ready_and_clean(resources, file)


async def test_an_upload_created_while_its_file_is_deleted_is_aborted(
    resources: Resources,
) -> None:
    file = await declare_parts(resources)

    async def delete() -> None:
        await delete_file(resources, file.id, owner="ann")

    late = FaultyPool(resources.pool, assemblies.NAME_UPLOAD, before=delete)
    with pytest.raises(problems.FileGone):
        await sign_parts(
            msgspec.structs.replace(resources, pool=late),
            file.id,
            [PartRequest(1, None)],
            owner="ann",
        )
    assert (await find(resources, file)).upload_id is None
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_no_part_is_signed_after_the_file_expires(resources: Resources) -> None:
    file = await declare_parts(resources)
    await resources.pool.execute("UPDATE files SET expires_at = now() - interval '1 s'")
    with pytest.raises(problems.FileGone):
        await sign_parts(resources, file.id, [PartRequest(1, None)], owner="ann")
    assert (await find(resources, file)).upload_id is None


# Assembling the parts


async def test_a_second_complete_waits_for_the_assembly_in_progress(
    resources: Resources,
) -> None:
    file = await send_parts(resources)
    gate, incoming = Gate(), FaultyBucket(resources.incoming)
    incoming.before["complete_upload"] = gate
    first = asyncio.create_task(
        complete(msgspec.structs.replace(resources, incoming=incoming), file)
    )
    await gate.reached.wait()
    watched = FaultyBucket(resources.incoming)
    second = asyncio.create_task(
        complete(msgspec.structs.replace(resources, incoming=watched), file)
    )

    async def has_looked_twice() -> bool:
        return watched.calls["head"] >= 2

    await until(has_looked_twice)
    assert not second.done()
    gate.opened.set()
    assert (await first).state == (await second).state == State.VERIFYING
    assert (incoming.calls["complete_upload"], watched.calls["complete_upload"]) == (1, 0)
    await check_ready_and_clean(resources, file)


async def test_a_lost_response_leaves_the_lease_until_the_object_is_found(
    resources: Resources,
) -> None:
    file = await send_parts(resources)
    incoming = FaultyBucket(resources.incoming)
    incoming.after["complete_upload"] = lose_answer
    with pytest.raises(StoreUnavailable):
        await complete(msgspec.structs.replace(resources, incoming=incoming), file)
    assert await read_lease(resources, file) is not None
    # The object exists, although the lease of the first request is still live.
    assert (await complete(resources, file)).state == State.VERIFYING
    await end_lease(resources)
    await check_ready_and_clean(resources, file)


async def test_an_assembly_that_takes_effect_late_is_found_without_its_client(
    resources: Resources,
) -> None:
    file = await send_parts(resources)
    incoming = FaultyBucket(resources.incoming)
    incoming.late.add("complete_upload")
    with pytest.raises(StoreUnavailable):
        await complete(msgspec.structs.replace(resources, incoming=incoming), file)
    lease = await read_lease(resources, file)
    assert lease is not None
    # A file with a live lease is not claimed.
    assert await claim_files(resources.pool, 1, lease=timedelta(minutes=1)) == []
    await incoming.land()
    await end_lease(resources)
    await pass_time(resources.pool, timedelta(minutes=2))
    await check_ready_and_clean(resources, file)


async def test_an_error_from_the_store_gives_the_lease_back_at_once(resources: Resources) -> None:
    file = await send_parts(resources)
    incoming = FaultyBucket(resources.incoming)

    def slow_down() -> None:
        raise StoreUnavailable("503 SlowDown", status=503, code="SlowDown")

    incoming.before["complete_upload"] = slow_down
    with pytest.raises(StoreUnavailable):
        await complete(msgspec.structs.replace(resources, incoming=incoming), file)
    assert await read_lease(resources, file) is None
    await complete(resources, file)
    await check_ready_and_clean(resources, file)


@pytest.mark.parametrize("status", [502, 504])
async def test_a_gateway_error_is_not_a_response_of_the_store(
    resources: Resources, status: int
) -> None:
    """Keep the lease after a gateway error, because the store may still be assembling.

    No second request is sent and nothing is aborted before the lease has expired.
    """
    file = await send_parts(resources)
    incoming = FaultyBucket(resources.incoming)

    def run_out_of_time() -> None:
        raise StoreUnavailable(f"{status} without a code", status=status)

    incoming.before["complete_upload"] = run_out_of_time
    with pytest.raises(StoreUnavailable):
        await complete(msgspec.structs.replace(resources, incoming=incoming), file)
    assert await read_lease(resources, file) is not None


async def test_a_failed_list_of_parts_gives_the_lease_back(resources: Resources) -> None:
    file = await send_parts(resources)
    incoming = FaultyBucket(resources.incoming)
    incoming.before["list_parts"] = lose_answer
    with pytest.raises(StoreUnavailable):
        await complete(msgspec.structs.replace(resources, incoming=incoming), file)
    assert await read_lease(resources, file) is None


async def test_a_second_assembly_finds_the_object_of_the_first(resources: Resources) -> None:
    """Interrupt the first request between the store's response and the recording of the arrival."""
    file = await send_parts(resources)
    broken = FaultyPool(resources.pool, assemblies.RECORD_ASSEMBLED, before=lose_connection)
    with pytest.raises(ConnectionResetError):
        await complete(msgspec.structs.replace(resources, pool=broken), file)
    assert (await find(resources, file)).state == State.PENDING
    assert (await complete(resources, file)).state == State.VERIFYING
    await end_lease(resources)
    await check_ready_and_clean(resources, file)


async def test_a_missing_upload_whose_object_exists_is_not_lost(
    resources: Resources,
) -> None:
    """Assemble the object between the check of its key and the listing of the parts."""
    file = await send_parts(resources)
    incoming = FaultyBucket(resources.incoming)

    async def assemble_at_the_store() -> None:
        key, upload_id = multipart_upload_of(file)
        parts = await resources.incoming.list_parts(key, upload_id)
        await resources.incoming.complete_upload(
            key, upload_id, [(part.number, part.etag) for part in parts]
        )

    incoming.before["list_parts"] = assemble_at_the_store
    assert (
        await complete(msgspec.structs.replace(resources, incoming=incoming), file)
    ).state == State.VERIFYING
    assert await read_lease(resources, file) is None
    await check_ready_and_clean(resources, file)


async def test_the_lease_is_released_if_the_store_cannot_check_the_object(
    resources: Resources,
) -> None:
    file = await send_parts(resources)
    await resources.incoming.abort_upload(*multipart_upload_of(file))
    incoming = FaultyBucket(resources.incoming)

    def fall_silent() -> None:
        incoming.before["head"] = lose_answer

    incoming.before["list_parts"] = fall_silent
    with pytest.raises(StoreUnavailable):
        await complete(msgspec.structs.replace(resources, incoming=incoming), file)
    assert await read_lease(resources, file) is None


async def test_a_digest_declared_during_an_assembly_takes_precedence(
    resources: Resources,
) -> None:
    """Declare another digest after the assembly and before its arrival is recorded.

    The second `complete` finds the object, so it need not assemble the parts.
    """
    file = await send_parts(resources)
    incoming = FaultyBucket(resources.incoming)

    async def be_overtaken() -> None:
        await completion.complete_upload(resources, file.id, owner="ann", sha256=sha256(TWO_PARTS))

    incoming.after["complete_upload"] = be_overtaken
    with pytest.raises(problems.DigestConflict):
        await completion.complete_upload(
            msgspec.structs.replace(resources, incoming=incoming),
            file.id,
            owner="ann",
            sha256=sha256(b"another"),
        )
    assert await read_lease(resources, file) is None
    await check_ready_and_clean(resources, file)


async def test_a_stalled_complete_reports_the_proof_of_another_request(
    resources: Resources,
) -> None:
    """Stall the first request until its lease has expired and a second request has succeeded.

    By then, a worker has proved the file and the sweeper has removed the incoming object.
    """
    file = await send_parts(resources)
    incoming = FaultyBucket(resources.incoming)

    async def be_overtaken() -> None:
        await end_lease(resources)
        await complete(resources, file)
        await run(resources, await claim_due(resources))
        await sweep(resources)
        assert await list_bucket(resources.incoming) == set()

    incoming.before["list_parts"] = be_overtaken
    assert (
        await complete(msgspec.structs.replace(resources, incoming=incoming), file)
    ).state == State.READY
    await check_ready_and_clean(resources, file)


async def test_an_assembly_is_refused_if_a_part_is_replaced_meanwhile(
    resources: Resources,
) -> None:
    file = await send_parts(resources)
    incoming = FaultyBucket(resources.incoming)

    async def send_another() -> None:
        await put_parts(resources, file, TWO_PARTS[:-1] + b"!", 2)

    incoming.before["complete_upload"] = send_another
    with pytest.raises(problems.IncompleteParts) as refused:
        await complete(msgspec.structs.replace(resources, incoming=incoming), file)
    assert refused.value.extension == {
        "missing": [],
        "missing_count": 0,
        "wrong_size": [],
        "wrong_size_count": 0,
    }
    assert await read_lease(resources, file) is None
    await put_parts(resources, file, TWO_PARTS, 2)
    await complete(resources, file)
    await check_ready_and_clean(resources, file)


async def test_a_refusal_for_another_reason_names_no_parts(
    resources: Resources,
) -> None:
    file = await send_parts(resources)
    incoming = FaultyBucket(resources.incoming)

    def be_full() -> None:
        raise RequestRefused(
            "400 XMinioAdminBucketQuotaExceeded", status=400, code="XMinioAdminBucketQuotaExceeded"
        )

    incoming.before["complete_upload"] = be_full
    with pytest.raises(RequestRefused):
        await complete(msgspec.structs.replace(resources, incoming=incoming), file)
    assert await read_lease(resources, file) is None


async def test_no_assembly_is_requested_after_the_first_lease_period(
    resources: Resources,
) -> None:
    file = await send_parts(resources)
    short = msgspec.structs.replace(resources.settings, lease=timedelta(milliseconds=1))
    with pytest.raises(Exception, match="time limit for sending"):
        await complete(msgspec.structs.replace(resources, settings=short), file)
    assert await list_bucket(resources.incoming) == set()


async def test_the_lease_of_a_long_assembly_is_extended(resources: Resources) -> None:
    file = await send_parts(resources)
    short = msgspec.structs.replace(resources.settings, lease=timedelta(seconds=2))
    gate, incoming = Gate(), FaultyBucket(resources.incoming)
    incoming.after["complete_upload"] = gate
    until_then = "SELECT lease_until FROM files WHERE id = $1"
    task = asyncio.create_task(
        complete(msgspec.structs.replace(resources, settings=short, incoming=incoming), file)
    )
    await gate.reached.wait()
    first = await resources.pool.fetchval(until_then, file.id)

    async def extended() -> bool:
        return bool(await resources.pool.fetchval(until_then, file.id) > first)

    await until(extended)
    gate.opened.set()
    assert (await task).state == State.VERIFYING


# Deletion and expiry


async def test_the_upload_of_a_deleted_file_is_aborted_after_the_lease_expires(
    resources: Resources,
) -> None:
    file = await send_parts(resources)
    gate, incoming = Gate(), FaultyBucket(resources.incoming)
    incoming.before["complete_upload"] = gate
    task = asyncio.create_task(
        complete(msgspec.structs.replace(resources, incoming=incoming), file)
    )
    await gate.reached.wait()
    await delete_file(resources, file.id, owner="ann")
    assert (await find(resources, file)).state == State.DELETED
    await sweep(resources)
    assert len(await resources.incoming.list_parts(*multipart_upload_of(file))) == 2
    gate.opened.set()
    with pytest.raises(problems.FileGone):
        await task
    assert await list_bucket(resources.incoming) == {file.incoming_key}
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_an_assembly_that_ends_after_the_sweep_is_swept_again(
    resources: Resources,
) -> None:
    file = await send_parts(resources)
    incoming = FaultyBucket(resources.incoming)
    incoming.late.add("complete_upload")
    with pytest.raises(StoreUnavailable):
        await complete(msgspec.structs.replace(resources, incoming=incoming), file)
    await delete_file(resources, file.id, owner="ann")
    await incoming.land()
    assert await list_bucket(resources.incoming) == {file.incoming_key}
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_unassembled_parts_are_removed_with_the_expired_file(
    resources: Resources,
) -> None:
    file = await send_parts(resources)
    await pass_time(resources.pool, 3 * DAY)
    await run(resources, await claim_due(resources))
    assert (await find(resources, file)).state == State.EXPIRED
    await let_settle(resources)
    await check_nothing_left(resources)
    with pytest.raises(problems.FileGone):
        await complete(resources, file)


async def test_a_file_does_not_expire_while_it_is_assembled(resources: Resources) -> None:
    file = await send_parts(resources)
    gate, incoming = Gate(), FaultyBucket(resources.incoming)
    incoming.before["complete_upload"] = gate
    task = asyncio.create_task(
        complete(msgspec.structs.replace(resources, incoming=incoming), file)
    )
    await gate.reached.wait()
    over = """
        UPDATE files
        SET expires_at = now() - interval '2 h', grace_until = now() - interval '1 h',
            due_at = now()
    """
    await resources.pool.execute(over)
    assert await claim_files(resources.pool, 1, lease=timedelta(minutes=1)) == []
    gate.opened.set()
    assert (await task).state == State.VERIFYING
    await check_ready_and_clean(resources, file)


async def test_a_rejected_file_leaves_no_parts(resources: Resources, root_incoming: Bucket) -> None:
    """Put an object of another size at the key, as an attacker can do on an old store."""
    file = await send_parts(resources)
    put_as_root(root_incoming, key_of(file), b"another")
    assert (await complete(resources, file)).state == State.VERIFYING
    rejected = await prove(resources, file)
    assert (rejected.state, str(rejected.rejection_reason)) == (State.REJECTED, "size-mismatch")
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_an_event_during_an_assembly_changes_nothing(resources: Resources) -> None:
    file = await send_parts(resources)
    incoming = FaultyBucket(resources.incoming)
    incoming.after["complete_upload"] = lambda: record_event(resources, key_of(file))
    assert (
        await complete(msgspec.structs.replace(resources, incoming=incoming), file)
    ).state == State.VERIFYING
    assert await read_lease(resources, file) is None
    await check_ready_and_clean(resources, file)


async def test_listing_parts_distinguishes_lost_from_assembled(resources: Resources) -> None:
    file = await send_parts(resources)
    assert [part.number for part in await list_parts(resources, file.id, owner="ann")] == [1, 2]
    incoming = FaultyBucket(resources.incoming)

    async def be_overtaken() -> None:
        await complete(resources, file)
        await run(resources, await claim_due(resources))
        await sweep(resources)

    incoming.before["list_parts"] = be_overtaken
    with pytest.raises(problems.AlreadyUploaded):
        await list_parts(
            msgspec.structs.replace(resources, incoming=incoming), file.id, owner="ann"
        )
    lost = await send_parts(resources)
    await resources.incoming.abort_upload(*multipart_upload_of(lost))
    with pytest.raises(problems.UploadLost):
        await list_parts(resources, lost.id, owner="ann")
