"""PostgreSQL: the pool, its codecs, the schema's version, the migrations."""

import asyncio
import importlib.resources
import re
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from service.queries.history import rebase_history
from service.settings import DatabaseSettings

UNREACHABLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InvalidAuthorizationSpecificationError,  # a password that was changed: somebody will mend it
    asyncpg.InvalidCatalogNameError,
    asyncpg.OperatorInterventionError,  # starting, stopping, cancelled
    asyncpg.InsufficientResourcesError,  # connections, disk, memory
    asyncpg.ReadOnlySQLTransactionError,  # a standby answers until the new primary has the name
)
"""What asyncpg raises when the database is away or cannot serve, and not when a statement is wrong."""


class SchemaError(Exception):
    """The database's schema is not the one this code was written for."""


async def open_pool(settings: DatabaseSettings) -> asyncpg.Pool:
    """A pool that connects when it is first used, so that a process starts while the database is away.

    No statement of ours changes a session, so connections go back without a reset query.
    """
    return await asyncpg.create_pool(
        settings.database_url,
        min_size=0,
        max_size=settings.database_pool_size,
        statement_cache_size=settings.database_statement_cache,
        timeout=5,
        command_timeout=5,  # no transaction of ours takes as long
        init=set_codecs,
        reset=do_nothing,
    )


async def set_codecs(connection: asyncpg.Connection) -> None:
    """jsonb as Python values."""
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=encode_json, decoder=msgspec.json.decode)


def encode_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


async def do_nothing(_: asyncpg.Connection) -> None:
    """In place of asyncpg's reset query."""


def find_migrations() -> Path:
    """The folder of the migrations: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(str(importlib.resources.files("service")))
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def expected_version() -> str:
    """The newest migration that this code came with."""
    names = (re.match(r"(\d{4})_", path.name) for path in (find_migrations() / "versions").glob("*.py"))
    return max(match[1] for match in names if match)


VERSION: Final = "SELECT version_num FROM alembic_version"


async def read_version(database: asyncpg.Pool | asyncpg.Connection) -> str | None:
    """The schema's version; None: never migrated."""
    try:
        version: str | None = await database.fetchval(VERSION)
    except asyncpg.UndefinedTableError:
        return None
    return version


async def check_version(database: asyncpg.Pool | asyncpg.Connection) -> None:
    """SchemaError when the database is older or newer than this code."""
    found, expected = await read_version(database), expected_version()
    if found != expected:
        what = "run `assay migrate` first" if found is None or found < expected else "this assay is older than the database: upgrade it"
        raise SchemaError(f"the database's schema is {found or 'empty'}, this assay needs {expected}: {what}")


async def migrate(settings: DatabaseSettings) -> None:
    """Bring the schema to the newest version; safe when two do it at once (migrations/env.py). A restored history is mended."""
    await asyncio.to_thread(run_alembic, settings.listen_url)
    connection = await asyncpg.connect(settings.listen_url, timeout=5)
    try:
        await rebase_history(connection)
    finally:
        await connection.close()


def run_alembic(url: str) -> None:
    """Raises SchemaError over a schema that is newer than this code, and what asyncpg raises."""
    from alembic import command  # 100 ms that only `migrate` should pay
    from alembic.config import Config  # as above
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    config = Config()
    config.set_main_option("script_location", str(find_migrations()).replace("%", "%%"))
    config.attributes["url"] = url  # asyncpg's to read: SQLAlchemy would take `sslmode` and several hosts for something else
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise SchemaError(f"the database's schema is not one that this assay came with: upgrade it ({error})") from error
    except DBAPIError as error:
        raise (error.orig.__cause__ if error.orig is not None and error.orig.__cause__ is not None else error) from None
