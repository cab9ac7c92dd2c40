"""Tests of a scrub and a reconciliation while the disk of MinIO or of PostgreSQL is full.

They end with a clear error, lose nothing, and damage no file that is whole. When there is space
again, they complete.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from service.resources import Resources
from service.worker.store_health import probe_store
from tests.e2e.bad_days import (
    MEDIUM,
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
from tests.support.own_databases import own_database
from tests.support.proxies import faulty_way
from tests.support.servers import genuine_minio
from tests.support.small_disks import SmallDisk, small_disk
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SECONDS = 60
ENTER = 'cd "$0" && exec "$@"'


async def lose_rows(place: Place, resources: Resources) -> list[str]:
    """Restore the database to a state without the last files, and return their ids."""
    await back_up(resources.pool)
    lost = await place.send_some()
    await place.run_well("sweep")  # no row will name the objects in incoming
    await raise_marker(place)
    await place.stop()
    await restore(resources.pool)
    await end_leases(resources.pool)
    return lost


async def scrub_while(place: Place, tmp_path: Path, resources: Resources, disk: SmallDisk) -> str:
    """Fill the disk while a scrub runs, and return what it complained about."""
    log = tmp_path / "scrub.log"
    words = ["scrub", "--all", "--rate", "300KiB"]
    with started(words, log, environ=place.site.environ) as scrub:
        await until(lambda: has_begun(resources))
        disk.fill()
        assert await asyncio.to_thread(scrub.wait, SECONDS) == 1
    return read_complaint(log.read_text())


# MinIO


@asynccontextmanager
async def minio_on(
    disk: SmallDisk, folder: Path, tmp_path: Path, database_url: str, patch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    """Run genuine MinIO with its data on the small disk."""
    binary = genuine_minio()
    assert binary is not None
    programs = tmp_path / "programs"
    programs.mkdir()
    script = programs / "minio"
    words = [*disk.enter(), "/bin/sh", "-c", f"'{ENTER}'", str(disk.folder), str(binary)]
    script.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    script.chmod(0o755)
    with patch.context() as patched:
        patched.setenv("PATH", str(programs), prepend=":")
        async with open_place(folder, tmp_path, database_url) as place:
            await place.start(worker=False)
            yield place


async def free_disk_of_store(disk: SmallDisk, resources: Resources) -> None:
    """Free the disk, and wait until MinIO has seen it. Until then, it refuses to write."""
    disk.free()

    async def can_write() -> bool:
        return await probe_store(resources) is None

    await until(can_write)


async def test_a_full_disk_of_the_store_loses_and_damages_nothing(
    folder: Path, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "small", "64m") as disk:
        async with (
            minio_on(disk, folder, tmp_path, database_url, monkeypatch) as place,
            place.look() as resources,
        ):
            objects = disk.reached / "data" / place.site.environ["ASSAY_VAULT_BUCKET"]
            # The scrub reads four at once, and comes to the last one seconds after the first.
            files = [await place.send(MEDIUM) for _ in range(10)]
            key = await find_key(resources.pool, files[-1])
            shutil.copytree(objects / key, tmp_path / "copy")
            assert damage_on_disk(objects, key, place.bodies[files[-1]])
            said = await scrub_while(place, tmp_path, resources, disk)
            # MinIO cannot read the object. The probe of the store cannot write.
            assert said.startswith("0 files damaged, 0 damaged still, 0 whole again; stopped: the")
            assert set((await list_states(resources.pool)).values()) == {"ready"}

            await free_disk_of_store(disk, resources)
            lost = await lose_rows(place, resources)
            disk.fill()
            before = await list_objects(resources)
            refused = await place.run("reconcile", "--adopt-as-recorded")
            assert refused.returncode == 1
            assert "; not finished: " in read_complaint(refused.stderr)
            await place.run_well("sweep")
            assert await list_objects(resources) == before
            assert set((await list_states(resources.pool)).values()) == {"ready"}

            await free_disk_of_store(disk, resources)
            await place.run_well("reconcile", "--adopt-as-recorded")
            assert (await place.run_well("scrub", "--all")).endswith(
                "1 files damaged, 0 damaged still, 0 whole again\n"
            )
            await place.start(worker=False)
            await place.check_damaged(files[-1])
            await place.check_files(files[-1])
            shutil.rmtree(objects / key)
            shutil.copytree(tmp_path / "copy", objects / key)
            await place.run_well("scrub", "--all")
            await place.check_files()
            await place.check_settled()
            assert lost


# PostgreSQL


async def test_a_full_disk_of_the_database_loses_and_damages_nothing(
    folder: Path, tmp_path: Path
) -> None:
    with own_database(folder) as (servers, database, stack):
        disk = stack.enter_context(small_disk(servers / "small", "160m"))
        database.start(max_wal_size="32MB", min_wal_size="32MB")
        database.stop()
        database.start_on(disk)
        async with open_place(folder, tmp_path, database.url) as place, place.look() as resources:
            await place.start(worker=False)
            for _ in range(6):
                await place.send(MEDIUM)
            log = tmp_path / "scrub.log"
            words = ["scrub", "--all", "--rate", "600KiB"]
            async with full_tables(database.url, disk, resources):
                with started(words, log, environ=place.site.environ) as scrub:
                    assert await asyncio.to_thread(scrub.wait, SECONDS) == 1
                said = read_complaint(log.read_text())
                assert "; stopped: the database is not available (DiskFullError)" in said
            assert set((await list_states(resources.pool)).values()) == {"ready"}
            assert (await place.run_well("scrub", "--all")).startswith("0 files damaged")

            lost = await lose_rows(place, resources)
            before = await list_objects(resources)
            async with full_tables(database.url, disk, resources):
                refused = await place.run("reconcile", "--adopt-as-recorded")
                assert refused.returncode == 1
                assert "; not finished: the database is not available (DiskFullError)" in (
                    read_complaint(refused.stderr)
                )
            await place.run_well("sweep")
            assert await list_objects(resources) == before
            await end_leases(resources.pool)
            said = await place.run_well("reconcile", "--adopt-as-recorded")
            assert f"{len(lost)} objects taken back, 0 files damaged" in said
            await place.start(worker=False)
            await place.check_files()
            await place.check_settled()
            await place.check_files()


@asynccontextmanager
async def full_tables(url: str, disk: SmallDisk, resources: Resources) -> AsyncIterator[None]:
    """Fill the disk, and all pages of `files`, so that no row can be changed or added.

    An open snapshot keeps the earlier versions of the rows, so that their space is not used again.
    """
    reader = await asyncpg.connect(url)
    try:
        async with reader.transaction(isolation="repeatable_read"):
            await reader.fetchval("SELECT count(*) FROM files")
            disk.fill()
            with pytest.raises(asyncpg.DiskFullError):
                await change_rows(resources.pool)
            yield
    finally:
        await reader.close()
        disk.free()


async def change_rows(pool: asyncpg.Pool) -> None:
    """Write new versions of all rows until there is no space for more."""
    while True:
        await pool.execute("UPDATE files SET checked_at = checked_at")


async def test_a_database_that_dies_of_a_full_disk_loses_nothing(
    folder: Path, tmp_path: Path
) -> None:
    """Fill the disk of the write-ahead log, without which PostgreSQL ends."""
    with own_database(folder) as (servers, database, stack):
        disk = stack.enter_context(small_disk(servers / "small", "160m"))
        database.start(max_wal_size="32MB", min_wal_size="32MB")
        database.stop()
        database.start_on(disk)
        way, url = stack.enter_context(faulty_way(database.url))
        async with open_place(folder, tmp_path, url) as place:
            await place.start(worker=False)
            for _ in range(12):  # the scrub reads for seconds after the first
                await place.send(MEDIUM)
            async with place.look() as resources:
                damaged = await place.send()
                key = await find_key(resources.pool, damaged)
                await resources.vault.delete(key)
            log = tmp_path / "scrub.log"
            words = ["scrub", "--all", "--rate", "300KiB"]
            with started(words, log, environ=place.site.environ) as scrub:
                async with place.look() as resources:
                    await until(lambda: has_begun(resources))
                disk.fill()
                await write_log(database.url)
                assert await asyncio.to_thread(scrub.wait, SECONDS) == 1
            assert "; stopped: the database is not available (" in read_complaint(log.read_text())
            refused = await place.run("reconcile")
            assert refused.returncode == 1
            assert read_complaint(refused.stderr)

            way.cut()
            database.stop()
            disk.free()
            database.start_on(disk)
            way.lead_to(database.address)
            way.restore()
            said = await place.run_well("scrub", "--all")
            assert said.endswith(" damaged still, 0 whole again\n")
            await place.run_well("reconcile")
            await place.check_damaged(damaged)
            await place.check_files(damaged)
            assert (await place.client.delete(f"/files/{damaged}")).status_code == 204
            await place.check_settled()
            await place.check_files(damaged)


async def write_log(url: str) -> None:
    """Write more log than there is space for. The server ends all connections then."""
    connection = await asyncpg.connect(url)
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await fill_log(connection)
    connection.terminate()


async def fill_log(connection: asyncpg.Connection) -> None:
    while True:
        await connection.execute("SELECT pg_logical_emit_message(true, '', repeat('x', 4000000))")
