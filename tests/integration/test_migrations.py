"""The migrations, and the responses of a process to a schema of another version.

The migrations run from an empty database, and twice at once.
"""

import asyncio
import os
import re
import secrets
import sys
from collections.abc import Iterator

import asyncpg
import pytest

from service import database
from service.queries import files
from service.settings import DatabaseSettings, DatabaseUrl, Secret
from tests.conftest import execute, in_database
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def empty(admin_url: str) -> Iterator[DatabaseSettings]:
    name = f"assay_{secrets.token_hex(6)}"
    asyncio.run(execute(admin_url, f"CREATE DATABASE {name}"))
    yield DatabaseSettings(database_url=DatabaseUrl(Secret(in_database(admin_url, name))))
    asyncio.run(execute(admin_url, f"DROP DATABASE {name} WITH (FORCE)"))


async def version_of(settings: DatabaseSettings) -> str | None:
    connection = await asyncpg.connect(settings.database_url)
    try:
        return await database.read_version(connection)
    finally:
        await connection.close()


@pytest.mark.slow
async def test_two_deployments_at_once_migrate_once(empty: DatabaseSettings) -> None:
    assert await version_of(empty) is None
    assert [*await asyncio.gather(run_migrate(empty), run_migrate(empty))] == [0, 0]
    assert await version_of(empty) == database.expected_version()
    assert await run_migrate(empty) == 0


async def test_a_deployment_that_waits_for_another_keeps_no_transaction_open(
    empty: DatabaseSettings,
) -> None:
    """CREATE INDEX CONCURRENTLY of the first deployment would wait for that transaction."""
    first = await asyncpg.connect(empty.database_url)

    async def is_waiting_outside_a_transaction() -> bool:
        found: bool = await first.fetchval(
            """
            SELECT EXISTS (SELECT FROM pg_stat_activity
                           WHERE datname = current_database() AND pid <> pg_backend_pid()
                             AND query = 'COMMIT;' AND state = 'idle')
            """
        )
        return found

    try:
        await first.execute("SELECT pg_advisory_lock(7305124001)")
        second = asyncio.create_task(run_migrate(empty))
        await until(is_waiting_outside_a_transaction)
        assert not second.done()
    finally:
        await first.close()
    assert await second == 0


async def run_migrate(settings: DatabaseSettings) -> int:
    """Run `assay migrate` as a separate process, and return its exit status."""
    return (await call_migrate(settings.database_url))[0]


async def call_migrate(database_url: str) -> tuple[int, str]:
    """Run `assay migrate`, and return its exit status and its standard error."""
    environ = {**os.environ, "ASSAY_DATABASE_URL": database_url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "migrate", env=environ, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_a_database_url_with_parameters_is_migrated(empty: DatabaseSettings) -> None:
    assert await call_migrate(empty.database_url.partition("?")[0] + "?sslmode=disable") == (0, "")


async def test_a_role_that_may_not_create_tables_gets_an_error_of_one_line(
    empty: DatabaseSettings, admin_url: str
) -> None:
    role = f"reader_{secrets.token_hex(4)}"
    await execute(admin_url, f"CREATE ROLE {role} LOGIN PASSWORD 'hidden'")
    try:
        host = empty.database_url.rpartition("@")[2]
        status, said = await call_migrate(f"postgresql://{role}:hidden@{host}")
    finally:
        await execute(admin_url, f"DROP ROLE {role}")
    assert (status, said.count("\n")) == (1, 1)
    assert "permission denied" in said


async def test_a_newer_schema_is_reported_in_one_line(empty: DatabaseSettings) -> None:
    assert await run_migrate(empty) == 0
    await execute(empty.database_url, "UPDATE alembic_version SET version_num = '9999'")
    status, said = await call_migrate(empty.database_url)
    assert (status, said.count("\n")) == (3, 1)
    assert "upgrade" in said


async def test_a_transition_is_recorded_in_the_statement_that_makes_it(pool: asyncpg.Pool) -> None:
    await pool.execute(
        """
        INSERT INTO files (id, owner, filename, size, metadata, incoming_key, state, changed_by,
                           changed_why, expires_at, grace_until, due_at)
        VALUES (gen_random_uuid(), 'ann', 'a', 1, '{}', 'k', 'pending', 'client',
                'declared', now(), now(), now())
        """
    )
    await files.record_event(pool, "k")
    # The second event changes no state, so it is not recorded.
    await files.record_event(pool, "k")
    recorded = await pool.fetch(
        "SELECT state, previous, by, why FROM file_history ORDER BY sequence"
    )
    assert [tuple(row) for row in recorded] == [
        ("pending", None, "client", "declared"),
        ("verifying", "pending", "store", "the store reported the upload"),
    ]
    assert (
        await pool.fetchval(
            "SELECT count(*) FROM files WHERE changed_by IS NULL AND changed_why IS NULL"
        )
        == 1
    )


async def test_a_transition_without_an_author_fails(pool: asyncpg.Pool) -> None:
    insert = """
        INSERT INTO files (id, owner, filename, size, metadata, incoming_key, state, expires_at,
                           grace_until, due_at)
        VALUES (gen_random_uuid(), 'ann', 'a', 1, '{}', 'k', 'pending', now(), now(), now())
    """
    with pytest.raises(asyncpg.NotNullViolationError, match="by"):
        await pool.execute(insert)
    assert await pool.fetchval("SELECT count(*) FROM files") == 0


@pytest.mark.parametrize(("version", "said"), [("0000", "assay migrate"), ("9999", "upgrade")])
async def test_an_older_or_newer_schema_is_refused_with_advice(
    pool: asyncpg.Pool, version: str, said: str
) -> None:
    await database.check_version(pool)
    await pool.execute("UPDATE alembic_version SET version_num = $1", version)
    with pytest.raises(database.SchemaError, match=said):
        await database.check_version(pool)


async def test_an_empty_database_is_refused_with_advice(empty: DatabaseSettings) -> None:
    opened = await database.open_pool(empty)
    async with opened:
        with pytest.raises(database.SchemaError, match=r"empty.*assay migrate"):
            await database.check_version(opened)


async def test_every_check_constraint_has_a_name_that_was_chosen(pool: asyncpg.Pool) -> None:
    named = await pool.fetch(
        """
        SELECT conname FROM pg_constraint
        WHERE contype = 'c' AND connamespace = 'public'::regnamespace
        """
    )
    assert len(named) > 12
    assert not [row["conname"] for row in named if re.search(r"_check\d*$", row["conname"])]


async def test_every_constraint_holds_for_every_row(pool: asyncpg.Pool) -> None:
    assert await pool.fetch("SELECT conname FROM pg_constraint WHERE NOT convalidated") == []


def test_the_migrations_are_numbered_without_gaps() -> None:
    names = sorted(path.name[:4] for path in (database.find_migrations() / "versions").glob("*.py"))
    assert names == [f"{number:04}" for number in range(1, len(names) + 1)]
