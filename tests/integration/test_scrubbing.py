"""Tests of the scrub: what it finds in the vault, and when it stops without a verdict."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from service import problems
from service.downloads.streaming import find_readable
from service.files.lookup import delete_file
from service.marker import MARKER_KEY
from service.model import File, State
from service.object_store import Bucket, ObjectChanged, ObjectStore, StoreUnavailable
from service.operations.doctor.scrub import check_scrub
from service.operations.inspection import inspect_file
from service.queries import scrubbing as queries
from service.resources import Resources
from service.worker import rereading, scrubber
from service.worker.rereading import Pace, Stopped
from service.worker.scrubber import (
    DAMAGED_EVERY,
    MOST_SUSPECTS,
    Found,
    Options,
    ScrubBusy,
    ScrubStopped,
    scrub,
    scrub_when_due,
)
from tests.integration.steps import (
    BODY,
    OTHER,
    find,
    let_settle,
    prove,
    send,
    sha256,
    watch,
    working,
)
from tests.support.clock import DAY, pass_time
from tests.support.faults import FaultyBucket, SpoiltBucket, lose_answer
from tests.support.invariants import check_invariants, list_bucket
from tests.support.objects import put_object, read_all
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
FAST = 1024**3
EVERYTHING = Options(every=timedelta(0), damaged_every=timedelta(0), rate=FAST)
MONTH = Options(every=timedelta(days=30), damaged_every=DAMAGED_EVERY, rate=FAST)
TIMES = "SELECT proved_at, checked_at, vault_etag, state FROM files WHERE id = $1"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the third read of an object follow at once."""
    monkeypatch.setattr(rereading, "THIRD_READ_SECONDS", 0.0)
    monkeypatch.setattr(rereading, "RESUME_SECONDS", 0.0)


async def scrub_all(resources: Resources, options: Options = EVERYTHING) -> list[Found]:
    return [found async for found in scrub(resources, options)]


async def store_file(resources: Resources, body: bytes = BODY) -> File:
    return await prove(resources, (await send(resources, body)).file)


async def store_files(resources: Resources, number: int) -> list[File]:
    return [await store_file(resources, BODY + bytes([n])) for n in range(number)]


def key_of_object(file: File) -> str:
    assert file.minio_object_name is not None
    return str(file.minio_object_name)


async def remove(resources: Resources, *files: File) -> None:
    for file in files:
        await resources.vault.delete(key_of_object(file))


def overwrite(resources: Resources, file: File, body: bytes) -> None:
    put_object(resources.vault, key_of_object(file), body)


async def check_damaged(resources: Resources, file: File, why: str) -> None:
    """Check the state, the history, and that readers get no byte."""
    assert (await find(resources, file)).state == State.DAMAGED
    last = await resources.pool.fetchrow(
        "SELECT state, previous, by, why FROM file_history WHERE file_id = $1"
        " ORDER BY sequence DESC LIMIT 1",
        file.id,
    )
    assert (last["state"], last["previous"], last["by"]) == ("damaged", "ready", "worker")
    assert why in last["why"]
    inspected = await inspect_file(resources, file.id)
    assert why in inspected.why
    assert "a day after its last check" in inspected.next
    with pytest.raises(problems.FileDamaged):
        await find_readable(resources, file.id, owner="ann")


async def check_readable(resources: Resources, file: File, body: bytes = BODY) -> None:
    again = await find_readable(resources, file.id, owner="ann")
    assert read_all(resources.vault, str(again.minio_object_name), etag=again.vault_etag) == body
    assert again.hash == sha256(body)


async def check_nothing_is_damaged(resources: Resources) -> None:
    assert await resources.pool.fetchval("SELECT count(*) FROM files WHERE state <> 'ready'") == 0


async def read_stop(resources: Resources) -> str | None:
    return (await queries.read_state(resources.pool)).stopped_why


async def test_a_whole_file_is_recorded_as_proved_again(resources: Resources) -> None:
    file = await store_file(resources)
    objects = await list_bucket(resources.vault)
    before = await resources.pool.fetchrow(TIMES, file.id)
    assert before["proved_at"] is None
    assert await scrub_all(resources) == []
    after = await resources.pool.fetchrow(TIMES, file.id)
    assert after["proved_at"] == after["checked_at"] is not None
    assert (after["state"], after["vault_etag"]) == ("ready", before["vault_etag"])
    assert await list_bucket(resources.vault) == objects
    await check_readable(resources, file)
    await check_invariants(resources)


