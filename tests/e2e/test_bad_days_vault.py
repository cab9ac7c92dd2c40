"""Tests of a vault that lost objects or has other bytes, over the disk of genuine MinIO."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from service.marker import MARKER_KEY
from service.object_store import Bucket
from service.resources import Resources
from tests.e2e.bad_days import (
    MEDIUM,
    SMALL,
    Place,
    end_leases,
    find_key,
    has_begun,
    list_objects,
    list_states,
    open_place,
    raise_marker,
    read_complaint,
)
from tests.e2e.commands import started
from tests.support.backups import back_up, restore
from tests.support.damage import damage_on_disk
from tests.support.invariants import check_invariants
from tests.support.objects import put_object
from tests.support.proxies import FaultyProxy, faulty_way
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
SECONDS = 60


@pytest.fixture
async def place(folder: Path, tmp_path: Path, database_url: str) -> AsyncIterator[Place]:
    async with open_place(folder, tmp_path, database_url) as opened:
        await opened.start(worker=False)
        yield opened


# Objects that change on the disk


def flip(objects: Path, key: str, body: bytes) -> None:
    assert damage_on_disk(objects, key, body)


def shorten(objects: Path, key: str, _: bytes) -> None:
    """Cut the end of the file that holds the bytes: `xl.meta`, or that of the only part."""
    [*parts] = (objects / key).rglob("part.1")
    path = parts[0] if parts else objects / key / "xl.meta"
    os.truncate(path, path.stat().st_size - 100)


def remove(objects: Path, key: str, _: bytes) -> None:
    shutil.rmtree(objects / key)


def remove_metadata(objects: Path, key: str, _: bytes) -> None:
    (objects / key / "xl.meta").unlink()


def swap(objects: Path, key: str, _: bytes) -> None:
    """Replace the object by another one."""
    other = next(one for one in objects.iterdir() if one.name not in (key, MARKER_KEY))
    shutil.rmtree(objects / key)
    shutil.copytree(other, objects / key)


DAMAGES: tuple[Callable[[Path, str, bytes], None], ...] = (
    flip,
    shorten,
    swap,
    remove,
    remove_metadata,
)


@pytest.mark.parametrize("size", [SMALL, MEDIUM], ids=["inlined", "in parts"])
async def test_objects_altered_on_the_disk_are_found(
    place: Place, tmp_path: Path, size: int
) -> None:
    files = [await place.send(size) for _ in DAMAGES]
    whole = [await place.send_streamed(size) for _ in range(3)]
    objects, copy = place.vault_folder, tmp_path / "copy"
    async with place.look() as resources:
        keys = {file: await find_key(resources.pool, file) for file in files}
    for key in keys.values():
        shutil.copytree(objects / key, copy / key)
    for damage, file in zip(DAMAGES, files, strict=True):
        damage(objects, keys[file], place.bodies[file])
    said = await place.run_well("scrub", "--all")
    assert said.endswith(f"{len(files)} files damaged, 0 damaged still, 0 whole again\n"), said
    await place.check_damaged(*files)
    await place.check_files(*files)
    for key in keys.values():
        shutil.rmtree(objects / key, ignore_errors=True)
        shutil.copytree(copy / key, objects / key)
    said = await place.run_well("scrub", "--all")
    assert said.endswith(f"0 files damaged, 0 damaged still, {len(files)} whole again\n"), said
    assert whole
    await place.check_files()
    await place.check_settled()


# A vault that was restored or emptied


async def test_a_vault_of_yesterday_damages_what_it_lacks(place: Place, tmp_path: Path) -> None:
    old = await place.send_some()
    gone = await place.send()
    copy = tmp_path / "yesterday"
    async with place.look() as resources:
        gone_key = await find_key(resources.pool, gone)
        shutil.copytree(place.vault_folder, copy)
        await raise_marker(place)
        assert (await place.client.delete(f"/files/{gone}")).status_code == 204
        await place.run_well("sweep")
        newer = await place.send_some()
        kept = {file: await find_key(resources.pool, file) for file in newer}
        assert gone_key not in (await list_objects(resources))[1]
        replace_contents(place.vault_folder, copy)
        said = await place.run_well("reconcile")
        assert f"orphan    {gone_key}" in said
        assert f"{len(newer)} files damaged, 0 whole again, 1 objects without a row" in said
        await place.check_damaged(*newer)
        await place.check_files(*newer, gone)
        for file, key in kept.items():
            await write_in_parts(resources.vault, key, place.bodies[file])
        said = await place.run_well("reconcile")
        assert f"0 files damaged, {len(newer)} whole again" in said
        await place.check_files(gone)
        await resources.vault.delete(gone_key)
        await check_invariants(resources)
    assert old


def replace_contents(folder: Path, copy: Path) -> None:
    """Replace the objects of a bucket on the disk by those of a copy."""
    for found in folder.iterdir():
        shutil.rmtree(found)
    shutil.copytree(copy, folder, dirs_exist_ok=True)


async def write_in_parts(vault: Bucket, key: str, body: bytes) -> None:
    """Write the object by a multipart upload, as a mirror does. It has another ETag then."""
    upload = await vault.create_upload(
        key, content_type="text/plain", metadata={}, tags={}, timeout_seconds=20
    )
    part = await asyncio.to_thread(vault.put_part, key, upload, 1, body, timeout_seconds=20)
    await vault.complete_upload(key, upload, [(1, part)])


async def test_an_emptied_vault_damages_no_file(place: Place, tmp_path: Path) -> None:
    await place.send_some()
    copy = tmp_path / "copy"
    shutil.copytree(place.vault_folder, copy)
    async with place.look() as resources:
        for key in [*(await list_objects(resources))[1], MARKER_KEY]:
            await resources.vault.delete(key)
        await place.stop()
        await place.start()
        await place.check_stopped("the vault has no marker")
        states = await list_states(resources.pool)
        await place.check_nothing_is_deleted()
        refused = await place.run("reconcile")
        assert refused.returncode == 1
        assert "the vault has no marker" in refused.stderr
        assert await list_states(resources.pool) == states
        replace_contents(place.vault_folder, copy)
        assert (await place.run_well("scrub", "--all")).startswith("0 files damaged")
    await place.check_files()
    await place.stop()
    await place.start()
    assert (await place.client.get("/health/ready?full=1")).status_code == 200
    await place.check_settled()


# Commands that are killed, or lose their store


async def kill_after(place: Place, tmp_path: Path, server: str, marker: str, *words: str) -> None:
    """Run the command, and kill it when the server has got a request with `marker`.

    The request is passed on, and its response is not.
    """
    variable = {"store": "ASSAY_S3_ENDPOINT", "database": "ASSAY_DATABASE_URL"}[server]
    log = tmp_path / "killed.log"
    with faulty_way(place.site.environ[variable]) as (way, url):
        way.silence_after(marker.format_map(place.site.environ).encode())
        environ = {**place.site.environ, variable: url}
        with started(words, log, environ=environ) as command:
            assert await asyncio.to_thread(way.silenced.wait, SECONDS), (marker, log.read_text())
            command.kill()


SCRUB_STEPS = (
    ("store", f"GET /{{ASSAY_VAULT_BUCKET}}/{MARKER_KEY}"),
    ("database", "SET vault_bytes"),
    ("database", "'ready' AND coalesce(checked_at, final_at) <="),
    ("store", "GET /{ASSAY_VAULT_BUCKET}/"),
    ("database", "vault_etag = $3, proved_at = now()"),
    ("database", "SET state = 'damaged'"),
    ("database", "SET stopped_at"),
)


async def test_a_killed_scrub_can_be_repeated(place: Place, tmp_path: Path) -> None:
    files = await place.send_some()
    whole = await place.send_some()
    async with place.look() as resources:
        await overwrite(resources, files[0])
        await resources.vault.delete(await find_key(resources.pool, files[1]))
        await resources.pool.execute("UPDATE scrub SET stopped_at = now(), stopped_why = 'test'")
        for server, marker in SCRUB_STEPS:
            await resources.pool.execute("UPDATE scrub SET measured_at = NULL")
            await kill_after(place, tmp_path, server, marker, "scrub", "--all")
            await place.check_files(*files[:2])
            await check_states(resources, whole, {"ready"})
            await check_states(resources, files[:2], {"ready", "damaged"})
        await place.run_well("scrub", "--all")
        await place.check_damaged(*files[:2])
        await place.check_files(*files[:2])
        assert await resources.pool.fetchval("SELECT stopped_why FROM scrub") is None
        await check_invariants(resources)


async def overwrite(resources: Resources, file: str) -> None:
    key = await find_key(resources.pool, file)
    await asyncio.to_thread(put_object, resources.vault, key, os.urandom(SMALL))


async def check_states(resources: Resources, files: list[str], allowed: set[str]) -> None:
    states = await list_states(resources.pool)
    assert {states[file] for file in files} <= allowed


RECONCILE_STEPS = (
    ("store", f"GET /{{ASSAY_VAULT_BUCKET}}/{MARKER_KEY}"),
    ("store", "HEAD /{ASSAY_VAULT_BUCKET}/"),
    ("store", "list-type=2"),
    ("database", "SET state = 'damaged'"),
    ("database", "INSERT INTO reservations (vault_key, file_id, owner, lease"),
    ("database", "kept AS"),
    ("database", "SET counter = greatest(counter, $1) + 1"),
    ("store", f"PUT /{{ASSAY_VAULT_BUCKET}}/{MARKER_KEY}"),
)


async def test_a_killed_reconcile_can_be_repeated(place: Place, tmp_path: Path) -> None:
    files = await place.send_some()
    async with place.look() as resources:
        await back_up(resources.pool)
        lost = await place.send_some()
        await place.run_well("sweep")  # no row will name the objects in incoming
        await raise_marker(place)
        await overwrite(resources, files[0])
        await resources.vault.delete(await find_key(resources.pool, files[1]))
        await place.stop()
        await restore(resources.pool)
        await end_leases(resources.pool)
        for server, marker in RECONCILE_STEPS:
            before = (await list_objects(resources))[1]
            await kill_after(place, tmp_path, server, marker, "reconcile", "--adopt-as-recorded")
            await place.run_well("sweep")
            assert (await list_objects(resources))[1] == before
            await check_states(resources, files[2:], {"ready"})
            await check_states(resources, files[:2], {"ready", "damaged"})
        await place.run_well("reconcile", "--adopt-as-recorded")
        await place.start()
        await place.check_damaged(*files[:2])
        await place.check_files(*files[:2])
        assert lost
        await check_invariants(resources)
        for file in files[:2]:
            assert (await place.client.delete(f"/files/{file}")).status_code == 204
    await place.check_settled()
    await place.check_files(*files[:2])


FAULTS: Mapping[str, Callable[[FaultyProxy], None]] = {
    "is cut off": FaultyProxy.cut,
    "answers 403": lambda way: way.fail(FORBIDDEN),
    "answers 503": FaultyProxy.fail,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_store_that_fails_in_a_scrub_damages_no_file(
    place: Place, tmp_path: Path, fault: str
) -> None:
    for _ in range(10):  # the scrub reads for seconds after the first
        await place.send(MEDIUM)
    log = tmp_path / "scrub.log"
    async with place.look() as resources:
        with faulty_way(place.site.environ["ASSAY_S3_ENDPOINT"]) as (way, url):
            environ = {**place.site.environ, "ASSAY_S3_ENDPOINT": url}
            words = ["scrub", "--all", "--rate", "300KiB"]
            with started(words, log, environ=environ) as scrub:
                await until(lambda: has_begun(resources))
                FAULTS[fault](way)
                assert await asyncio.to_thread(scrub.wait, SECONDS) == 1
        said = read_complaint(log.read_text())
        assert said.startswith("0 files damaged, 0 damaged still, 0 whole again; stopped: the")
        left = await resources.pool.fetch("SELECT FROM files WHERE proved_at IS NULL")
        assert left, "the scrub had ended before the fault"
        assert (await place.run_well("scrub", "--all")).startswith("0 files damaged")
        await place.check_files()
        assert not await resources.pool.fetch("SELECT FROM files WHERE proved_at IS NULL")
