"""The role and the database that `assay bootstrap` prepares in PostgreSQL."""

import asyncio
import secrets
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import asyncpg
import msgspec
import pytest

from service import database
from service.operations.database_role import prepare_database
from service.operations.steps import BootstrapError
from service.resources import open_worker_resources
from service.settings import DatabaseSettings, DatabaseUrl, Secret, Settings
from service.worker.sweeper import sweep
from tests.conftest import execute, in_database

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]


@pytest.fixture
def role() -> str:
    """Return a name that has to be quoted, for a role and its database."""
    return f'Assay "{secrets.token_hex(4)}"'


@pytest.fixture
def role_url(admin_url: str, role: str) -> Iterator[str]:
    """Yield the URL of a role and a database that do not exist yet."""
    yield make_url(admin_url, role, password="it's a \\ p%ssword")
    asyncio.run(execute(admin_url, f"DROP DATABASE IF EXISTS {quoted(role)} WITH (FORCE)"))
    asyncio.run(execute(admin_url, f"DROP ROLE IF EXISTS {quoted(role)}"))


def make_url(admin_url: str, role: str, *, password: str) -> str:
    place = urlsplit(admin_url).netloc.rpartition("@")[2]
    user = f"{quote(role, safe='')}:{quote(password, safe='')}"
    return f"postgresql://{user}@{place}/{quote(role, safe='')}?sslmode=disable"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def outcomes(admin_url: str, role_url: str) -> list[str]:
    return [step.outcome for step in await prepare_database(admin_url, role_url)]


async def ask(url: str, question: str, *arguments: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(question, *arguments)]
    finally:
        await connection.close()


FIND_RIGHTS = """
    SELECT rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls
    FROM pg_roles WHERE rolname = $1
"""
NO_RIGHTS = (True, False, False, False, False, False)
LIST_OWNERS = """
    SELECT DISTINCT pg_get_userbyid(owner)::text
    FROM (SELECT relowner FROM pg_class WHERE relnamespace = 'public'::regnamespace
          UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = 'public'::regnamespace
          UNION ALL SELECT datdba FROM pg_database WHERE datname = current_database())
         AS objects (owner)
"""


async def test_a_role_without_rights_gets_a_database_of_its_own(
    admin_url: str, role_url: str, role: str
) -> None:
    assert await outcomes(admin_url, role_url) == ["created", "created", "unchanged"]
    assert await ask(role_url, FIND_RIGHTS, role) == [NO_RIGHTS]
    assert await outcomes(admin_url, role_url) == ["unchanged"] * 3


async def test_two_bootstraps_at_once_prepare_one_role(admin_url: str, role_url: str) -> None:
    both = await asyncio.gather(outcomes(admin_url, role_url), outcomes(admin_url, role_url))
    assert sorted(both) == [["created", "created", "unchanged"], ["unchanged"] * 3]


async def test_the_role_migrates_its_database_and_a_worker_runs_with_it(
    admin_url: str, role_url: str, role: str, settings: Settings
) -> None:
    await prepare_database(admin_url, role_url)
    own = DatabaseUrl(Secret(role_url))
    await database.migrate(DatabaseSettings(database_url=own))
    assert await ask(role_url, LIST_OWNERS) == [(role,)]
    async with open_worker_resources(
        msgspec.structs.replace(settings, database_url=own)
    ) as resources:
        await database.check_version(resources.pool)
        await sweep(resources)


async def test_tables_of_a_superuser_are_handed_to_the_role(
    admin_url: str, role_url: str, role: str
) -> None:
    await execute(admin_url, f"CREATE DATABASE {quoted(role)}")
    earlier = in_database(admin_url, quote(role, safe=""))
    await database.migrate(DatabaseSettings(database_url=DatabaseUrl(Secret(earlier))))
    [(superuser,)] = await ask(earlier, "SELECT session_user::text")
    assert await ask(earlier, LIST_OWNERS) == [(superuser,)]
    assert await outcomes(admin_url, role_url) == ["created", "corrected", "corrected"]
    assert await ask(role_url, LIST_OWNERS) == [(role,)]
    await database.migrate(DatabaseSettings(database_url=DatabaseUrl(Secret(role_url))))
    assert await outcomes(admin_url, role_url) == ["unchanged"] * 3


async def test_a_changed_password_and_excessive_rights_are_corrected(
    admin_url: str, role_url: str, role: str
) -> None:
    await prepare_database(admin_url, role_url)
    await execute(admin_url, f"ALTER ROLE {quoted(role)} SUPERUSER")
    assert await outcomes(admin_url, role_url) == ["corrected", "unchanged", "unchanged"]
    assert await ask(role_url, FIND_RIGHTS, role) == [NO_RIGHTS]
    changed = make_url(admin_url, role, password="another")
    assert (await outcomes(admin_url, changed))[0] == "corrected"
    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask(role_url, "SELECT 1")
    assert await ask(changed, "SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    ("database_url", "said"),
    [
        ("postgresql://h/assay", "must name the role"),
        ("postgresql://assay:p@h", "must name the role"),
        ("postgresql://root:p@h/assay", "must name different roles"),
    ],
)
async def test_urls_that_name_no_role_of_their_own_are_refused(
    database_url: str, said: str
) -> None:
    with pytest.raises(BootstrapError, match=said):
        await prepare_database("postgresql://root:q@h/postgres", database_url)


async def test_an_administrator_without_rights_gets_an_error_of_one_line(
    admin_url: str, role_url: str, role: str
) -> None:
    await prepare_database(admin_url, role_url)
    with pytest.raises(BootstrapError, match="InsufficientPrivilege") as caught:
        await prepare_database(role_url, make_url(admin_url, "assay_other", password="p"))
    assert "\n" not in str(caught.value)