async def test_a_missing_object_makes_its_file_damaged(resources: Resources) -> None:
    lost, kept = await store_file(resources), await store_file(resources, OTHER)
    await remove(resources, lost)
    assert [(one.what, one.file.id) for one in await scrub_all(resources)] == [("damaged", lost.id)]
    await check_damaged(resources, lost, "missing")
    await check_readable(resources, kept, OTHER)
    assert await list_bucket(resources.vault) == {key_of_object(kept)}


@pytest.mark.parametrize("body", [OTHER, BODY[:-1], BODY + b"!", b""], ids=len)
async def test_an_altered_object_makes_its_file_damaged(resources: Resources, body: bytes) -> None:
    file = await store_file(resources)
    overwrite(resources, file, body)
    found = await scrub_all(resources)
    assert [(one.what, one.file.id) for one in found] == [("damaged", file.id)]
    assert str(sha256(body)) in found[0].detail
    await check_damaged(resources, file, f"{len(body)} bytes")
    assert read_all(resources.vault, key_of_object(file)) == body


async def test_swapped_objects_make_both_files_damaged(resources: Resources) -> None:
    one, two = await store_file(resources), await store_file(resources, OTHER)
    overwrite(resources, one, OTHER)
    overwrite(resources, two, BODY)
    assert {found.file.id for found in await scrub_all(resources)} == {one.id, two.id}
    await check_damaged(resources, one, "SHA-256")
    await check_damaged(resources, two, "SHA-256")


async def test_a_damaged_file_is_ready_when_its_bytes_are_back(resources: Resources) -> None:
    file = await store_file(resources)
    await remove(resources, file)
    await scrub_all(resources)
    assert [one.what for one in await scrub_all(resources)] == ["still"]
    overwrite(resources, file, BODY)
    assert [one.what for one in await scrub_all(resources)] == ["whole"]
    await check_readable(resources, file)
    await check_invariants(resources)
    await let_settle(resources)
    await check_readable(resources, file)


async def test_a_restored_object_with_another_etag_is_readable(resources: Resources) -> None:
    file = await store_file(resources)
    etag = await restore_in_parts(resources.vault, key_of_object(file), BODY)
    assert etag != file.vault_etag
    with pytest.raises(ObjectChanged):
        read_all(resources.vault, key_of_object(file), etag=file.vault_etag)
    assert await scrub_all(resources) == []
    assert (await resources.pool.fetchrow(TIMES, file.id))["vault_etag"] == etag
    await check_readable(resources, file)


async def restore_in_parts(vault: Bucket, key: str, body: bytes) -> str:
    """Write the object by a multipart upload, whose ETag is not that of the bytes."""
    upload = await vault.create_upload(
        key, content_type="text/plain", metadata={}, tags={}, timeout_seconds=20
    )
    part = await asyncio.to_thread(vault.put_part, key, upload, 1, body, timeout_seconds=20)
    return await vault.complete_upload(key, upload, [(1, part)])


async def test_one_wrong_read_damages_no_file(resources: Resources) -> None:
    file = await store_file(resources)
    faulty, _, vault = watch(resources)
    vault.wrong_reads = 1
    assert await scrub_all(faulty) == []
    assert vault.wrong_reads == 0
    await check_readable(resources, file)


async def test_one_read_that_ends_early_damages_no_file(resources: Resources) -> None:
    file = await store_file(resources)
    faulty, _, vault = watch(resources)
    vault.cut_reads_after = 10
    assert await scrub_all(faulty) == []
    await check_readable(resources, file)


class SecondStore:
    """The second connection of the scrub, to a bucket that fails."""

    def __init__(self, vault: Any) -> None:
        self.vault = vault

    def bucket(self, _: str) -> Any:
        return self.vault

    def close(self) -> None:
        """Leave the bucket's own connections open."""


def spoil(resources: Resources, monkeypatch: pytest.MonkeyPatch, vault: FaultyBucket) -> Resources:
    """Let both connections of the scrub read through `vault`."""
    monkeypatch.setattr(rereading, "open_store", lambda _: SecondStore(vault))
    changed: dict[str, Any] = {"vault": vault}
    return msgspec.structs.replace(resources, **changed)


