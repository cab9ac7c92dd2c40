"""Objects that their client has made unreadable or misleading.

Each such file backs off or becomes final by itself, and does not delay other files.
"""

import asyncio
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from service.model import File, RejectionReason, State, Work
from service.object_store import Bucket
from service.object_store.presign import Signer
from service.queries import reservations
from service.resources import Resources
from service.uploads.arrivals import record_event
from service.worker.store_health import StoreHealth
from tests.integration.steps import (
    BODY,
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
    working,
)
from tests.support.clock import pass_time
from tests.support.damage import damage_on_disk
from tests.support.faults import FaultyBucket, lose_answer, refuse_to_read
from tests.support.invariants import check_nothing_left, list_bucket
from tests.support.methods import ONLY_COPIED, Method
from tests.support.objects import key_of, put_as_root
from tests.support.stores import StoreUnderTest, now
from tests.support.stores import send as send_request
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.own_deployment]

DAY = timedelta(days=1)
ETAGS = ("a\tb", "a\u00e9b", 'a"b', "a b", "a,b", "*", "W/x", "x" * 200)
"""ETags that a client can give to its own object on an old MinIO."""


async def send_with_many_fields(resources: Resources) -> File:
    """Send an object that HEAD describes with more fields than `http.client` accepts."""
    declared = await declare(resources)
    assert (
        await put(declared, BODY, {f"x-amz-meta-a{number}": "" for number in range(130)})
    ).status == 200
    return declared.file


async def put_unbound(
    resources: Resources, signer: Signer, file: File, headers: dict[str, str]
) -> None:
    """Send BODY by a URL that binds nothing, as an old deployment may have signed it."""
    url = signer.presign(
        "PUT",
        resources.incoming.name,
        key=key_of(file),
        issued_at=now(),
        expires_in_seconds=60,
    )
    assert (
        await asyncio.to_thread(send_request, "PUT", url, body=BODY, headers=headers)
    ).status == 200


def forge_etag(etag: str) -> dict[str, str]:
    return {
        "x-minio-source-replication-request": "true",
        "x-minio-source-mtime": f"{datetime.now(UTC):%FT%TZ}",
        "x-minio-source-etag": etag,
    }


async def send_damaged(resources: Resources, folder: Path) -> File:
    """Send an object, and damage its bytes on the disk of a genuine MinIO."""
    body = secrets.token_bytes(len(BODY))
    declared = await declare(resources, size=len(body))
    assert (await put(declared, body)).status == 200
    assert await asyncio.to_thread(damage_on_disk, folder, key_of(declared.file), body)
    return declared.file


async def test_an_object_with_more_fields_than_http_client_accepts_is_proved(
    resources: Resources,
) -> None:
    file = await send_with_many_fields(resources)
    proved = await prove(resources, file)
    assert (proved.state, proved.hash) == (State.READY, sha256(BODY))
    assert await resources.pool.fetchval("SELECT attempts FROM files") == 1
    await let_settle(resources)
    await check_nothing_left(resources)


@pytest.mark.parametrize("etag", ETAGS, ids=ascii)
async def test_an_object_whose_etag_the_client_chose_is_proved(
    resources: Resources, signer: Signer, etag: str
) -> None:
    declared = await declare(resources)
    await put_unbound(
        resources, signer, declared.file, forge_etag(etag) | {"Content-Type": "text/plain"}
    )
    proved = await prove(resources, declared.file)
    assert (proved.state, proved.hash) == (State.READY, sha256(BODY))
    assert await resources.pool.fetchval("SELECT attempts FROM files") == 1
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_an_object_whose_date_cannot_be_read_is_proved(
    resources: Resources, root_incoming: Bucket
) -> None:
    declared = await declare(resources)
    put_as_root(
        root_incoming,
        key_of(declared.file),
        BODY,
        **forge_etag("a" * 32) | {"x-minio-source-mtime": "0001-01-01T00:00:00Z"},
    )
    assert (await prove(resources, declared.file)).state == State.READY


