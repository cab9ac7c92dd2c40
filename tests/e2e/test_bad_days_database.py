"""Tests of a database that was restored or has failed over, over genuine MinIO.

PostgreSQL is replicated and restored by its own programs. No file that was `ready` may be lost, and
nothing may be deleted before `assay reconcile` has run, although workers run.
"""

import os
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest

from tests.conftest import in_database
from tests.e2e.bad_days import (
    SMALL,
    Place,
    end_leases,
    list_objects,
    open_place,
    raise_marker,
)
from tests.e2e.jobs import complete, declare, put
from tests.support.own_databases import OwnDatabase, copy_folder, own_database
from tests.support.proxies import FaultyProxy, faulty_way
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

HOUR_AGO = "an_hour_ago"
FAILED_OVER = "the database was restored, or has failed over to a standby"
EARLIER = "the database was restored to an earlier state than the vault has"


async def execute(url: str, statement: str, *values: object) -> object:
    """Execute one statement, and return its first value."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement, *values)
    finally:
        await connection.close()


async def no_incoming(place: Place) -> None:
    """Wait until the sweeper has deleted all incoming objects."""
    async with place.look() as resources:

        async def is_empty() -> bool:
            return not (await list_objects(resources))[0]

        await until(is_empty)


async def test_an_acknowledged_file_survives_a_failover(folder: Path, tmp_path: Path) -> None:
    """Promote a standby that lacks the last commits: files that were told to be `ready`."""
    with own_database(folder) as (servers, primary, stack):
        primary.start()
        way, url = stack.enter_context(faulty_way(primary.url))
        replication, replica_url = stack.enter_context(faulty_way(primary.url))
        async with open_place(folder, tmp_path, url) as place:
            await place.start()
            await place.send_some()
            standby = OwnDatabase(
                primary.back_up(servers / "standby", "-R", url=replica_url), stack
            )
            standby.start_standby()
            body = os.urandom(SMALL)
            declared = await declare(place.client, body)
            await wait_for_replay(primary, standby)
            replication.cut()
            await put(declared, body)
            file = await complete(place.client, declared)
            place.keep(file["id"], body, file["state"])
            lost = await place.send_some()
            await no_incoming(place)
            way.cut()
            primary.stop()
            await execute(standby.url, "SELECT pg_promote()")
            assert await execute(standby.url, "SELECT id FROM files WHERE id = $1", lost[0]) is None
            way.lead_to(standby.address)
            way.restore()
            # These processes have run since before the failover.
            await until(lambda: answers(place))
            vault = await list_vault(place)
            sent = [await place.send_streamed() for _ in range(4)]
            assert len((await list_vault(place)) - vault) == len(sent)
            await place.check_nothing_is_deleted()
            await place.stop()
            await place.start()
            await place.check_stopped(FAILED_OVER)
            await place.check_nothing_is_deleted()
            said = await place.run_well("reconcile", "--adopt-as-recorded")
            assert f"{1 + len(lost)} objects taken back, 0 files damaged" in said
            await place.check_files()
            await place.check_settled()
            await place.send_some()
            await place.check_files()


async def answers(place: Place) -> bool:
    return (await place.client.get("/files?limit=1")).status_code == 200


async def list_vault(place: Place) -> set[str]:
    """Return the keys in the vault."""
    async with place.look() as resources:
        return (await list_objects(resources))[1]


async def wait_for_replay(primary: OwnDatabase, standby: OwnDatabase) -> None:
    """Wait until the standby has everything that the primary has."""
    written = await execute(primary.url, "SELECT pg_current_wal_lsn()::text")

    async def has_it() -> bool:
        return bool(
            await execute(
                standby.url, "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written
            )
        )

    await until(has_it)


# Restored to a point in time


class Archive:
    """The archived log of a server and its copy, of which it can be restored to HOUR_AGO."""

    def __init__(self, servers: Path, primary: OwnDatabase, stack: ExitStack) -> None:
        self.servers = servers
        self.primary = primary
        self.stack = stack
        self.wal = servers / "archive"
        self.restores = 0

    def start(self) -> None:
        self.primary.start()
        self.primary.stop()
        home = self.primary.data.stat()
        self.wal.mkdir(mode=0o700)
        os.chown(self.wal, home.st_uid, home.st_gid)
        self.primary.start(archive_mode="on", archive_command=f"cp %p {self.wal}/%f")

    async def mark(self) -> None:
        """Copy the running server, and name this point in time HOUR_AGO."""
        self.primary.back_up(self.servers / "base")
        await execute(self.primary.url, f"SELECT pg_create_restore_point('{HOUR_AGO}')::text")

    def restore(self) -> OwnDatabase:
        """Bring the server back to HOUR_AGO on another disk. The primary must be stopped."""
        self.restores += 1
        folder = copy_folder(self.servers / "base", self.servers / f"restored-{self.restores}")
        restored = OwnDatabase(folder, self.stack)
        signal = restored.data / "recovery.signal"
        signal.touch()
        home = restored.data.stat()
        os.chown(signal, home.st_uid, home.st_gid)
        restored.start(
            restore_command=f"cp {self.wal}/%f %p",
            recovery_target_name=HOUR_AGO,
            recovery_target_timeline="current",
            recovery_target_action="promote",
        )
        return restored


async def bring_back(place: Place, archive: Archive, way: FaultyProxy) -> OwnDatabase:
    """Restore the database as docs/operations.md says: without any process of Assay."""
    await place.stop()
    way.cut()
    restored = archive.restore()
    way.lead_to(restored.address)
    way.restore()
    await place.start()
    return restored


async def test_a_restore_to_an_hour_ago_deletes_nothing(folder: Path, tmp_path: Path) -> None:
    with own_database(folder) as (servers, primary, stack):
        archive = Archive(servers, primary, stack)
        archive.start()
        way, url = stack.enter_context(faulty_way(primary.url))
        async with open_place(folder, tmp_path, url) as place:
            await place.start()
            await place.send_some()
            gone = await place.send()
            body = os.urandom(SMALL)
            declared = await declare(place.client, body)
            await archive.mark()
            await put(declared, body)
            file = await complete(place.client, declared)
            place.keep(file["id"], body, file["state"])
            newer = await place.send_some()
            assert (await place.client.delete(f"/files/{gone}")).status_code == 204
            await no_incoming(place)
            await until_purged(place, gone)
            await place.stop()
            primary.stop()
            await bring_back(place, archive, way)
            assert (await place.client.get(f"/files/{newer[0]}")).status_code == 404
            await place.check_stopped(FAILED_OVER)
            await place.check_nothing_is_deleted()
            said = await place.run_well("reconcile")
            assert f"1 files damaged, 0 whole again, {len(newer)} objects without a row" in said
            await place.check_damaged(gone)
            await check_objects_stay(place)
            said = await place.run_well("reconcile", "--adopt-as-recorded")
            assert f"{len(newer)} objects taken back, 0 files damaged" in said
            await place.check_files(gone)
            assert (await place.client.delete(f"/files/{gone}")).status_code == 204
            await place.check_settled()
            await place.check_files(gone)


async def until_purged(place: Place, file_id: str) -> None:
    async with place.look() as resources:

        async def is_purged() -> bool:
            purge_at = "SELECT purge_at IS NULL FROM files WHERE id = $1"
            return bool(await resources.pool.fetchval(purge_at, file_id))

        await until(is_purged)


async def check_objects_stay(place: Place) -> None:
    """Check that sweeps leave the objects alone that no row names."""
    async with place.look() as resources:
        before = (await list_objects(resources))[1]
        await place.run_well("sweep")
        assert (await list_objects(resources))[1] == before


@pytest.mark.parametrize("between", [True, False], ids=["reconciled", "not reconciled"])
async def test_a_second_restore_deletes_nothing(
    folder: Path, tmp_path: Path, between: bool
) -> None:
    with own_database(folder) as (servers, primary, stack):
        archive = Archive(servers, primary, stack)
        archive.start()
        way, url = stack.enter_context(faulty_way(primary.url))
        async with open_place(folder, tmp_path, url) as place:
            await place.start()
            await place.send_some()
            await archive.mark()
            await place.send_some()
            await no_incoming(place)
            await place.stop()
            primary.stop()
            first = await bring_back(place, archive, way)
            if between:
                async with place.look() as resources:
                    await end_leases(resources.pool)
                await place.run_well("reconcile", "--adopt-as-recorded")
                await place.check_files()
                await place.send_some()
                await no_incoming(place)
            await place.stop()
            first.stop()
            await bring_back(place, archive, way)
            await place.check_stopped(FAILED_OVER)
            await place.check_nothing_is_deleted()
            await place.run_well("reconcile", "--adopt-as-recorded")
            await place.check_files()
            await place.check_settled()
            await place.check_files()


# Restored from a dump


@pytest.mark.parametrize(
    ("how", "reason"), [("dump", FAILED_OVER), ("template", EARLIER)], ids=["dump", "template"]
)
async def test_an_old_copy_in_a_new_database_deletes_nothing(
    folder: Path, tmp_path: Path, how: str, reason: str
) -> None:
    """Restore a copy by `pg_dump`, or one that has the same identity as its original."""
    with own_database(folder) as (servers, primary, _):
        primary.start()
        async with open_place(folder, tmp_path, primary.url) as place:
            await place.start()
            await place.send_some()
            await place.stop()
            await raise_marker(place)
            await copy_database(primary, servers, how)
            await place.start()
            newer = await place.send_some()
            await raise_marker(place)
            await no_incoming(place)
            await place.stop()
            place.site.environ["ASSAY_DATABASE_URL"] = in_database(primary.url, "restored")
            await place.run_well("migrate")
            await place.start()
            await place.check_stopped(reason)
            await place.check_nothing_is_deleted()
            said = await place.run_well("reconcile", "--adopt-as-recorded")
            assert f"{len(newer)} objects taken back, 0 files damaged" in said
            await place.check_files()
            await place.check_settled()
            await place.send_some()
            await place.check_files()


async def copy_database(primary: OwnDatabase, servers: Path, how: str) -> None:
    """Copy the database to one of the name `restored`."""
    if how == "template":
        postgres = in_database(primary.url, "postgres")
        await execute(postgres, "CREATE DATABASE restored TEMPLATE assay")
        return
    await execute(primary.url, "CREATE DATABASE restored")
    dump = primary.folder / "postgres" / "dump"
    primary.run_program("pg_dump", ["-Fc", "-f", dump, "-d", primary.url])
    primary.run_program(
        "pg_restore", ["-d", in_database(primary.url, "restored"), "--exit-on-error", dump]
    )
