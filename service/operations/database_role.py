"""The preparation of PostgreSQL: a role that owns Assay's database and has no other rights.

The administrator's URL is used here alone. The role, its password and the database are those that
ASSAY_DATABASE_URL names. Like the rest of bootstrap, this creates what is missing and corrects what
differs: an earlier installation, whose tables belong to a superuser, is handed to the role.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import unquote, urlsplit

import asyncpg
import msgspec

from service.database import UNREACHABLE
from service.operations.steps import BootstrapError, Outcome, Step
from service.queries import roles

CONNECT_SECONDS: Final = 10.0
STATEMENT_SECONDS: Final = 60.0
"""The time limit of a statement. A change of ownership waits for running statements."""


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """The role and the database that ASSAY_DATABASE_URL names."""

    name: str
    password: str
    database: str

    def __repr__(self) -> str:
        return f"Role({self.name}, {self.database})"


def read_role(database_url: str) -> Role:
    """Return the role that the URL names. Raises BootstrapError."""
    url = urlsplit(database_url)
    role = Role(
        name=unquote(url.username or ""),
        password=unquote(url.password or ""),
        database=unquote(url.path.removeprefix("/")),
    )
    if not (role.name and role.password and role.database):
        raise BootstrapError(
            "ASSAY_DATABASE_URL must name the role, its password and the database that are to be"
            " created, as postgresql://user:password@host/database"
        )
    return role


async def prepare_database(admin_url: str, database_url: str) -> list[Step]:
    """Prepare the role and its database, and return the steps. Raises BootstrapError."""
    role = read_role(database_url)
    if role.name == unquote(urlsplit(admin_url).username or ""):
        raise BootstrapError(
            "ASSAY_DATABASE_URL and ASSAY_DATABASE_ADMIN_URL must name different roles,"
            " because Assay needs no rights of an administrator"
        )
    try:
        async with connect(admin_url) as administrator:
            await roles.lock_preparation(administrator)
            return [
                Step(f"role {role.name}", await ensure_role(administrator, role, database_url)),
                Step(f"database {role.database}", await ensure_database(administrator, role)),
                Step(
                    f"owner of what {role.database} has",
                    await ensure_owner_of_contents(admin_url, role),
                ),
            ]
    except (asyncpg.PostgresError, *UNREACHABLE) as error:
        what, *_ = str(error).splitlines() or [""]
        raise BootstrapError(
            f"a statement of PostgreSQL's administrator failed: {type(error).__name__}: {what};"
            " check that the server runs, and check ASSAY_DATABASE_ADMIN_URL and its role's rights"
        ) from error


@contextlib.asynccontextmanager
async def connect(url: str, database: str | None = None) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the URL's database, or to another one of its server."""
    connection = await asyncpg.connect(
        url, database=database, timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS
    )
    try:
        yield connection
    finally:
        await connection.close()


async def ensure_role(administrator: asyncpg.Connection, role: Role, url: str) -> Outcome:
    is_plain = await roles.is_plain_role(administrator, role.name)
    if is_plain and await accepts_password(url):
        return "unchanged"
    await roles.put_role(administrator, role.name, role.password, exists=is_plain is not None)
    return "created" if is_plain is None else "corrected"


async def accepts_password(url: str) -> bool:
    """Return whether the role can authenticate. It may have no database yet, or no access to it."""
    try:
        async with connect(url):
            return True
    except (asyncpg.InvalidCatalogNameError, asyncpg.InsufficientPrivilegeError):
        return True
    except asyncpg.InvalidAuthorizationSpecificationError:  # the base class of a wrong password's
        return False


async def ensure_database(administrator: asyncpg.Connection, role: Role) -> Outcome:
    owner = await roles.find_database_owner(administrator, role.database)
    if owner == role.name:
        return "unchanged"
    await roles.put_database(administrator, role.database, role.name, exists=owner is not None)
    return "created" if owner is None else "corrected"


async def ensure_owner_of_contents(admin_url: str, role: Role) -> Outcome:
    async with connect(admin_url, role.database) as administrator:
        changes = await roles.own_contents(administrator, role.name)
    return "corrected" if changes else "unchanged"
