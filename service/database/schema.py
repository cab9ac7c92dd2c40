"""The schema: its migrations, and the version that this code needs."""

import asyncio
import importlib.resources
import re
from pathlib import Path
from typing import Final

import asyncpg

from service.queries.history import rebase_history
from service.settings import DatabaseSettings

VERSION: Final = "SELECT version_num FROM alembic_version"


class SchemaError(Exception):
    """The error of a database whose schema is not the one that this code needs."""


def find_migrations() -> Path:
    """Return the folder of the migrations.

    It is inside the package if Assay was installed from a wheel, and beside it in a checkout.
    """
    package = Path(str(importlib.resources.files("service")))
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def expected_version() -> str:
    """Return the schema version that this code needs, which is that of its newest migration."""
    names = (
        re.match(r"(\d{4})_", path.name) for path in (find_migrations() / "versions").glob("*.py")
    )
    return max(match[1] for match in names if match)


async def read_version(database: asyncpg.Pool | asyncpg.Connection) -> str | None:
    """Return the schema's version, or None if the database was never migrated."""
    try:
        version: str | None = await database.fetchval(VERSION)
    except asyncpg.UndefinedTableError:
        return None
    return version


async def check_version(database: asyncpg.Pool | asyncpg.Connection) -> None:
    """Check that the schema is the one that this code needs. Raises SchemaError if it is not."""
    found, expected = await read_version(database), expected_version()
    if found != expected:
        newer = (
            "either it is newer than this version of assay, which must then be upgraded,"
            " or it is older than 0.1.0 and cannot be migrated"
        )
        what = "run `assay migrate` first" if found is None or found < expected else newer
        raise SchemaError(
            f"the database's schema is {found or 'empty'},"
            f" but this version of assay needs {expected}: {what}"
        )


async def migrate(settings: DatabaseSettings) -> None:
    """Upgrade the schema to the newest version, and rebase the history of a restored dump.

    Two processes may run this at once. Raises SchemaError if the schema is newer than this code,
    and the errors of asyncpg.
    """
    await asyncio.to_thread(run_alembic, settings.listen_url)
    connection = await asyncpg.connect(settings.listen_url, timeout=5)
    try:
        await rebase_history(connection)
    finally:
        await connection.close()


def run_alembic(url: str) -> None:
    """Run the missing migrations.

    Raises SchemaError if the schema is newer than this code, and the errors of asyncpg.
    """
    # These imports take 100 ms, and only `migrate` needs them.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    config = Config()
    config.set_main_option("script_location", str(find_migrations()).replace("%", "%%"))
    # asyncpg parses the URL. SQLAlchemy would interpret `sslmode` and several hosts differently.
    config.attributes["url"] = url
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise SchemaError(
            "this version of assay has no migration for the database's schema:"
            f" upgrade assay ({error})"
        ) from error
    except DBAPIError as error:
        raise (
            error.orig.__cause__
            if error.orig is not None and error.orig.__cause__ is not None
            else error
        ) from None
