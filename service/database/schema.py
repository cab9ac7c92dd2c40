"""The schema: the migrations, and the version that this code needs."""

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
    """The database's schema is not the one this code was written for."""


def find_migrations() -> Path:
    """The folder of the migrations: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(str(importlib.resources.files("service")))
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def expected_version() -> str:
    """The newest migration that this code came with."""
    names = (
        re.match(r"(\d{4})_", path.name) for path in (find_migrations() / "versions").glob("*.py")
    )
    return max(match[1] for match in names if match)


async def read_version(database: asyncpg.Pool | asyncpg.Connection) -> str | None:
    """The schema's version; None: never migrated."""
    try:
        version: str | None = await database.fetchval(VERSION)
    except asyncpg.UndefinedTableError:
        return None
    return version


async def check_version(database: asyncpg.Pool | asyncpg.Connection) -> None:
    """Raises SchemaError if the schema is not the one that this code needs."""
    found, expected = await read_version(database), expected_version()
    if found != expected:
        newer = "it is newer than this assay, which has to be upgraded, or from before 0.1.0, which nothing migrates"
        what = "run `assay migrate` first" if found is None or found < expected else newer
        raise SchemaError(
            f"the database's schema is {found or 'empty'}, this assay needs {expected}: {what}"
        )


async def migrate(settings: DatabaseSettings) -> None:
    """Bring the schema to the newest version, and rebase the history of a restored dump. Two processes may do it at once."""
    await asyncio.to_thread(run_alembic, settings.listen_url)
    connection = await asyncpg.connect(settings.listen_url, timeout=5)
    try:
        await rebase_history(connection)
    finally:
        await connection.close()


def run_alembic(url: str) -> None:
    """Run the migrations that are missing. Raises SchemaError if the schema is newer than this code, and what asyncpg raises."""
    from alembic import command  # 100 ms that only `migrate` should pay
    from alembic.config import Config  # as above
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    config = Config()
    config.set_main_option("script_location", str(find_migrations()).replace("%", "%%"))
    config.attributes["url"] = (
        url  # asyncpg's to read: SQLAlchemy would take `sslmode` and several hosts for something else
    )
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise SchemaError(
            f"the database's schema is not one that this assay came with: upgrade it ({error})"
        ) from error
    except DBAPIError as error:
        raise (
            error.orig.__cause__
            if error.orig is not None and error.orig.__cause__ is not None
            else error
        ) from None
