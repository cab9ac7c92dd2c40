"""The way of a file over a real database and a real store, with each race that the blueprint names made to happen."""

import asyncio
import gzip
import hashlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from service import problems
from service.model import Claim, Declaration, File, RejectionReason, Sha256, State
from service.object_store import StoreError, StoreUnavailable
from service.object_store.connection import calling
from service.queries import claims, copies, files
from service.resources import Resources
from service.sweeper import sweep
from service.uploads import complete_upload, declare_file, delete_file, find_file, notice_event
from service.verification import verify
from tests.faults import FaultyBucket, FaultyPool, Gate, LateCopies
from tests.invariants import check_invariants, check_nothing_left, list_bucket, read_object

pytestmark = pytest.mark.anyio

BODY = b"what was sent" * 100
OTHER = b"WHAT WAS SENT" * 100
RETRY = timedelta(seconds=1)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as client:
        yield client


def sha256(body: bytes) -> Sha256:
    return Sha256(hashlib.sha256(body).digest())


async def declare(
    resources: Resources, *, size: int = len(BODY), digest: Sha256 | None = None, content_type: str | None = "text/plain"
) -> Any:
    return await declare_file(
        resources, Declaration(owner="ann", filename="ä b.txt", size=size, content_type=content_type, sha256=digest, metadata={})
    )


async def put(client: httpx.AsyncClient, declared: Any, body: bytes = BODY, **headers: str) -> httpx.Response:
    return await client.put(declared.upload.url, content=body, headers={**declared.upload.headers, **headers})


async def send(resources: Resources, client: httpx.AsyncClient, body: bytes = BODY, **options: Any) -> Any:
    declared = await declare(resources, size=len(body), **options)
    assert (await put(client, declared, body)).status_code == 200
    return declared


def put_as_root(incoming: Any, file: File, body: bytes, *, content_type: str = "text/plain", **headers: str) -> None:
    """What no URL of ours allows."""
    with calling(timeout_seconds=10):
        incoming._client._execute("PUT", incoming.name, file.incoming_key, body=body, headers={"Content-Type": content_type, **headers})


async def claim(resources: Resources, file: File) -> Claim:
    await notice_event(resources, file.incoming_key or "")
    return await claim_due(resources)


async def claim_due(resources: Resources) -> Claim:
    [claimed] = await claims.claim_small(resources.pool, 1, resources.settings.lease)
    return claimed


async def run(resources: Resources, held: Claim, *, claimed_at: float | None = None) -> bool:
    with ThreadPoolExecutor(1) as hashing:
        return await verify(resources, held, claimed_at=claimed_at or time.monotonic(), hashing=hashing, retry_in=RETRY)


async def prove(resources: Resources, file: File) -> File:
    await run(resources, await claim(resources, file))
    return await find(resources, file)


async def find(resources: Resources, file: File) -> File:
    return await find_file(resources, file.id, owner=None)


async def pass_days(resources: Resources, days: int) -> None:
    """Move time by shifting the rows' timestamps back."""
    for table, columns in {
        "files": ("created_at", "expires_at", "grace_until", "final_at", "lease_until", "due_at", "sweep_at", "purge_at"),
        "copies": ("created_at", "lease_until", "doomed_at", "sweep_at", "swept_at"),
    }.items():
        shifts = ", ".join(f"{column} = {column} - make_interval(days => $1)" for column in columns)
        await resources.pool.execute(f"UPDATE {table} SET {shifts}", days)  # noqa: S608  # names of our own


async def let_settle(resources: Resources) -> None:
    for _ in range(12):
        await sweep(resources)
        await pass_days(resources, 1)
    await sweep(resources)


async def test_an_upload_is_copied_hashed_and_ready(resources: Resources, client: httpx.AsyncClient) -> None:
    declared = await send(resources, client)
    file = await prove(resources, declared.file)
    assert (file.state, file.hash) == (State.READY, sha256(BODY))
    assert read_object(resources.vault, str(file.minio_object_name)) == BODY
    stored = await resources.vault.head(str(file.minio_object_name))
    assert stored.metadata["assay-file-id"] == str(file.id)
    assert stored.metadata["assay-filename"] == "%C3%A4%20b.txt"
    await sweep(resources)
    assert await list_bucket(resources.incoming) == set()
    await check_nothing_left(resources)


