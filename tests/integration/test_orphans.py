"""Tests of `assay scrub --orphans`: what no row names is found, and nothing else is deleted."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from service import database
from service.files.lookup import delete_file
from service.model import File, State
from service.object_store import Bucket, StoreError, StoreUnavailable
from service.object_store.objects import ListedObject
from service.operations import listing
from service.operations.orphans import CannotScrub, Found, find_grace, scrub_orphans
from service.operations.orphans import found as grace
from service.operations.reconciling import Adoption, Options, reconcile
from service.queries import orphans as queries
from service.queries import reservations
from service.queries.importing import ImportedFile, commit_imported_file
from service.queries.reconciling import reserve_found_key
from service.queries.reservations import HeldKey
from service.resources import Resources
from service.worker.copying import describe_object
from service.worker.sweeper import sweep
from tests.integration.locks import held_open, until_waiting
from tests.integration.steps import (
    BODY,
    claim,
    declare,
    find,
    let_settle,
    prove,
    send,
    sha256,
)
from tests.support.backups import back_up, restore
from tests.support.clock import DAY, pass_time
from tests.support.faults import FaultyBucket, FaultyPool, Gate
from tests.support.invariants import check_invariants, check_nothing_left, list_bucket
from tests.support.objects import key_of, put_object, read_all
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
RESERVATIONS = "SELECT count(*) FROM reservations"
SEEN = "SELECT key FROM incoming_orphans ORDER BY key"
ID = "0198f2a4-5b1c-7d3e-8f90-a1b2c3d4e5f6"

Listing = Callable[..., AsyncIterator[ListedObject]]


async def scrub(resources: Resources, *, delete: bool = False) -> list[Found]:
    return [found async for found in scrub_orphans(resources, delete=delete)]


async def collect(orphans: AsyncIterator[Found], founds: list[Found]) -> None:
    """Append what is found to `founds`, which keeps what was found before an error."""
    async for found in orphans:
        founds.append(found)


def summarize(founds: list[Found]) -> dict[str, str]:
    return {found.key: found.verdict for found in founds}


@pytest.fixture
def old(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> Resources:
    """Return resources for which every orphan in the vault is old enough.

    Nothing but the store can set the date of an object. The sweeper needs the other resources.
    """
    monkeypatch.setattr(grace, "LEAST_GRACE", timedelta(0))
    settings = msgspec.structs.replace(resources.settings, copy_grace=timedelta(0))
    return msgspec.structs.replace(resources, settings=settings)


async def put_orphan(resources: Resources, *, file_id: UUID | None = None) -> str:
    """Put an object of Assay into the vault that no row names, and return its key."""
    key = str(uuid4())
    described = describe_object(
        file_id or uuid4(), "ann", "ü.txt", content_type="text/plain", declared=None
    )
    await resources.vault.put(key, BODY, **described, timeout_seconds=20)
    return key


async def make_file(resources: Resources) -> File:
    return await prove(resources, (await send(resources)).file)


def vault_key(file: File) -> str:
    return str(file.minio_object_name)


def lie(monkeypatch: pytest.MonkeyPatch, bucket: Bucket, listing_of_it: Listing) -> None:
    """Let the bucket's listing be this one."""
    monkeypatch.setattr(bucket, "list_keys", listing_of_it)


def list_these(*keys: str) -> Listing:
    async def list_keys() -> AsyncIterator[ListedObject]:
        for key in keys:
            yield ListedObject(key, len(BODY), "etag", datetime(2020, 1, 1, tzinfo=UTC))

    return list_keys


async def count_reservations(resources: Resources) -> int:
    number: int = await resources.pool.fetchval(RESERVATIONS)
    return number


async def list_seen(resources: Resources) -> list[str]:
    return [row["key"] for row in await resources.pool.fetch(SEEN)]


async def check_whole(resources: Resources, file: File) -> None:
    again = await find(resources, file)
    assert again.state == State.READY
    assert read_all(resources.vault, vault_key(again)) == BODY


# What is an orphan