async def test_a_damaged_object_is_rejected_after_failed_reads_over_a_day(
    resources: Resources, store: StoreUnderTest, folder: Path
) -> None:
    if store.kind != "minio":
        pytest.skip("only MinIO keeps a checksum of the bytes on its disk")
    short = with_settings(resources, unverifiable_reads=3)
    file = await send_damaged(resources, folder)
    health = StoreHealth(resources)
    assert not await run(short, await claim(resources, file), health=health)
    for reads in range(1, 5):
        assert await read_failed_reads(resources) == reads - 1
        await pass_time(resources.pool, timedelta(minutes=20))
        await run(short, await claim_due(resources), health=health)
        assert not health.is_away
    # The reads have failed often enough, but not yet for long enough.
    assert (await find(resources, file)).state == State.VERIFYING
    await pass_time(resources.pool, DAY)
    await run(short, await claim_due(resources), health=health)
    await check_unverifiable(resources, file)


@pytest.mark.parametrize("name", ["sealed-key", "seal-algorithm", "iv"])
async def test_a_file_whose_client_made_its_object_unreadable_becomes_final(
    resources: Resources, store: StoreUnderTest, name: str
) -> None:
    """Send headers that an archived MinIO accepts from any client and that no URL can forbid.

    See docs/store-facts.md.
    """
    declared = await declare(resources)
    assert (
        await put(declared, BODY, {f"x-minio-replication-server-side-encryption-{name}": "QUFB"})
    ).status == 200
    patient = with_settings(resources, unverifiable_reads=1, unverifiable_after=DAY)
    health = StoreHealth(patient)
    await run(patient, await claim(resources, declared.file), health=health)
    for _ in range(3):
        if (await find(resources, declared.file)).state == State.VERIFYING:
            await pass_time(resources.pool, DAY)
            await run(patient, await claim_due(resources), health=health)
        assert not health.is_away
    if store.kind == "minio":
        await check_unverifiable(resources, declared.file)
    else:
        assert (await find(resources, declared.file)).state == State.READY


@pytest.mark.parametrize("call", ["look", "write"])
async def test_an_object_that_the_store_cannot_read_is_rejected(
    resources: Resources, method: Method, call: str
) -> None:
    """Simulate a damaged object with every store, by failing the requests for its key."""
    declared = await send(resources)
    faulty = with_settings(
        spoil(
            resources, declared.file, method.look if call == "look" else "", method.write, "open"
        ),
        unverifiable_reads=2,
    )
    health = StoreHealth(faulty)
    assert not await run(faulty, await claim(resources, declared.file), health=health)
    for _ in range(2):
        assert (await find(resources, declared.file)).state == State.VERIFYING
        await pass_time(resources.pool, DAY)
        await run(faulty, await claim_due(resources), health=health)
    assert not health.is_away
    await check_unverifiable(resources, declared.file)


async def check_unverifiable(resources: Resources, file: File) -> None:
    rejected = await find(resources, file)
    assert (rejected.state, rejected.rejection_reason, rejected.hash) == (
        State.REJECTED,
        RejectionReason.UNVERIFIABLE,
        None,
    )
    await let_settle(resources)
    assert await list_bucket(resources.incoming) | await list_bucket(resources.vault) == set()
    await check_nothing_left(resources)


async def test_a_failed_copy_of_a_readable_object_is_not_counted(
    resources: Resources, method: Method
) -> None:
    """Fail the copy for another reason, such as a full vault or a withdrawn right."""
    declared = await send(resources)
    faulty = with_settings(
        spoil(resources, declared.file, method.write),
        unverifiable_reads=1,
        unverifiable_after=timedelta(0),
    )
    await run(faulty, await claim(resources, declared.file))
    for _ in range(3):
        await pass_time(resources.pool, DAY)
        await run(faulty, await claim_due(resources))
        assert await read_failed_reads(resources) == 0
    assert (await prove(resources, declared.file)).state == State.READY