async def test_an_empty_file_is_ready(resources: Resources, client: httpx.AsyncClient) -> None:
    declared = await send(resources, client, b"")
    assert (await prove(resources, declared.file)).hash == sha256(b"")


@pytest.mark.parametrize(
    ("sent", "declared_digest", "sent_type", "reason"),
    [
        (BODY + b"!", None, "text/plain", RejectionReason.SIZE_MISMATCH),
        (BODY, None, "text/html", RejectionReason.CONTENT_TYPE_MISMATCH),
        (OTHER, sha256(BODY), "text/plain", RejectionReason.DIGEST_MISMATCH),
    ],
)
async def test_what_differs_from_the_declaration_is_rejected_whatever_the_store_let_through(
    resources: Resources, root_incoming: Any, sent: bytes, declared_digest: Sha256 | None, sent_type: str, reason: RejectionReason
) -> None:
    declared = await declare(resources, digest=declared_digest)
    put_as_root(root_incoming, declared.file, sent, content_type=sent_type)
    file = await prove(resources, declared.file)
    assert (file.state, file.rejection_reason, file.hash) == (State.REJECTED, reason, None)
    assert file.rejection_detail
    await let_settle(resources)
    assert await list_bucket(resources.incoming) | await list_bucket(resources.vault) == set()


async def test_an_undeclared_type_is_not_compared(resources: Resources, root_incoming: Any) -> None:
    declared = await declare(resources, content_type=None)
    put_as_root(root_incoming, declared.file, BODY, content_type="text/whatever")
    assert (await prove(resources, declared.file)).state == State.READY


async def test_a_look_at_nothing_leads_back_to_pending(resources: Resources) -> None:
    declared = await declare(resources)
    file = await prove(resources, declared.file)
    assert file.state == State.PENDING
    assert await copies.list_copies(resources.pool, file.id) == []
    assert await claims.claim_small(resources.pool, 1, RETRY) == []


async def test_an_event_between_the_look_and_the_way_back_is_not_lost(resources: Resources, client: httpx.AsyncClient) -> None:
    declared = await declare(resources)
    held = await claim(resources, declared.file)
    incoming = FaultyBucket(resources.incoming)

    async def upload_and_announce() -> None:
        await put(client, declared)
        await notice_event(resources, declared.file.incoming_key)

    with pytest.raises(StoreError):
        await resources.incoming.head(declared.file.incoming_key)
    statement = InterposedPool(resources.pool, "CASE WHEN notices = $4", upload_and_announce)
    await run(msgspec.structs.replace(resources, incoming=incoming, pool=statement), held)
    await run(resources, await claim_due(resources))
    assert (await find(resources, declared.file)).state == State.READY


class InterposedPool:
    """Does something just before the first statement that contains the marker."""

    def __init__(self, pool: Any, marker: str, action: Any) -> None:
        self.pool, self.marker, self.action = pool, marker, action

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.pool, name)
        if name not in ("fetchrow", "fetchval"):
            return real

        async def call(statement: str, *args: Any) -> Any:
            if self.marker in statement and self.action:
                action, self.action = self.action, None
                await action()
            return await real(statement, *args)

        return call


async def test_an_upload_that_never_came_expires_after_its_grace(resources: Resources) -> None:
    declared = await declare(resources)
    await pass_days(resources, 3)
    await run(resources, await claim_due(resources))
    assert (await find(resources, declared.file)).state == State.EXPIRED


async def test_an_upload_that_no_event_announced_is_found_at_its_end(resources: Resources, client: httpx.AsyncClient) -> None:
    declared = await send(resources, client)
    await pass_days(resources, 3)
    await run(resources, await claim_due(resources))
    assert (await find(resources, declared.file)).state == State.READY


