"""The statements of PostgreSQL's administrator, which prepare the role that owns Assay's database.

Names and passwords cannot be parameters of these statements, so PostgreSQL quotes them first.
"""

from typing import Final

import asyncpg

LOCK: Final = "SELECT pg_advisory_lock(7305124002)"


async def lock_preparation(administrator: asyncpg.Connection) -> None:
    """Wait until no other bootstrap prepares this server. The lock lasts as long as the session."""
    await administrator.execute(LOCK)


IS_PLAIN: Final = """
    SELECT rolcanlogin AND NOT (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication
                                OR rolbypassrls)
    FROM pg_roles WHERE rolname = $1
"""


async def is_plain_role(administrator: asyncpg.Connection, name: str) -> bool | None:
    """Return whether the role can log in and has no special rights, or None if it is missing."""
    plain: bool | None = await administrator.fetchval(IS_PLAIN, name)
    return plain


PUT_ROLE: Final = """
    SELECT format('%s ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS'
                  ' PASSWORD %L', $1::text, $2::text, $3::text)
"""


async def put_role(
    administrator: asyncpg.Connection, name: str, password: str, *, exists: bool
) -> None:
    """Create the role, or correct its password and take its special rights away."""
    verb = "ALTER" if exists else "CREATE"
    await administrator.execute(await administrator.fetchval(PUT_ROLE, verb, name, password))


FIND_OWNER: Final = "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = $1"


async def find_database_owner(administrator: asyncpg.Connection, database: str) -> str | None:
    """Return the owner of the database, or None if it is missing."""
    owner: str | None = await administrator.fetchval(FIND_OWNER, database)
    return owner


PUT_DATABASE: Final = """
    SELECT format(CASE WHEN $3 THEN 'ALTER DATABASE %I OWNER TO %I'
                       ELSE 'CREATE DATABASE %I OWNER %I' END, $1::text, $2::text)
"""


async def put_database(
    administrator: asyncpg.Connection, database: str, owner: str, *, exists: bool
) -> None:
    """Create the database, or change its owner."""
    await administrator.execute(await administrator.fetchval(PUT_DATABASE, database, owner, exists))


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


async def own_contents(administrator: asyncpg.Connection, owner: str) -> int:
    """Make the role the owner of the tables and functions in the schema `public` of this database.

    Return the number of changes. Each is a transaction, so that none holds the locks of several
    tables: processes of Assay may be running.
    """
    changes = [row[0] for row in await administrator.fetch(LIST_CHANGES_OF_OWNER, owner)]
    for statement in changes:
        await administrator.execute(statement)
    return len(changes)
