"""Fixtures for every test: one PostgreSQL a session, a fresh migrated database a test."""

import asyncio
import os
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
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

pytest_plugins = ["tests.support.stores", "tests.support.presigned", "tests.support.running"]

STARTED_ONCE = ("test_client_alone.py", "test_dev.py", "test_floods.py", "test_readme.py")
"""Modules whose fixtures are worth waiting for: `assay dev`, `assay serve`, and installations."""
TEMPLATE = f"assay_template_{os.getpid()}"  # one a test process: they may share a server


def pytest_sessionstart(session: pytest.Session) -> None:
    """Genuine MinIO is built before any test's time-out runs, and once for all of xdist's processes.

    A shell starts its background jobs with SIGINT ignored, and every program inherits that. Tests interrupt programs.
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
    """Keeps together what shares something dear. xdist's own way, the mark `xdist_group`, does nothing under pytest 9.2 (xdist 3.8)."""

    def _split_scope(self, nodeid: str) -> str:
        if "[external" in nodeid:
            return "external"  # a store of somebody's own has one place for its events
        module = nodeid.partition("::")[0]
        if "e2e/page/" in module:
            return "page"  # one browser, one after the other
        return module if module.endswith(STARTED_ONCE) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return Scheduling(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    kinds, used = store_kinds(), database_kind()
    terminalreporter.write_line(
        f"stores tested: {', '.join(kinds)}; not tested: {', '.join(sorted({*STORES} - {*kinds})) or 'none'}"
    )
    others = [kind for kind in ("external", "docker", "embedded") if kind != used]
    terminalreporter.write_line(f"databases tested: {used}; not tested: {', '.join(others)}")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A place that other users can pass: as root, PostgreSQL runs as nobody, and below pytest's own folder it could not."""
    with tempfile.TemporaryDirectory(prefix="assay-tests-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="session")
def admin_url(folder: Path) -> Iterator[str]:
    """PostgreSQL, by a role that may create databases; the template is migrated once."""
    with start_test_database(folder / "database") as url:
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
    """The same server, another database.

    One on this machine is not asked whether it speaks TLS: cancelled in the middle of that question, asyncpg drops an exception.
    """
    parts = urlsplit(url)
    query = parts.query or (
        "sslmode=disable" if parts.hostname in ("127.0.0.1", "localhost") else ""
    )
    return parts._replace(path=f"/{name}", query=query).geturl()


@pytest.fixture
def database_url(admin_url: str) -> Iterator[str]:
    """A fresh database with the schema, gone after the test."""
    name = f"assay_{secrets.token_hex(6)}"
    asyncio.run(execute(admin_url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
    yield in_database(admin_url, name)
    asyncio.run(execute(admin_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    pool = await database.open_pool(
        DatabaseSettings(database_url=DatabaseUrl(Secret(database_url)))
    )
    yield pool
    await pool.close()