async def test_a_commit_whose_answer_is_lost_keeps_the_object(resources: Resources, client: httpx.AsyncClient) -> None:
    declared = await send(resources, client)
    lossy = FaultyPool(resources.pool, "verdict AS", runs=True)
    await run(msgspec.structs.replace(resources, pool=lossy), await claim(resources, declared.file))
    assert lossy.lost == 1
    file = await find(resources, declared.file)
    assert file.state == State.READY
    assert read_object(resources.vault, str(file.minio_object_name)) == BODY
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_a_commit_that_never_ran_leaves_no_orphan_and_the_next_claim_proves(resources: Resources, client: httpx.AsyncClient) -> None:
    declared = await send(resources, client)
    lossy = FaultyPool(resources.pool, "verdict AS", runs=False)
    await run(msgspec.structs.replace(resources, pool=lossy), await claim(resources, declared.file))
    assert lossy.lost == 1
    assert await list_bucket(resources.vault) == set()
    file = await prove(resources, declared.file)
    assert file.state == State.READY
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_a_copy_that_lands_late_is_never_served_and_goes_with_its_row(resources: Resources, client: httpx.AsyncClient) -> None:
    declared = await send(resources, client)
    vault = LateCopies(resources.vault)
    assert not await run(msgspec.structs.replace(resources, vault=vault), await claim(resources, declared.file))
    await sweep(resources)
    file = await prove(resources, declared.file)  # from the same incoming object, under another key
    await vault.land()
    assert len(await list_bucket(resources.vault)) == 2
    await check_invariants(resources)
    await let_settle(resources)
    await check_nothing_left(resources)
    assert read_object(resources.vault, str(file.minio_object_name)) == BODY


async def test_a_copy_is_not_sent_after_the_first_lease_period(resources: Resources, client: httpx.AsyncClient) -> None:
    declared = await send(resources, client)
    held = await claim(resources, declared.file)
    await run(resources, held, claimed_at=time.monotonic() - resources.settings.lease.total_seconds())
    assert await list_bucket(resources.vault) == set()
    assert await copies.list_copies(resources.pool, held.id) == []
    assert (await prove(resources, declared.file)).state == State.READY


async def test_an_object_that_changes_between_look_and_copy_is_looked_at_again(resources: Resources, root_incoming: Any) -> None:
    declared = await declare(resources)
    put_as_root(root_incoming, declared.file, BODY, content_type="text/plain")
    incoming = FaultyBucket(resources.incoming)

    async def overwrite() -> None:
        put_as_root(root_incoming, declared.file, OTHER, content_type="text/plain")

    incoming.after["head"] = overwrite
    await run(msgspec.structs.replace(resources, incoming=incoming), await claim(resources, declared.file))
    assert await list_bucket(resources.vault) == set()
    await run(resources, await claim_due(resources))
    assert (await find(resources, declared.file)).hash == sha256(OTHER)
    await check_invariants(resources)


async def test_an_object_that_is_overwritten_while_its_copy_is_hashed_changes_nothing(resources: Resources, root_incoming: Any) -> None:
    declared = await declare(resources)
    put_as_root(root_incoming, declared.file, BODY, content_type="text/plain")
    vault = FaultyBucket(resources.vault)

    async def overwrite() -> None:
        put_as_root(root_incoming, declared.file, OTHER, content_type="text/plain")

    vault.after["copy_from"] = overwrite
    await run(msgspec.structs.replace(resources, vault=vault), await claim(resources, declared.file))
    assert (await find(resources, declared.file)).hash == sha256(BODY)
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_a_sweeper_that_meets_a_worker_about_to_commit_wins_or_loses_whole(resources: Resources, client: httpx.AsyncClient) -> None:
    declared = await send(resources, client)
    held = await claim(resources, declared.file)

    async def end_lease_and_sweep() -> None:
        await resources.pool.execute("UPDATE copies SET lease_until = now() - interval '1 s'")
        await sweep(resources)

    statement = InterposedPool(resources.pool, "verdict AS", end_lease_and_sweep)
    await run(msgspec.structs.replace(resources, pool=statement), held)
    assert (await find(resources, declared.file)).state == State.VERIFYING
    assert await list_bucket(resources.vault) == set()
    assert (await prove(resources, declared.file)).state == State.READY
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_a_file_that_is_deleted_while_it_is_verified_leaves_nothing(resources: Resources, client: httpx.AsyncClient) -> None:
    declared = await send(resources, client)
    vault, gate = FaultyBucket(resources.vault), Gate()
    vault.after["copy_from"] = gate
    verifying = asyncio.create_task(run(msgspec.structs.replace(resources, vault=vault), await claim(resources, declared.file)))
    await gate.reached.wait()
    await delete_file(resources, declared.file.id, owner="ann")
    gate.opened.set()
    await verifying
    assert (await find(resources, declared.file)).state == State.DELETED
    await let_settle(resources)
    assert await list_bucket(resources.incoming) | await list_bucket(resources.vault) == set()