async def test_a_failed_read_is_not_counted_if_the_probe_after_it_fails(
    resources: Resources, method: Method
) -> None:
    declared = await send(resources)
    faulty = with_settings(
        spoil(resources, declared.file, method.look, "open"),
        unverifiable_reads=1,
        unverifiable_after=timedelta(0),
    )
    vault = FaultyBucket(faulty.vault)
    vault.before["copy_from"] = lose_answer
    faulty = msgspec.structs.replace(faulty, vault=vault)
    health = StoreHealth(faulty)
    await run(faulty, await claim(resources, declared.file), health=health)
    for _ in range(3):
        await pass_time(resources.pool, DAY)
        await run(faulty, await claim_due(resources), health=health)
        assert health.is_away
        assert await read_failed_reads(resources) == 0
    assert (await prove(resources, declared.file)).state == State.READY
    # This also removes the objects that the probes left behind.
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_the_objects_of_a_failed_probe_are_swept_from_both_buckets(
    resources: Resources,
) -> None:
    vault = FaultyBucket(resources.vault)
    vault.after["copy_from"] = lose_answer
    faulty = msgspec.structs.replace(resources, vault=vault)
    assert not await StoreHealth(faulty).probe()
    assert (
        len(await list_bucket(resources.incoming)) == len(await list_bucket(resources.vault)) == 1
    )
    await let_settle(resources)
    await check_nothing_left(resources)
    assert await resources.pool.fetchval("SELECT count(*) FROM reservations") == 0


async def test_callers_share_a_probe_that_began_after_they_asked(resources: Resources) -> None:
    incoming = FaultyBucket(resources.incoming)
    health = StoreHealth(msgspec.structs.replace(resources, incoming=incoming))
    assert await asyncio.gather(*(health.probe() for _ in range(5))) == [True] * 5
    # The first caller got its own probe. The others asked while it ran and shared the second.
    assert incoming.calls["put"] == 2
    assert await list_bucket(resources.incoming) | await list_bucket(resources.vault) == set()
    assert await resources.pool.fetchval("SELECT count(*) FROM reservations") == 0


# Reads that are short or wrong


@ONLY_COPIED
@pytest.mark.usefixtures("method")
@pytest.mark.parametrize("digest", [True, False], ids=["declared digest", "no digest"])
async def test_a_short_read_of_the_vault_rejects_no_file(
    resources: Resources, digest: bool
) -> None:
    declared = await declare(resources, digest=sha256(BODY) if digest else None)
    put_as_root(resources.incoming, key_of(declared.file), BODY)
    vault = FaultyBucket(resources.vault)
    vault.cut_reads_after = 700
    await run(
        msgspec.structs.replace(resources, vault=vault), await claim(resources, declared.file)
    )
    assert (await find(resources, declared.file)).state == State.VERIFYING
    assert (await prove(resources, declared.file)).state == State.READY


@ONLY_COPIED
@pytest.mark.usefixtures("method")
async def test_a_wrong_read_of_the_vault_is_followed_by_a_copy_under_a_new_key(
    resources: Resources,
) -> None:
    declared = await declare(resources, digest=sha256(BODY))
    put_as_root(resources.incoming, key_of(declared.file), BODY)
    vault = FaultyBucket(resources.vault)
    vault.wrong_reads = 1
    faulty = msgspec.structs.replace(resources, vault=vault)
    held = await claim(resources, declared.file)
    await run(faulty, held)
    assert (await find(resources, declared.file)).state == State.VERIFYING
    again = await claim_due(resources)  # The file is due at once.
    assert again.vault_key != held.vault_key
    await run(faulty, again)
    proved = await find(resources, declared.file)
    assert (proved.state, proved.hash, proved.minio_object_name) == (
        State.READY,
        sha256(BODY),
        again.vault_key,
    )
    assert [
        copy.vault_key for copy in await reservations.list_reservations(resources.pool, held.id)
    ] == [held.vault_key]
    await let_settle(resources)
    await check_nothing_left(resources)


@ONLY_COPIED
@pytest.mark.usefixtures("method")
async def test_a_copy_of_another_length_than_its_source_gives_no_verdict(
    resources: Resources,
) -> None:
    declared = await send(resources)

    class ShorterCopy(FaultyBucket):
        def open(self, key: str, **options: object) -> object:
            return self.bucket.open(key, offset=1, **options)

    await run(
        msgspec.structs.replace(resources, vault=ShorterCopy(resources.vault)),
        await claim(resources, declared.file),
    )
    assert (await find(resources, declared.file)).state == State.VERIFYING
    assert (await prove(resources, declared.file)).state == State.READY


