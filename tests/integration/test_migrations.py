"""The migrations themselves: from empty, twice at once, and what a process says of a schema that is not its own."""

import asyncio
import os
import re
import secrets
import sys
from collections.abc import Iterator

import asyncpg
import pytest

from service import database
from service.settings import DatabaseSettings, Secret
from tests.conftest import execute, in_database

pytestmark = pytest.mark.anyio


@pytest.fixture
def empty(admin_url: str) -> Iterator[DatabaseSettings]:
    name = f"assay_{secrets.token_hex(6)}"
    asyncio.run(execute(admin_url, f"CREATE DATABASE {name}"))
    yield DatabaseSettings(database_url=Secret(in_database(admin_url, name)))
    asyncio.run(execute(admin_url, f"DROP DATABASE {name} WITH (FORCE)"))


async def version_of(settings: DatabaseSettings) -> str | None:
    connection = await asyncpg.connect(settings.database_url)
    try:
        return await database.read_version(connection)
    finally:
        await connection.close()


async def test_two_deployments_at_once_migrate_once(empty: DatabaseSettings) -> None:
    assert await version_of(empty) is None
    assert [*await asyncio.gather(run_migrate(empty), run_migrate(empty))] == [0, 0]
    assert await version_of(empty) == database.expected_version()
    assert await run_migrate(empty) == 0


async def run_migrate(settings: DatabaseSettings) -> int:
    """`assay migrate` as a process of its own; its exit status."""
    environ = {**os.environ, "ASSAY_DATABASE_URL": settings.database_url}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "service", "migrate", env=environ)
    return await process.wait()


@pytest.mark.parametrize(("version", "said"), [("0000", "assay migrate"), ("9999", "upgrade")])
async def test_an_older_or_newer_schema_is_refused_with_what_to_do(pool: asyncpg.Pool, version: str, said: str) -> None:
    await database.check_version(pool)
    await pool.execute("UPDATE alembic_version SET version_num = $1", version)
    with pytest.raises(database.SchemaError, match=said):
        await database.check_version(pool)


async def test_an_empty_database_is_refused_with_what_to_do(empty: DatabaseSettings) -> None:
    opened = await database.open_pool(empty)
    async with opened:
        with pytest.raises(database.SchemaError, match=r"empty.*assay migrate"):
            await database.check_version(opened)


async def test_every_constraint_has_a_name_of_its_own(pool: asyncpg.Pool) -> None:
    named = await pool.fetch("SELECT conname FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace")
    assert len(named) > 12
    assert not [row["conname"] for row in named if re.search(r"_check\d*$", row["conname"])]


def test_the_migrations_are_numbered_without_gaps() -> None:
    names = sorted(path.name[:4] for path in (database.find_migrations() / "versions").glob("*.py"))
    assert names == [f"{number:04}" for number in range(1, len(names) + 1)]
