"""The servers of a benchmark run: genuine MinIO, and PostgreSQL with fsync, both on a real disk.

Each row gets its own site on them.
"""

import asyncio
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from service.embedded import Webhook, start_postgres
from service.object_store.presign import Signer
from service.operations.bootstrap import bootstrap
from service.settings import Deployment, Settings
from tests.benchmarks.costs import Costs
from tests.benchmarks.hand import Hand
from tests.conftest import TEMPLATE, execute, in_database, make_template
from tests.e2e.commands import STOP_SECONDS, clean_environment
from tests.e2e.conftest import new_key
from tests.support.environments import make_environment
from tests.support.processes import find_filesystem
from tests.support.running import make_settings
from tests.support.servers import free_port, genuine_minio, start_test_store, wait_until
from tests.support.stores import REGION, WEBHOOK_ID, StoreUnderTest, new_deployment, under_test

GIB = 1024**3
NEEDED_BYTES = 24 * GIB


class NotPossible(Exception):
    """The error for a missing prerequisite of the benchmarks."""


@dataclass(frozen=True)
class Ground:
    """The servers of the run. `quick` selects small sizes and few rounds.

    `objects` is the number of objects in the vault of the rows that list it, if it was given.
    """

    store: StoreUnderTest
    database_url: str = field(repr=False)
    database_pid: int
    folder: Path
    quick: bool
    objects: int | None = None

    def choose(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    @contextmanager
    def new_site(self, *, reader: bool = False) -> Iterator["Site"]:
        """Yield a site with new buckets, identities, database and key, and no process yet.

        With `reader`, it has the identity for nginx. The processes that are started for the site
        are stopped at the end.
        """
        name = f"assay_{secrets.token_hex(6)}"
        asyncio.run(execute(self.database_url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
        deployment = new_deployment(self.store, reader=reader)
        bootstrap(deployment)
        settings = make_settings(deployment, self.store, in_database(self.database_url, name))
        key = asyncio.run(
            new_key(settings, "benchmark", scopes=("read", "write"), expires_in=timedelta(days=1))
        )
        with ExitStack() as stack:
            yield Site(self, settings, deployment, key, make_hand(deployment), stack)
        asyncio.run(execute(self.database_url, f"DROP DATABASE {name} WITH (FORCE)"))


@dataclass(frozen=True)
class Site:
    """One deployment, and the processes that were started for it."""

    ground: Ground
    settings: Settings = field(repr=False)
    deployment: Deployment = field(repr=False)
    key: str = field(repr=False)
    hand: Hand = field(repr=False)
    stack: ExitStack = field(repr=False)
    address: str = ""
    """The address by which clients reach the API, or nothing if they reach it directly."""

    @property
    def url(self) -> str:
        """Return the address of the API for clients."""
        return self.address or f"http://127.0.0.1:{self.ground.store.webhook_port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def measure_costs(self, **processes: int) -> Costs:
        """Return a meter of these processes, the store and PostgreSQL."""
        store = self.ground.store.pid
        assert store is not None
        return Costs({**processes, "store": store, "PostgreSQL": self.ground.database_pid})

    def start_api(self, *arguments: str, more: Mapping[str, str] | None = None) -> int:
        """Start `assay serve` with these variables in addition, and return its process id."""
        return self.start(
            "service",
            "serve",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.ground.store.webhook_port),
            *arguments,
            url=self.url,
            more=more,
        )

    def start_worker(self) -> int:
        return self.start("service", "worker", url=None)

    def start_worker_alone(self) -> tuple[int, Callable[[], None]]:
        """Start `assay worker`. Return its process id, and a function that stops it."""
        stack = ExitStack()
        alone = replace(self, stack=self.stack.enter_context(stack))
        return alone.start_worker(), stack.close

    def start_neighbour(self, which: str) -> tuple[str, int]:
        """Start one of the applications to compare with. Return its address and process id."""
        url = f"http://127.0.0.1:{free_port()}"
        port = url.rpartition(":")[2]
        return url, self.start("tests.benchmarks.neighbours", which, port, url=url)

    def start_another_api(self, environ: Mapping[str, str]) -> str:
        """Start a second `assay serve --no-worker` with these variables, and return its address.

        The store sends no events to it.
        """
        url = f"http://127.0.0.1:{free_port()}"
        self.start(
            "service",
            "serve",
            "--host",
            "127.0.0.1",
            "--port",
            url.rpartition(":")[2],
            "--no-worker",
            url=url,
            more=environ,
        )
        return url

    def start(
        self, module: str, *arguments: str, url: str | None, more: Mapping[str, str] | None = None
    ) -> int:
        """Start a process with this site's environment, and wait until it is ready.

        A process with a `url` is ready when it answers there, and a worker when it logs its start.
        """
        log = self.ground.folder / "processes.log"
        begun = log.read_text().count("worker started") if log.exists() else 0
        process = self.stack.enter_context(
            started(
                module,
                *arguments,
                environ={**make_environment(self.settings), **(more or {})},
                log=log,
            )
        )

        def is_up() -> bool:
            assert process.poll() is None, log.read_text()[-2000:]
            return is_ready(url) if url else log.read_text().count("worker started") > begun

        wait_until(is_up)
        return process.pid

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        answer = httpx.request(method, self.url + path, headers=self.headers, json=body, timeout=90)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def declare(self, size: int, *, multipart: bool = False) -> Any:
        about = {
            "filename": "benchmark.bin",
            "size": size,
            "content_type": "application/octet-stream",
            "multipart": multipart,
        }
        return self.call("POST", "/files", about)

    def complete(self, file_id: str) -> Any:
        """Wait until the file is ready, and return its metadata."""
        file = self.call("POST", f"/files/{file_id}/complete?wait=50")
        while file["state"] == "verifying":
            file = self.call("GET", f"/files/{file_id}/metadata?wait=50")
        assert file["state"] == "ready", file
        return file


@contextmanager
def open_ground(*, quick: bool, objects: int | None = None) -> Iterator[Ground]:
    """Start the servers. Raises NotPossible if a program or disk space is missing."""
    binary = genuine_minio()
    if binary is None:
        raise NotPossible(
            "Benchmarks run over genuine MinIO: put `minio`, `silo` or `go` on the PATH."
        )
    for program in ("curl", "openssl"):
        if shutil.which(program) is None:
            raise NotPossible(f"Benchmarks need `{program}` on the PATH.")
    with (
        tempfile.TemporaryDirectory(prefix="assay-benchmarks-", ignore_cleanup_errors=True) as name,
        ExitStack() as stack,
    ):
        folder = Path(name)
        check_disk(folder)
        folder.chmod(0o711)  # as root, PostgreSQL is run as the user `nobody`
        webhook = Webhook(f"http://127.0.0.1:{free_port()}/webhooks/minio", secrets.token_hex(16))
        store = stack.enter_context(
            start_test_store("minio", folder / "store", {WEBHOOK_ID: webhook})
        )
        postgres = stack.enter_context(start_postgres(folder / "database", fsync=True))
        asyncio.run(make_template(postgres.url))
        yield Ground(under_test(store, webhook), postgres.url, postgres.pid, folder, quick, objects)


def check_disk(folder: Path) -> None:
    if find_filesystem(folder) in ("tmpfs", "ramfs"):
        raise NotPossible(
            f"{folder.parent} is in memory and not on a disk: set TMPDIR to a folder on a disk."
        )
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise NotPossible(
            f"{folder.parent} has {free // GIB} GiB of free space;"
            f" the benchmarks need {NEEDED_BYTES // GIB}."
        )


def make_hand(deployment: Deployment) -> Hand:
    """Return a Hand with root's credentials, and create its bucket beside those of the service."""
    signer = Signer(
        deployment.s3_endpoint,
        access_key=deployment.s3_root_access_key,
        secret_key=deployment.s3_root_secret_key,
        region=REGION,
    )
    bucket = f"plain-{secrets.token_hex(4)}"
    made = httpx.put(
        signer.presign("PUT", None, key=bucket, issued_at=datetime.now(UTC), expires_in_seconds=60)
    )
    assert made.is_success, made.text
    return Hand(signer, bucket)


@contextmanager
def started(
    module: str, *arguments: str, environ: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process. At the end it is asked to stop, and killed if it does not."""
    with log.open("a") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=output,
            stderr=output,
            env={**clean_environment(), **environ},
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=2).status_code == 200
    except httpx.TransportError:
        return False