# Healthy files beside poisoned ones


async def test_healthy_files_are_verified_beside_poisoned_ones(
    resources: Resources, method: Method
) -> None:
    """Prove every healthy file at its first attempt, while no probe stops the worker."""
    poisoned = [(await send(resources)).file for _ in range(12)]
    faulty = spoil_all(resources, poisoned, method.look, "copy_from", "open")
    healthy = [(await send(resources)).file for _ in range(5)]
    for file in [*poisoned, *healthy]:
        await record_event(resources, key_of(file))
    async with working(faulty) as worker:
        await until_ready(resources, healthy)
        await until_failed(resources, len(poisoned))
        late = (await send(resources)).file
        await record_event(resources, key_of(late))
        await until_ready(resources, [late])
        assert not worker.health.is_away
    assert (
        await resources.pool.fetchval("SELECT max(attempts) FROM files WHERE state = 'ready'") == 1
    )
    assert {(await find(resources, file)).state for file in poisoned} == {State.VERIFYING}


async def test_unreadable_objects_use_one_slot_in_addition_to_the_others(
    resources: Resources,
) -> None:
    unreadable = [(await send(resources)).file for _ in range(5)]
    await resources.pool.execute(
        """
        UPDATE files
        SET failed_reads = 1, failed_reads_since = now(), due_at = now() - interval '1 hour'
        """
    )
    incoming, answered = FaultyBucket(resources.incoming), asyncio.Event()
    incoming.only = {key_of(file) for file in unreadable}

    async def wait_for_answer() -> None:
        await answered.wait()

    async def only_one_runs() -> bool:
        return len(worker.running) == 1

    incoming.before["head"] = wait_for_answer
    healthy = [(await send(resources)).file for _ in range(2 * resources.settings.worker_slots)]
    for file in healthy:
        await record_event(resources, key_of(file))
    async with working(msgspec.structs.replace(resources, incoming=incoming)) as worker:
        await until_ready(resources, healthy)
        await until(only_one_runs)
        assert [claim.failed_reads for claim in worker.running.values()] == [1]
        assert worker.free_slots(Work.MEDIUM) == worker.slots
        assert worker.free_slots(Work.UNREADABLE) == 0
        answered.set()
        await until_ready(resources, unreadable)


def spoil(resources: Resources, file: File, *calls: str) -> Resources:
    return spoil_all(resources, [file], *calls)


def spoil_all(resources: Resources, files: list[File], *calls: str) -> Resources:
    """Return resources whose buckets fail these calls for the incoming objects of the files."""
    incoming, vault = FaultyBucket(resources.incoming), FaultyBucket(resources.vault)
    incoming.only = vault.only = {key_of(file) for file in files}
    for bucket, known in ((incoming, {"head", "get", "open"}), (vault, {"copy_from"})):
        for call in known.intersection(calls):
            bucket.before[call] = refuse_to_read
    if "put" in calls:  # a write names no incoming object
        vault.only, vault.before["put"] = None, refuse_to_read
    return msgspec.structs.replace(resources, incoming=incoming, vault=vault)


def with_settings(resources: Resources, **changes: object) -> Resources:
    return msgspec.structs.replace(
        resources, settings=msgspec.structs.replace(resources.settings, **changes)
    )


async def read_failed_reads(resources: Resources) -> int:
    count: int = await resources.pool.fetchval("SELECT sum(failed_reads) FROM files")
    return count


async def until_ready(resources: Resources, files: list[File]) -> None:
    async def are_ready() -> bool:
        return {(await find(resources, file)).state for file in files} == {State.READY}

    await until(are_ready)


async def until_failed(resources: Resources, count: int) -> None:
    failed = "SELECT count(*) >= $1 FROM files WHERE last_error IS NOT NULL"

    async def have_failed() -> bool:
        return bool(await resources.pool.fetchval(failed, count))

    await until(have_failed)