async def test_what_a_row_names_is_no_orphan(old: Resources) -> None:
    """Check every state, a live lease, a reserved key, a probe, and what is still to be swept."""
    await declare(old)
    await send(old)
    held = await claim(old, (await send(old)).file)
    await make_file(old)
    deleted = await make_file(old)
    await delete_file(old, deleted.id, owner="ann")
    rejected = await send(old)
    await old.pool.execute(
        "UPDATE files SET declared_sha256 = sha256('x') WHERE id = $1", rejected.file.id
    )
    await prove(old, rejected.file)
    put_object(old.vault, str(held.vault_key), BODY)
    [reserved] = await reservations.reserve_keys(old.pool, 1, lease=timedelta(minutes=5))
    put_object(old.vault, str(reserved.vault_key), BODY)
    probe = await reservations.reserve_probe(old.pool, lease=timedelta(minutes=5))
    put_object(old.incoming, probe.scratch_key, BODY)
    before = await list_bucket(old.incoming), await list_bucket(old.vault)
    assert (len(before[0]), len(before[1])) == (6, 4)
    for _ in range(2):
        assert await scrub(old, delete=True) == []
        await pass_time(old.pool, timedelta(seconds=30))
    assert (await list_bucket(old.incoming), await list_bucket(old.vault)) == before
    assert await list_seen(old) == []


async def test_an_old_orphan_of_the_vault_is_shown(old: Resources) -> None:
    file = await make_file(old)
    key = await put_orphan(old)
    before = await count_reservations(old)
    [found] = await scrub(old)
    assert (found.bucket, found.key, found.verdict) == (old.vault.name, key, "deletable")
    assert (found.size, found.age < timedelta(minutes=5)) == (len(BODY), True)
    assert await count_reservations(old) == before
    assert await list_bucket(old.vault) == {vault_key(file), key}


async def test_an_old_orphan_of_the_vault_is_deleted_by_the_sweeper(
    old: Resources, resources: Resources
) -> None:
    file = await make_file(old)
    key = await put_orphan(old)
    assert summarize(await scrub(old, delete=True)) == {key: "doomed"}
    await check_invariants(resources)
    assert await scrub(old, delete=True) == [], "a reservation names it now"
    assert key in await list_bucket(old.vault)
    await sweep(resources)
    assert await list_bucket(old.vault) == {vault_key(file)}
    put_object(old.vault, key, BODY)  # a late request
    assert await scrub(old, delete=True) == []
    await let_settle(resources)
    await check_nothing_left(resources)
    await check_whole(resources, file)
    assert await count_reservations(old) == 0


async def test_a_young_orphan_of_the_vault_stays(resources: Resources) -> None:
    key = await put_orphan(resources)
    for delete in (False, True):
        assert summarize(await scrub(resources, delete=delete)) == {key: "young"}
    await let_settle(resources)
    assert await list_bucket(resources.vault) == {key}


