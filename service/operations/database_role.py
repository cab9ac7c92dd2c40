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

CONNECT_SECONDS: Final = 10.0
STATEMENT_SECONDS: Final = 60.0
"""The time limit of a statement. A change of ownership waits for running statements."""
LOCK: Final = "SELECT pg_advisory_lock(7305124002)"  # for two bootstraps at the same time
RIGHTS: Final = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"


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
            await administrator.execute(LOCK)
            return [
                Step(f"role {role.name}", await ensure_role(administrator, role, database_url)),
                Step(f"database {role.database}", await ensure_database(administrator, role)),
                Step(f"owner of what {role.database} has", await own_contents(admin_url, role)),
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


FIND_ROLE: Final = """
    SELECT rolcanlogin AND NOT (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication
                                OR rolbypassrls)
    FROM pg_roles WHERE rolname = $1
"""


async def ensure_role(administrator: asyncpg.Connection, role: Role, database_url: str) -> Outcome:
    is_plain: bool | None = await administrator.fetchval(FIND_ROLE, role.name)
    if is_plain and await accepts_password(database_url):
        return "unchanged"
    verb = "CREATE" if is_plain is None else "ALTER"
    # A password cannot be a parameter of these statements, so PostgreSQL quotes it.
    statement = await administrator.fetchval(
        "SELECT format('%s ROLE %I %s PASSWORD %L', $1::text, $2::text, $3::text, $4::text)",
        *(verb, role.name, RIGHTS, role.password),
    )
    await administrator.execute(statement)
    return "created" if is_plain is None else "corrected"


async def accepts_password(database_url: str) -> bool:
    """Return whether the role can authenticate. The database need not exist yet."""
    try:
        async with connect(database_url):
            return True
    except asyncpg.InvalidCatalogNameError:
        return True
    except asyncpg.InvalidAuthorizationSpecificationError:  # the base class of a wrong password's
        return False


FIND_OWNER: Final = "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = $1"


async def ensure_database(administrator: asyncpg.Connection, role: Role) -> Outcome:
    owner: str | None = await administrator.fetchval(FIND_OWNER, role.database)
    if owner == role.name:
        return "unchanged"
    form = "CREATE DATABASE %I OWNER %I" if owner is None else "ALTER DATABASE %I OWNER TO %I"
    await administrator.execute(
        await administrator.fetchval(
            "SELECT format($1::text, $2::text, $3::text)", form, role.database, role.name
        )
    )
    return "created" if owner is None else "corrected"


# The schema belongs to `pg_database_owner`, which is the owner of the database, unless it comes
# from PostgreSQL 14 or older. Indexes, and the sequences of columns, follow their table. What
# belongs to an extension stays with it.
LIST_CHANGES_OF_OWNER: Final = """
    SELECT format('ALTER SCHEMA %I OWNER TO pg_database_owner', nspname)
    FROM pg_namespace
    WHERE nspname = 'public' AND pg_get_userbyid(nspowner) NOT IN ($1, 'pg_database_owner')
    UNION ALL
    SELECT format('ALTER TABLE %s OWNER TO %I', oid::regclass, $1::text)
    FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
      AND pg_get_userbyid(relowner) <> $1
      AND NOT EXISTS (SELECT FROM pg_depend
                      WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid
                        AND deptype = 'e')
    UNION ALL
    SELECT format('ALTER FUNCTION %s OWNER TO %I', oid::regprocedure, $1::text)
    FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace AND prokind = 'f'
      AND pg_get_userbyid(proowner) <> $1
      AND NOT EXISTS (SELECT FROM pg_depend
                      WHERE classid = 'pg_proc'::regclass AND objid = pg_proc.oid
                        AND deptype = 'e')
"""


async def own_contents(admin_url: str, role: Role) -> Outcome:
    """Make the role the owner of the tables and functions in the schema `public`.

    Each statement is a transaction, so that none holds the locks of several tables: processes of
    Assay may be running.
    """
    async with connect(admin_url, role.database) as administrator:
        changes = [row[0] for row in await administrator.fetch(LIST_CHANGES_OF_OWNER, role.name)]
        for statement in changes:
            await administrator.execute(statement)
    return "corrected" if changes else "unchanged"
