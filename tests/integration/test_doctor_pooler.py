"""The doctor behind PgBouncer in transaction mode, if PgBouncer is installed on this machine."""

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from service.operations.doctor import events
from service.operations.doctor.database import check_listen
from service.settings import Secret, Settings
from tests.support.examining import changed, examine_all, failures
from tests.support.servers import free_port, wait_until

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed"),
]


@contextmanager
def start_pooler(database_url: str, folder: Path) -> Iterator[str]:
    """Run PgBouncer with two server connections, and yield its URL.

    PgBouncer refuses to run as root. If the tests run as root, it runs as the user `nobody`.
    """
    server, port = urlsplit(database_url), free_port()
    home = folder / f"pgbouncer-{secrets.token_hex(4)}"
    home.mkdir(mode=0o755)
    (home / "users").write_text(f'"{server.username}" "{server.password}"\n')
    (home / "ini").write_text(
        f"[databases]\n* = host={server.hostname} port={server.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {home}/users\n"
        "pool_mode = transaction\ndefault_pool_size = 2\n"
    )
    process = subprocess.Popen(
        [str(PGBOUNCER), "--quiet", str(home / "ini")],
        user="nobody" if os.geteuid() == 0 else None,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: accepts(port))
        yield server._replace(netloc=f"{server.username}@127.0.0.1:{port}").geturl()
    finally:
        process.terminate()
        process.wait(10)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def pooled(settings: Settings, folder: Path) -> Iterator[str]:
    with start_pooler(settings.database_url, folder) as url:
        yield url


async def test_a_listener_behind_the_pooler_is_found(settings: Settings, pooled: str) -> None:
    async with changed(
        settings, database_url=Secret(pooled), database_statement_cache=0
    ) as resources:
        (finding,) = await check_listen(resources)
    assert finding.status != "ok"
    assert "ASSAY_DATABASE_LISTEN_URL" in finding.advice


async def test_a_listener_that_bypasses_the_pooler_passes(
    settings: Settings, pooled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "EVENT_SECONDS", 0.0)
    around = Secret(settings.database_url)
    async with changed(
        settings,
        database_url=Secret(pooled),
        database_statement_cache=0,
        database_listen_url=around,
    ) as resources:
        found = await examine_all(resources)
    assert failures(found) == set()
    assert found["listen"].status == "ok"