async def test_an_orphan_whose_listed_date_is_wrong_stays(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await put_orphan(resources)
    lie(monkeypatch, resources.vault, list_these(key))
    assert summarize(await scrub(resources)) == {key: "deletable"}
    assert summarize(await scrub(resources, delete=True)) == {key: "young"}
    assert await count_reservations(resources) == 0


@pytest.mark.parametrize("key", ["notes.txt", "0" * 32, ID.upper(), f"zz/{ID}"])
async def test_a_foreign_key_of_the_vault_stays(old: Resources, key: str) -> None:
    put_object(old.vault, key, BODY)
    assert summarize(await scrub(old)) == {key: "foreign"}
    assert summarize(await scrub(old, delete=True)) == {key: "foreign"}
    assert await count_reservations(old) == 0


async def test_an_object_without_the_metadata_of_assay_stays(old: Resources) -> None:
    foreign, orphan = str(uuid4()), await put_orphan(old)
    put_object(old.vault, foreign, BODY)
    assert summarize(await scrub(old, delete=True)) == {foreign: "foreign", orphan: "doomed"}
    assert await count_reservations(old) == 1


async def test_an_object_of_an_unproved_file_is_kept_until_it_is_final(
    old: Resources, resources: Resources
) -> None:
    declared = await send(old)
    key = await put_orphan(old, file_id=declared.file.id)
    assert summarize(await scrub(old, delete=True)) == {key: "kept"}
    file = await prove(old, declared.file)
    assert summarize(await scrub(old, delete=True)) == {key: "doomed"}
    await let_settle(resources)
    await check_nothing_left(resources)
    await check_whole(resources, file)


# Incoming

ODD = ["a b/ü ☃.txt", "a-b", "tab\there", "newline\nhere", "+&<>'\"%41", "x" * 255, "日本" * 40]


async def test_an_orphan_of_incoming_ages_from_when_it_was_seen(
    resources: Resources,
) -> None:
    file = await declare(resources)
    put_object(resources.incoming, "0" * 32, BODY)
    [found] = await scrub(resources, delete=True)
    assert (found.bucket, found.key) == (resources.incoming.name, "0" * 32)
    assert (found.verdict, found.size, found.age) == ("young", len(BODY), timedelta(0))
    await pass_time(resources.pool, find_grace(resources.settings) - timedelta(hours=1))
    assert summarize(await scrub(resources, delete=True)) == {"0" * 32: "young"}
    await pass_time(resources.pool, timedelta(hours=1))
    assert summarize(await scrub(resources)) == {"0" * 32: "deletable"}
    assert await count_reservations(resources) == 0
    [found] = await scrub(resources, delete=True)
    assert (found.verdict, found.age > DAY) == ("doomed", True)
    assert await scrub(resources, delete=True) == []
    assert await list_seen(resources) == []
    await check_invariants(resources)
    await sweep(resources)
    assert await list_bucket(resources.incoming) == set()
    put_object(resources.incoming, "0" * 32, BODY)  # a late request
    await let_settle(resources)
    assert await list_bucket(resources.incoming) == set()
    assert await count_reservations(resources) == 0
    assert (await find(resources, file.file)).incoming_key == key_of(file.file)


async def test_orphans_with_odd_keys_are_deleted(resources: Resources) -> None:
    put: set[str] = set()
    for key in ODD:
        try:
            put_object(resources.incoming, key, BODY)
            put.add(key)
        except StoreError:
            continue  # this store has no such keys
    assert len(put) >= 4
    assert summarize(await scrub(resources)) == dict.fromkeys(put, "young")
    await pass_time(resources.pool, find_grace(resources.settings))
    assert summarize(await scrub(resources, delete=True)) == dict.fromkeys(put, "doomed")
    await let_settle(resources)
    assert await list_bucket(resources.incoming) == set()


async def test_a_key_that_no_text_column_holds_is_foreign(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie(monkeypatch, resources.incoming, list_these("a", "b\0", "c", "d\0"))
    assert summarize(await scrub(resources)) == {
        "a": "young",
        "b\0": "foreign",
        "c": "young",
        "d\0": "foreign",
    }
    assert await list_seen(resources) == ["a", "c"]


@pytest.mark.parametrize("page", [1, 2, 1_000])
async def test_keys_that_are_gone_or_named_are_forgotten(
    resources: Resources, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """Check that their ages begin again when they are seen again."""
    monkeypatch.setattr(listing, "PAGE", page)
    for key in "abcdefg":
        put_object(resources.incoming, key, BODY)
    await scrub(resources)
    assert await list_seen(resources) == [*"abcdefg"]
    await pass_time(resources.pool, find_grace(resources.settings))
    named = (await declare(resources)).file
    await resources.pool.execute("UPDATE files SET incoming_key = 'b' WHERE id = $1", named.id)
    for key in "adg":
        await resources.incoming.delete(key)
    assert summarize(await scrub(resources)) == dict.fromkeys("cef", "deletable")
    assert await list_seen(resources) == [*"cef"]
    put_object(resources.incoming, "d", BODY)
    founds = summarize(await scrub(resources, delete=True))
    assert founds == {"c": "doomed", "d": "young", "e": "doomed", "f": "doomed"}
    await resources.incoming.delete("d")
    await scrub(resources)
    assert await list_seen(resources) == []


async def test_an_incomplete_listing_forgets_no_later_key(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 1)
    for key in "abc":
        put_object(resources.incoming, key, BODY)
    await scrub(resources)

    async def end_early() -> AsyncIterator[ListedObject]:
        async for listed in list_these("b")():
            yield listed
        raise StoreUnavailable("503")

    lie(monkeypatch, resources.incoming, end_early)
    with pytest.raises(StoreError):
        await scrub(resources)
    assert await list_seen(resources) == ["b", "c"]


# Listings that lie


async def test_a_stale_listing_dooms_no_object_that_is_gone(
    old: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await put_orphan(old)
    await old.vault.delete(key)
    lie(monkeypatch, old.vault, list_these(key))
    assert await scrub(old, delete=True) == []
    assert await count_reservations(old) == 0


async def test_the_keys_of_another_bucket_delete_nothing(
    old: Resources, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, waiting = await make_file(old), await send(old)
    names, keys = vault_key(file), key_of(waiting.file)
    lie(monkeypatch, old.incoming, list_these(names))
    lie(monkeypatch, old.vault, list_these(keys))
    assert summarize(await scrub(old)) == {names: "deletable", keys: "foreign"}
    assert summarize(await scrub(old, delete=True)) == {names: "doomed", keys: "foreign"}
    monkeypatch.undo()
    for _ in range(2):
        await sweep(resources)
        await pass_time(resources.pool, timedelta(minutes=30))
    await check_whole(resources, file)
    assert await list_bucket(resources.incoming) == {keys}
    await check_whole(resources, await prove(resources, waiting.file))
    await let_settle(resources)
    await check_nothing_left(resources)


@pytest.mark.parametrize("which", ["incoming", "vault"])
async def test_a_listing_out_of_order_ends_the_run(
    old: Resources, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Check that the pages before it are in order, and that nothing from it on is doomed."""
    monkeypatch.setattr(listing, "PAGE", 2)
    keys = sorted([await put_orphan(old) for _ in range(6)])
    for key in keys:
        put_object(old.incoming, key, BODY)
    await scrub(old)
    await pass_time(old.pool, DAY)
    disorderly = [*keys[:3], keys[4], keys[3], keys[5]]
    lie(monkeypatch, getattr(old, which), list_these(*disorderly))
    founds: list[Found] = []
    with pytest.raises(CannotScrub, match="not in order"):
        await collect(scrub_orphans(old, delete=True), founds)
    bucket = getattr(old, which)
    in_order = [*keys[:3], keys[4]]
    assert [found.key for found in founds if found.bucket == bucket.name] == in_order
    assert {found.verdict for found in founds} == {"doomed"}
    assert await count_reservations(old) == (4 if which == "incoming" else 10)


async def test_a_key_that_is_listed_twice_ends_the_run(
    old: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await put_orphan(old)
    lie(monkeypatch, old.vault, list_these(key, key))
    with pytest.raises(CannotScrub, match="not in order"):
        await scrub(old, delete=True)
    assert await count_reservations(old) == 0


async def test_a_listing_that_omits_everything_deletes_nothing(
    old: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, file = await put_orphan(old), await make_file(old)
    lie(monkeypatch, old.vault, list_these())
    lie(monkeypatch, old.incoming, list_these())
    assert await scrub(old, delete=True) == []
    monkeypatch.undo()
    assert await list_bucket(old.vault) == {key, vault_key(file)}


# Races


async def adopt_all(resources: Resources) -> None:
    options = Options(adoption=Adoption(wanted=True))
    async for _ in reconcile(resources, options):
        pass


async def test_an_object_that_is_adopted_meanwhile_is_kept(
    old: Resources, resources: Resources
) -> None:
    """Adopt it after its page was compared, and before its key is doomed."""
    file_id = uuid4()
    key = await put_orphan(old, file_id=file_id)
    pool: Any = FaultyPool(old.pool, queries.DOOM_VAULT, before=lambda: adopt_all(resources))
    raced = msgspec.structs.replace(old, pool=pool)
    assert summarize(await scrub(raced, delete=True)) == {key: "kept"}
    assert await count_reservations(old) == 0
    await let_settle(resources)
    await check_nothing_left(resources)
    assert await list_bucket(old.vault) == {key}


async def reserve_found(pool: asyncpg.Pool, key: UUID, file_id: UUID) -> HeldKey | None:
    """Reserve the key as an adoption does, and commit."""
    async with pool.acquire() as connection, connection.transaction(isolation="read_committed"):
        return await reserve_found_key(
            connection, key, file_id=file_id, owner="ann", lease=timedelta(minutes=5)
        )


async def test_an_object_whose_adoption_has_begun_is_kept(old: Resources) -> None:
    """Insert its reservation after its page was compared."""
    file_id = uuid4()
    key = await put_orphan(old, file_id=file_id)

    async def reserve() -> None:
        await reserve_found(old.pool, UUID(key), file_id)

    pool: Any = FaultyPool(old.pool, queries.DOOM_VAULT, before=reserve)
    raced = msgspec.structs.replace(old, pool=pool)
    assert summarize(await scrub(raced, delete=True)) == {key: "kept"}
    assert await old.pool.fetchval("SELECT doomed_at FROM reservations") is None


@contextlib.asynccontextmanager
async def adoption_committed_late(
    resources: Resources, key: UUID, file_id: UUID
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Adopt the object as far as to the end of its transaction, and yield the function that ends
    it.
    """
    held = await reserve_found(resources.pool, key, file_id)
    assert held is not None
    file = ImportedFile(
        id=file_id,
        owner="ann",
        filename="f",
        size=len(BODY),
        content_type=None,
        declared_sha256=None,
        metadata={},
        why="adopted",
    )
    etag = (await resources.vault.head(str(key))).etag
    async with held_open(resources.pool) as connection:
        assert await commit_imported_file(connection, held, file, sha256=sha256(BODY), etag=etag)

        async def commit() -> None:
            await connection.execute("COMMIT")

        yield commit


async def test_an_adoption_that_is_being_committed_wins(
    old: Resources, resources: Resources
) -> None:
    """Let the statement that dooms the key wait for the commit. Its snapshot is older."""
    file_id = uuid4()
    key = UUID(await put_orphan(old, file_id=file_id))
    async with adoption_committed_late(old, key, file_id) as commit:
        dooming = asyncio.create_task(queries.doom_vault_keys(old.pool, {key: file_id}, counter=0))
        await until_waiting(old.pool, 1)
        await commit()
        assert await dooming == set()
    assert await count_reservations(old) == 0
    await let_settle(resources)
    await check_nothing_left(resources)
    assert await list_bucket(old.vault) == {str(key)}


async def test_a_second_adoption_reserves_nothing_after_the_commit(
    old: Resources, resources: Resources
) -> None:
    """Let its insertion wait for the commit of the first. Its snapshot is older."""
    file_id = uuid4()
    key = UUID(await put_orphan(old, file_id=file_id))
    async with adoption_committed_late(old, key, file_id) as commit:
        second = asyncio.create_task(reserve_found(old.pool, key, file_id))
        await until_waiting(old.pool, 1)
        await commit()
        assert await second is None
    assert await count_reservations(old) == 0
    await let_settle(resources)
    await check_nothing_left(resources)
    assert await list_bucket(old.vault) == {str(key)}


async def test_a_doomed_object_is_not_adopted(old: Resources, resources: Resources) -> None:
    key = await put_orphan(old)
    async with held_open(old.pool) as connection:
        row = await connection.fetchrow(queries.DOOM_VAULT, [UUID(key)], [uuid4()], 0)
        assert row["doomed"] == [UUID(key)]
        adopting = asyncio.create_task(adopt_all(resources))
        await until_waiting(old.pool, 1)
        await connection.execute("COMMIT")
        await adopting
    assert await old.pool.fetchval("SELECT count(*) FROM files") == 0
    await let_settle(resources)
    await check_nothing_left(resources)


async def test_two_runs_at_once_doom_each_key_once(old: Resources, resources: Resources) -> None:
    keys = {await put_orphan(old) for _ in range(5)}
    for key in keys:
        put_object(old.incoming, key, BODY)
    await scrub(old)
    runs = await asyncio.gather(scrub(old, delete=True), scrub(old, delete=True))
    doomed = [(found.bucket, found.key) for one in runs for found in one if is_doomed(found)]
    assert len(doomed) == len({*doomed}) == 10
    assert await count_reservations(old) == 10
    await let_settle(resources)
    await check_nothing_left(resources)


def is_doomed(found: Found) -> bool:
    return found.verdict == "doomed"


async def test_uploads_go_on_during_a_run(old: Resources, resources: Resources) -> None:
    """Objects that are written and committed while both buckets are listed are no orphans."""
    orphan = await put_orphan(old)
    gate = Gate()
    pool: Any = FaultyPool(old.pool, queries.NOTE_INCOMING, before=gate)
    put_object(old.incoming, "0", BODY)
    running = asyncio.create_task(scrub(msgspec.structs.replace(old, pool=pool), delete=True))
    await gate.reached.wait()
    files = [await make_file(old) for _ in range(3)]
    waiting = await send(old)
    gate.opened.set()
    founds = summarize(await running)
    assert founds.keys() == {"0", orphan}
    for file in files:
        await check_whole(resources, file)
    await check_whole(resources, await prove(old, waiting.file))


# The guard, and the store


async def lose_rows(resources: Resources) -> None:
    """Restore a backup that lacks the last raise of the marker, and do not notice it yet."""
    await resources.pool.execute("UPDATE vault_marker SET counter = 0")


async def test_a_restored_database_shows_and_deletes_nothing(old: Resources) -> None:
    await old.guard.check()
    await back_up(old.pool)
    await old.pool.execute("UPDATE vault_marker SET raised_at = now() - interval '1 hour'")
    old.guard.due_at = 0.0
    await old.guard.check()
    file = await make_file(old)
    await restore(old.pool)
    old.guard.due_at = 0.0
    for delete in (False, True):
        with pytest.raises(CannotScrub, match="assay reconcile"):
            await scrub(old, delete=delete)
    assert await count_reservations(old) == 0
    assert await list_bucket(old.vault) == {vault_key(file)}
    await adopt_all(old)
    await check_whole(old, file)


async def test_a_restore_between_two_pages_ends_the_run(
    old: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 1)
    first, second = sorted([await put_orphan(old), await put_orphan(old)])
    run_of_it = scrub_orphans(old, delete=True)
    assert (await anext(run_of_it)).key == first
    await lose_rows(old)
    old.guard.due_at = 0.0
    with pytest.raises(CannotScrub, match="earlier state"):
        await anext(run_of_it)
    assert await old.pool.fetchval("SELECT vault_key FROM reservations") == UUID(first)
    assert second in await list_bucket(old.vault)


@pytest.mark.parametrize("statement", [queries.DOOM_VAULT, queries.DOOM_INCOMING])
async def test_a_restore_that_the_guard_has_not_seen_dooms_nothing(
    old: Resources, statement: str
) -> None:
    await put_orphan(old)
    if statement == queries.DOOM_INCOMING:
        put_object(old.incoming, "0", BODY)
        await scrub(old)
    pool: Any = FaultyPool(old.pool, statement, before=lambda: lose_rows(old))
    with pytest.raises(CannotScrub, match="restored during the run"):
        await scrub(msgspec.structs.replace(old, pool=pool), delete=True)
    assert await count_reservations(old) == 0


async def test_a_store_that_refuses_to_list_ends_the_run(
    old: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that what was doomed before stays doomed, and that the next run continues."""
    monkeypatch.setattr(listing, "PAGE", 1)
    first, second = sorted([await put_orphan(old), await put_orphan(old)])

    async def refuse() -> AsyncIterator[ListedObject]:
        async for listed in list_these(first)():
            yield listed
        raise StoreUnavailable("GET: 403 AccessDenied", status=403, code="AccessDenied")

    with monkeypatch.context() as patched:
        lie(patched, old.vault, refuse)
        with pytest.raises(StoreError, match="403"):
            await scrub(old, delete=True)
    assert await old.pool.fetchval("SELECT vault_key FROM reservations") == UUID(first)
    assert summarize(await scrub(old, delete=True)) == {second: "doomed"}


def refuse_request() -> None:
    raise StoreUnavailable("403 AccessDenied", status=403, code="AccessDenied")


async def test_a_store_that_refuses_every_look_ends_the_run(old: Resources) -> None:
    await old.guard.check()
    for _ in range(20):
        await put_orphan(old)
    vault = FaultyBucket(old.vault)
    vault.before = {"head": refuse_request, "get": refuse_request}
    spoilt: Any = vault
    with pytest.raises(StoreError, match="403"):
        await scrub(msgspec.structs.replace(old, vault=spoilt), delete=True)
    assert await count_reservations(old) == 0


async def test_one_unreadable_object_stays_and_blocks_no_other(old: Resources) -> None:
    unreadable, orphan = await put_orphan(old), await put_orphan(old)
    vault = FaultyBucket(old.vault)
    vault.only, vault.before = {unreadable}, {"head": refuse_request}
    spoilt: Any = vault
    founds = await scrub(msgspec.structs.replace(old, vault=spoilt), delete=True)
    assert summarize(founds) == {unreadable: "unreadable", orphan: "doomed"}
    assert await old.pool.fetchval("SELECT vault_key FROM reservations") == UUID(orphan)


async def test_a_page_whose_response_is_lost_is_doomed_or_not(old: Resources) -> None:
    """Check a connection that is lost before the commit, and then a run that continues."""
    key = await put_orphan(old)
    async with held_open(old.pool) as connection:
        await connection.execute(
            "INSERT INTO reservations (vault_key, lease, lease_until)"
            " VALUES ($1, gen_random_uuid(), now())",
            UUID(key),
        )
        running = asyncio.create_task(
            queries.doom_vault_keys(old.pool, {UUID(key): uuid4()}, counter=0)
        )
        [pid] = await until_waiting(old.pool, 1)
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(database.UNREACHABLE):
            await running
    await until(lambda: count_is_zero(old))
    assert summarize(await scrub(old, delete=True)) == {key: "doomed"}


async def count_is_zero(resources: Resources) -> bool:
    return await count_reservations(resources) == 0


# Sizes


@pytest.mark.one_store
async def test_the_memory_does_not_grow_with_the_number_of_keys(
    old: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measure(count: int) -> int:
        async def list_many() -> AsyncIterator[ListedObject]:
            for number in range(count):
                key = str(UUID(int=number << 64))
                yield ListedObject(key, 1, "etag", datetime(2020, 1, 1, tzinfo=UTC))

        lie(monkeypatch, old.vault, list_many)
        tracemalloc.start()
        try:
            seen = [1 async for _ in scrub_orphans(old, delete=False) if _.key == "never"]
            assert seen == []
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    await measure(2_000)
    small = await measure(5_000)
    assert await measure(30_000) < small + 1_000_000


@pytest.mark.one_store
async def test_the_statements_of_a_page_use_indexes(old: Resources) -> None:
    await old.pool.execute(
        "INSERT INTO reservations (vault_key, scratch_key, lease, lease_until, doomed_at, sweep_at)"
        " SELECT gen_random_uuid(), 'k' || n, gen_random_uuid(), now(), now(), now()"
        " FROM generate_series(1, 20000) AS n; ANALYZE reservations;"
        " INSERT INTO incoming_orphans SELECT 'k' || n FROM generate_series(1, 20000) AS n;"
        " ANALYZE incoming_orphans"
    )
    keys = [f"k{number}" for number in range(500)]
    lines = await old.pool.fetch(f"EXPLAIN {queries.NOTE_INCOMING}", keys, "", "k")
    plan = "\n".join(line[0] for line in lines)
    assert "reservations_scratch_key" in plan
    assert "Seq Scan on reservations" not in plan
    assert "Seq Scan on incoming_orphans" not in plan
