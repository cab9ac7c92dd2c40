"""Fixtures and hooks for every test, and how tests are spread over the processes of xdist.

There is one PostgreSQL server per process, and one migrated database per test.
"""

import asyncio
import os
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]  # it ships no types
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # as above

from service import database
from service.settings import DatabaseSettings, DatabaseUrl, Secret
from tests.support.servers import (
    STORES,
    database_kind,
    find_obstacle,
    genuine_minio,
    start_test_database,
    store_kinds,
)

pytest_plugins = [
    "tests.support.stores",
    "tests.support.presigned",
    "tests.support.running",
    "tests.support.methods",
]

ONE_PROCESS = ("test_client_alone.py", "test_dev.py", "test_floods.py", "test_readme.py")
"""Modules whose fixtures are expensive: `assay dev`, `assay serve`, and installations."""
TEMPLATE = f"assay_template_{os.getpid()}"  # one per process, because processes may share a server


def pytest_sessionstart(session: pytest.Session) -> None:
    """Build genuine MinIO before any test's time limit begins, and once for all processes.

    Also restore the default disposition of SIGINT, because tests interrupt programs. A shell starts
    its background jobs with SIGINT ignored, and every program inherits that.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(session.config, "workerinput") or session.config.option.collectonly:
        return
    if obstacle := find_obstacle():
        pytest.exit(obstacle, returncode=pytest.ExitCode.USAGE_ERROR)
    if "minio" in store_kinds():
        try:
            genuine_minio()
        except RuntimeError as error:
            pytest.exit(str(error), returncode=pytest.ExitCode.INTERNAL_ERROR)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # as above
    """A distribution of tests over processes, which keeps tests with a common expensive fixture
    together.

    It takes the place of the mark `xdist_group`, which has no effect under pytest 9.2 (xdist 3.8).
    """

    def _split_scope(self, nodeid: str) -> str:
        if "[external" in nodeid:
            return "external"  # an external store has one webhook for the API under test
        module = nodeid.partition("::")[0]
        if "behind_nginx" in module:
            return "nginx"  # one server, one store and one API of each kind
        if "e2e/page/" in module or module.endswith(ONE_PROCESS):
            return module
        return nodeid


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests that are marked `slow` begin first, so that the session does not end with them."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return Scheduling(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    kinds, used = store_kinds(), database_kind()
    missing = ", ".join(sorted({*STORES} - {*kinds})) or "none"
    terminalreporter.write_line(f"stores tested: {', '.join(kinds)}; not tested: {missing}")
    others = [kind for kind in ("external", "docker", "embedded") if kind != used]
    terminalreporter.write_line(f"databases tested: {used}; not tested: {', '.join(others)}")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Yield a folder that other users can pass through.

    Below pytest's own folder, PostgreSQL could not run: under root, it runs as the user `nobody`.
    """
    with tempfile.TemporaryDirectory(prefix="assay-tests-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="session")
def admin_url() -> Iterator[str]:
    """Yield the URL of PostgreSQL with a role that may create databases.

    The template of the tests' databases is migrated once.
    """
    with start_test_database() as url:
        asyncio.run(make_template(url))
        yield url
        asyncio.run(execute(url, f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)"))


async def make_template(url: str) -> None:
    await execute(url, f"DROP DATABASE IF EXISTS {TEMPLATE}")
    await execute(url, f"CREATE DATABASE {TEMPLATE}")
    await database.migrate(
        DatabaseSettings(database_url=DatabaseUrl(Secret(in_database(url, TEMPLATE))))
    )


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def in_database(url: str, name: str) -> str:
    """Return the URL of another database of the same server.

    TLS is disabled for a server on this machine. If a task is cancelled while asyncpg negotiates
    TLS, asyncpg leaves an exception that is never retrieved.
    """
    parts = urlsplit(url)
    query = parts.query or (
        "sslmode=disable" if parts.hostname in ("127.0.0.1", "localhost") else ""
    )
    return parts._replace(path=f"/{name}", query=query).geturl()


@pytest.fixture(scope="session")
def administer(admin_url: str) -> Iterator[Callable[[str], None]]:
    """Yield a function that executes a statement. All tests use the same connection."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(admin_url))

        def execute_now(statement: str) -> None:
            runner.run(connection.execute(statement))

        yield execute_now
        runner.run(connection.close())


@pytest.fixture
def database_url(admin_url: str, administer: Callable[[str], None]) -> Iterator[str]:
    """Yield the URL of a new database with the schema, which is dropped after the test."""
    name = f"assay_{secrets.token_hex(6)}"
    administer(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield in_database(admin_url, name)
    administer(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    pool = await database.open_pool(
        DatabaseSettings(database_url=DatabaseUrl(Secret(database_url)))
    )
    yield pool
    await pool.close()