async def test_an_object_that_the_store_cannot_read_is_damaged(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = await store_file(resources), await store_file(resources, OTHER)
    vault = SpoiltBucket(resources.vault, {key_of_object(file)})
    assert [one.file.id for one in await scrub_all(spoil(resources, monkeypatch, vault))] == [
        file.id
    ]
    await check_damaged(resources, file, "cannot be read")
    await check_readable(resources, other, OTHER)
    assert [one.what for one in await scrub_all(resources)] == ["whole"]


async def test_an_unavailable_store_damages_no_file(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store_file(resources)
    vault = FaultyBucket(resources.vault)
    vault.before = {"open": lose_answer, "copy_from": lose_answer}
    with pytest.raises(ScrubStopped, match="not available"):
        await scrub_all(spoil(resources, monkeypatch, vault))
    await check_nothing_is_damaged(resources)
    assert "not available" in (await read_stop(resources) or "")
    await let_settle(resources)
    await check_invariants(resources)


async def test_a_store_that_refuses_reads_damages_no_file(resources: Resources) -> None:
    settings = resources.settings
    await store_file(resources)
    signer = ObjectStore(
        settings.s3_endpoint,
        access_key=settings.s3_signer_access_key,
        secret_key=settings.s3_signer_secret_key,
        region=settings.s3_region,
    )
    with contextlib.closing(signer):
        changed: dict[str, Any] = {"vault": signer.bucket(settings.vault_bucket)}
        with pytest.raises(ScrubStopped, match="refuses"):
            await scrub_all(msgspec.structs.replace(resources, **changed))
    await check_nothing_is_damaged(resources)
    assert "refuses" in (await read_stop(resources) or "")


async def test_a_short_failure_of_the_store_damages_no_file(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the first two reads of four files fail."""
    files = await store_files(resources, 5)
    real, reads = rereading.hash_object, Counter[str]()

    def read(vault: Any, key: str, pace: Pace) -> Any:
        reads[key] += 1
        if len(reads) <= 4 and reads[key] <= 2:
            raise StoreUnavailable("GET: 503 SlowDown", status=503)
        return real(vault, key, pace)

    monkeypatch.setattr(rereading, "hash_object", read)
    assert await scrub_all(resources) == []
    assert sorted(reads.values()) == [1, 3, 3, 3, 3]
    assert len(reads) == len(files)


async def test_a_read_that_is_cut_goes_on_where_it_ended(resources: Resources) -> None:
    file = await store_file(resources, BODY)
    vault: Any = FaultyBucket(resources.vault)
    opened: list[int] = []

    def cut_the_first() -> None:
        opened.append(1)
        vault.cut_reads_after = 100 if len(opened) == 1 else None

    vault.after["open"] = cut_the_first
    proof = await asyncio.to_thread(rereading.hash_object, vault, key_of_object(file), Pace(None))
    assert (proof.size, proof.sha256, len(opened)) == (len(BODY), sha256(BODY), 2)


async def test_a_suspect_whose_object_was_put_back_is_not_damaged(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubber, "STALE_SECONDS", -1.0)
    file = await store_file(resources)
    await remove(resources, file)
    run = scrubber.Scrubber(resources, EVERYTHING)
    try:
        before, _ = await queries.ask_bounds(resources.pool, every=DAY * 0, damaged_every=DAY)
        [due] = await queries.list_due(
            resources.pool, damaged=False, before=before, after=None, counter=0
        )
        assert await run.conclude(await run.judge(due)) == []
        overwrite(resources, file, BODY)
        assert await run.mark_suspects() == []
    finally:
        run.rereader.close()
    await check_readable(resources, file)


async def test_a_stop_is_not_cleared_before_its_files_were_read(resources: Resources) -> None:
    await remove(resources, *await store_files(resources, MOST_SUSPECTS + 1))
    with pytest.raises(ScrubStopped):
        await scrub_all(resources)
    with pytest.raises(ScrubStopped):
        await scrub_all(resources, MONTH)
    assert "in a row" in (await read_stop(resources) or "")
    await check_nothing_is_damaged(resources)


async def test_a_check_that_was_asked_for_does_not_count_as_late(resources: Resources) -> None:
    file = await store_file(resources)
    await queries.request_check(resources.pool, file.id, UUID(key_of_object(file)))
    assert (await queries.read_state(resources.pool)).oldest_check_seconds < 3600


async def test_a_run_of_a_worker_ends_after_its_time(resources: Resources) -> None:
    files = await store_files(resources, 3)
    ended = msgspec.structs.replace(EVERYTHING, longest=timedelta(seconds=-1))
    assert await scrub_all(resources, ended) == []
    unread = await resources.pool.fetchval("SELECT count(*) FROM files WHERE proved_at IS NULL")
    assert unread == len(files)


async def test_many_missing_objects_in_a_row_stop_the_scrub(resources: Resources) -> None:
    files = await store_files(resources, MOST_SUSPECTS + 1)
    await remove(resources, *files)
    with pytest.raises(ScrubStopped, match="in a row"):
        await scrub_all(resources)
    await check_nothing_is_damaged(resources)
    assert "in a row" in (await read_stop(resources) or "")
    (finding,) = await check_scrub(resources)
    assert finding.status == "failed"
    assert "in a row" in finding.what
    trusting = msgspec.structs.replace(EVERYTHING, trust_store=True)
    assert len(await scrub_all(resources, trusting)) == len(files)
    assert await read_stop(resources) is None
    for file in files:
        await check_damaged(resources, file, "missing")


async def test_a_few_missing_objects_are_damaged_at_the_end(resources: Resources) -> None:
    files = await store_files(resources, MOST_SUSPECTS)
    await remove(resources, *files)
    assert len(await scrub_all(resources)) == MOST_SUSPECTS
    (finding,) = await check_scrub(resources)
    assert (finding.status, finding.what[:1]) == ("failed", str(MOST_SUSPECTS))


async def test_an_emptied_vault_damages_no_file(resources: Resources) -> None:
    resources.guard.due_at = 0.0
    await resources.guard.check()
    file = await store_file(resources)
    faulty, _, vault = watch(resources)
    vault.before["open"] = lambda: None
    await remove(resources, file)
    await resources.vault.delete(MARKER_KEY)
    with pytest.raises(ScrubStopped, match="no marker"):
        await scrub_all(faulty)
    await check_nothing_is_damaged(resources)


async def test_nothing_is_read_while_the_database_disagrees(resources: Resources) -> None:
    await resources.guard.check()
    file = await store_file(resources)
    await remove(resources, file)
    await resources.pool.execute("UPDATE vault_marker SET identity = 'another'")
    resources.guard.due_at = 0.0
    with pytest.raises(ScrubStopped, match="restored"):
        await scrub_all(resources)
    await check_nothing_is_damaged(resources)
    assert await read_stop(resources) is None  # the marker's check reports it


async def test_a_file_deleted_during_its_read_is_not_suspect(resources: Resources) -> None:
    files = await store_files(resources, MOST_SUSPECTS + 1)

    async def delete_all() -> None:
        for file in files:
            await delete_file(resources, file.id, owner="ann")
        await remove(resources, *files)

    page = await queries.list_due(
        resources.pool,
        damaged=False,
        before=(await queries.ask_bounds(resources.pool, every=DAY * 0, damaged_every=DAY))[0],
        after=None,
        counter=0,
    )
    await delete_all()

    async def give_page() -> AsyncGenerator[queries.DueFile, None]:
        for file in page:
            yield file

    run = scrubber.Scrubber(resources, EVERYTHING)
    try:
        reads = run.read_all(give_page())
        found = [one async for judged in reads for one in await run.conclude(judged)]
        assert found + await run.mark_suspects() == []
    finally:
        run.rereader.close()
    assert {row["state"] for row in await resources.pool.fetch("SELECT state FROM files")} == {
        "deleted"
    }


async def test_only_files_that_are_due_are_read_the_oldest_first(resources: Resources) -> None:
    old, older, new = await store_files(resources, 3)
    for file, days in ((old, 31), (older, 32), (new, 29)):
        await resources.pool.execute(
            "UPDATE files SET final_at = now() - $2::interval WHERE id = $1",
            file.id,
            timedelta(days=days),
        )
    before, _ = await queries.ask_bounds(resources.pool, every=DAY * 30, damaged_every=DAY)
    page = await queries.list_due(
        resources.pool, damaged=False, before=before, after=None, counter=0
    )
    assert [one.id for one in page] == [older.id, old.id]
    await remove(resources, old, older, new)
    assert {one.file.id for one in await scrub_all(resources, MONTH)} == {old.id, older.id}
    assert (await find(resources, new)).state == State.READY


async def test_every_page_of_due_files_is_read(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PAGE", 2)
    files = await store_files(resources, 5)
    await resources.pool.execute("UPDATE files SET final_at = '2026-01-01'")
    await remove(resources, files[0])
    assert [one.file.id for one in await scrub_all(resources)] == [files[0].id]
    checked = await resources.pool.fetchval(
        "SELECT count(*) FROM files WHERE checked_at > final_at"
    )
    assert checked == 5


async def test_a_damaged_file_is_read_again_after_a_day(resources: Resources) -> None:
    file = await store_file(resources)
    await remove(resources, file)
    await scrub_all(resources)
    overwrite(resources, file, BODY)
    assert await scrub_all(resources, MONTH) == []
    await pass_time(resources.pool, DAY * 1.1)
    assert [one.what for one in await scrub_all(resources, MONTH)] == ["whole"]


async def test_one_process_scrubs_at_a_time(resources: Resources) -> None:
    file = await store_file(resources)
    await remove(resources, file)
    first = scrub(resources, EVERYTHING)
    async with contextlib.aclosing(first):
        assert (await anext(first)).what == "damaged"
        with pytest.raises(ScrubBusy):
            await scrub_all(resources)
        beside = msgspec.structs.replace(EVERYTHING, beside=True)
        assert [one.what for one in await scrub_all(resources, beside)] == ["still"]
    assert [one.what for one in await scrub_all(resources)] == ["still"]


async def test_an_interrupted_scrub_continues_with_the_rest(resources: Resources) -> None:
    files = await store_files(resources, 6)
    slow = msgspec.structs.replace(EVERYTHING, rate=len(BODY) * 4)
    running = asyncio.create_task(scrub_all(resources, slow))

    async def has_some() -> bool:
        count = await resources.pool.fetchval("SELECT count(*) FROM files WHERE proved_at IS NULL")
        return bool(0 < count < len(files))

    await until(has_some)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    left = await resources.pool.fetch("SELECT id FROM files WHERE proved_at IS NULL")
    assert 0 < len(left) < len(files)
    faulty, _, vault = watch(resources)
    await pass_time(resources.pool, DAY)
    await resources.pool.execute("UPDATE files SET checked_at = now() WHERE proved_at IS NOT NULL")
    day = msgspec.structs.replace(EVERYTHING, every=DAY / 2)
    assert await scrub_all(faulty, day) == []
    assert vault.calls["open"] == len(left)


async def test_a_read_that_takes_long_holds_up_no_other(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PAGE", 2)
    files = await store_files(resources, 7)
    faulty, _, vault = watch(resources)
    released = threading.Event()
    vault.only = {key_of_object(files[0])}

    def hold_up() -> None:
        assert released.wait(60)

    vault.before["open"] = hold_up
    running = asyncio.create_task(scrub_all(faulty))

    async def are_others_proved() -> bool:
        count = await resources.pool.fetchval("SELECT count(*) FROM files WHERE proved_at IS NULL")
        return bool(count == 1)

    await until(are_others_proved)
    released.set()
    assert await running == []
    assert await resources.pool.fetchval("SELECT bool_and(proved_at IS NOT NULL) FROM files")


async def test_a_worker_scrubs_by_itself(resources: Resources) -> None:
    file, lost = await store_file(resources), await store_file(resources, OTHER)
    await remove(resources, lost)
    settings = msgspec.structs.replace(resources.settings, scrub_every=timedelta(seconds=1))
    async with working(msgspec.structs.replace(resources, settings=settings)):

        async def is_done() -> bool:
            again = await resources.pool.fetchrow(TIMES, file.id)
            is_damaged = (await find(resources, lost)).state == State.DAMAGED
            return is_damaged and again["proved_at"] is not None

        await until(is_done)
    await check_damaged(resources, lost, "missing")


async def test_a_worker_waits_an_hour_after_a_stop(resources: Resources) -> None:
    file = await store_file(resources)
    await pass_time(resources.pool, DAY * 31)
    await queries.note_stop(resources.pool, "the store refused")
    await scrub_when_due(resources)
    assert (await resources.pool.fetchrow(TIMES, file.id))["proved_at"] is None
    await resources.pool.execute("UPDATE scrub SET stopped_at = stopped_at - interval '61 minutes'")
    await scrub_when_due(resources)
    assert (await resources.pool.fetchrow(TIMES, file.id))["proved_at"] is not None
    assert await read_stop(resources) is None


async def test_the_doctor_warns_if_the_interval_cannot_be_met(resources: Resources) -> None:
    await store_file(resources)
    await scrub_all(resources)
    (finding,) = await check_scrub(resources)
    assert finding.status == "ok"
    await resources.pool.execute("UPDATE scrub SET vault_bytes = 1::bigint << 50")
    (finding,) = await check_scrub(resources)
    assert finding.status == "warning"
    assert "ASSAY_SCRUB_RATE" in finding.what


def test_threads_that_share_a_pace_keep_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, waited = Pace(1000), []
    monkeypatch.setattr("service.clock.read_seconds", lambda: 50.0)

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return False

    monkeypatch.setattr(pace.stopped, "wait", wait)
    for _ in range(4):
        pace.wait(500)
    assert waited == [0, 0.5, 1.0, 1.5]


def test_a_waiting_read_ends_when_its_process_stops() -> None:
    pace = Pace(1)
    pace.wait(1000)
    pace.stopped.set()
    with pytest.raises(Stopped):
        pace.wait(1)