@pytest.mark.parametrize("state", [State.PENDING, State.VERIFYING, State.READY, State.REJECTED, State.EXPIRED])
async def test_a_file_is_deleted_in_every_state(resources: Resources, client: httpx.AsyncClient, state: State) -> None:
    declared = await declare(resources) if state in (State.PENDING, State.EXPIRED) else await send(resources, client)
    if state == State.VERIFYING:
        await notice_event(resources, declared.file.incoming_key)
    elif state == State.READY:
        await prove(resources, declared.file)
    elif state == State.REJECTED:
        await resources.pool.execute("UPDATE files SET declared_sha256 = sha256('x')")
        await prove(resources, declared.file)
    elif state == State.EXPIRED:
        await pass_days(resources, 3)
        await run(resources, await claim_due(resources))
    assert (await find(resources, declared.file)).state == state
    await delete_file(resources, declared.file.id, owner="ann")
    await delete_file(resources, declared.file.id, owner="ann")
    assert (await find(resources, declared.file)).state == State.DELETED
    await let_settle(resources)
    assert await list_bucket(resources.incoming) | await list_bucket(resources.vault) == set()


async def test_a_put_that_lands_after_the_file_was_deleted_is_swept_after_its_end(resources: Resources, client: httpx.AsyncClient) -> None:
    declared = await declare(resources)
    await delete_file(resources, declared.file.id, owner="ann")
    await sweep(resources)
    assert (await put(client, declared)).status_code == 200
    await let_settle(resources)
    assert await list_bucket(resources.incoming) == set()


async def test_a_long_verification_keeps_its_lease(resources: Resources, client: httpx.AsyncClient) -> None:
    short = msgspec.structs.replace(resources, settings=msgspec.structs.replace(resources.settings, lease=timedelta(seconds=1.5)))
    declared = await send(short, client)
    vault, gate = FaultyBucket(short.vault), Gate()
    vault.after["copy_from"] = gate
    held = await claim(short, declared.file)
    verifying = asyncio.create_task(run(msgspec.structs.replace(short, vault=vault), held))
    await gate.reached.wait()
    first = await lease_end(resources)
    while (await lease_end(resources)) < first + timedelta(seconds=1.5):
        assert await claims.claim_small(resources.pool, 1, RETRY) == []
    gate.opened.set()
    await verifying
    assert (await find(resources, declared.file)).state == State.READY


async def lease_end(resources: Resources) -> Any:
    return await resources.pool.fetchval("SELECT lease_until FROM files")


async def test_a_cancelled_verification_gives_its_lease_back(resources: Resources, client: httpx.AsyncClient) -> None:
    declared = await send(resources, client)
    vault, gate = FaultyBucket(resources.vault), Gate()
    vault.after["copy_from"] = gate
    verifying = asyncio.create_task(run(msgspec.structs.replace(resources, vault=vault), await claim(resources, declared.file)))
    await gate.reached.wait()
    verifying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await verifying
    assert await resources.pool.fetchval("SELECT lease FROM files") is None
    assert (await prove(resources, declared.file)).state == State.READY
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_an_error_of_the_store_gives_the_lease_back_for_later(resources: Resources, client: httpx.AsyncClient) -> None:
    declared = await send(resources, client)
    vault = FaultyBucket(resources.vault)
    vault.before["copy_from"] = fail
    held = await claim(resources, declared.file)
    assert not await run(msgspec.structs.replace(resources, vault=vault), held)
    row = await resources.pool.fetchrow("SELECT lease, state, last_error, due_at > now() AS later FROM files")
    assert (row["lease"], row["state"], row["later"]) == (None, "verifying", True)
    assert "away" in row["last_error"]
    assert (await prove(resources, declared.file)).state == State.READY


async def fail() -> None:
    raise StoreUnavailable("the store is away")


async def test_what_a_client_hid_in_headers_does_not_reach_the_vault(resources: Resources, root_incoming: Any) -> None:
    packed = gzip.compress(BODY)
    declared = await declare(resources, size=len(packed))
    put_as_root(root_incoming, declared.file, packed, **{"Content-Encoding": "gzip", "x-amz-tagging": "delete=soon"})
    file = await prove(resources, declared.file)
    assert (file.state, file.hash) == (State.READY, sha256(packed))
    with calling(timeout_seconds=10):
        tags = root_incoming._client.get_object_tags(resources.vault.name, str(file.minio_object_name))
        answer = root_incoming._client._execute("HEAD", resources.vault.name, str(file.minio_object_name))
    assert dict(tags or {}) == {"assay-file-id": str(file.id)}
    assert "content-encoding" not in answer.headers


async def test_complete_asks_the_store_and_sets_the_digest_once(resources: Resources, client: httpx.AsyncClient) -> None:
    declared = await declare(resources)
    with pytest.raises(problems.NotUploaded):
        await complete_upload(resources, declared.file.id, owner="ann", sha256=None)
    await put(client, declared)
    file = await complete_upload(resources, declared.file.id, owner="ann", sha256=sha256(BODY))
    assert (file.state, file.declared_sha256) == (State.VERIFYING, sha256(BODY))
    with pytest.raises(problems.DigestConflict):
        await complete_upload(resources, declared.file.id, owner="ann", sha256=sha256(OTHER))
    await run(resources, await claim_due(resources))
    assert (await complete_upload(resources, declared.file.id, owner="ann", sha256=None)).state == State.READY
    with pytest.raises(problems.DigestConflict):
        await complete_upload(resources, declared.file.id, owner="ann", sha256=sha256(OTHER))


async def test_one_row_that_cannot_be_swept_blocks_no_other(resources: Resources, client: httpx.AsyncClient) -> None:
    first, second = await send(resources, client), await send(resources, client)
    for declared in (first, second):
        await prove(resources, declared.file)
        await delete_file(resources, declared.file.id, owner="ann")
    stuck = str((await find(resources, first.file)).minio_object_name)

    class StuckBucket(FaultyBucket):
        async def delete(self, key: str, **options: Any) -> None:
            if key == stuck:
                raise StoreError("no")
            await self.bucket.delete(key, **options)

    await sweep(msgspec.structs.replace(resources, vault=StuckBucket(resources.vault)))
    assert await list_bucket(resources.vault) == {stuck}
    await let_settle(resources)
    assert await list_bucket(resources.vault) == set()


async def test_the_database_refuses_a_hash_without_a_proof(resources: Resources) -> None:
    await declare(resources)
    with pytest.raises(asyncpg.CheckViolationError):
        await resources.pool.execute("UPDATE files SET hash = sha256('x')")


async def test_a_file_found_twice_has_one_answer(resources: Resources, client: httpx.AsyncClient) -> None:
    """Two workers, one of them with an ended lease: one wins, nothing is left of the other."""
    declared = await send(resources, client)
    first = await claim(resources, declared.file)
    await resources.pool.execute("UPDATE files SET lease_until = now() - interval '1 s', due_at = now()")
    second = await claim_due(resources)
    await asyncio.gather(run(resources, first), run(resources, second))
    file = await find(resources, declared.file)
    assert (file.state, file.minio_object_name) == (State.READY, second.vault_key)
    await let_settle(resources)
    await check_nothing_left(resources)
    assert await files.find_file(resources.pool, file.id, owner="bob") is None
