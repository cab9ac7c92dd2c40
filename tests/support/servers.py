"""The stores and databases that the tests run on.

They are servers that already run, containers of Docker, genuine MinIO, or the embedded servers.
Environment variables choose among them:

    ASSAY_TEST_S3_ENDPOINT      a running store; ACCESS_KEY and SECRET_KEY are its root credentials
    ASSAY_TEST_S3_ACCESS_KEY
    ASSAY_TEST_S3_SECRET_KEY
    ASSAY_TEST_WEBHOOK_PORT     the webhooks of a running store (see below)
    ASSAY_TEST_API_PORT
    ASSAY_TEST_WEBHOOK_TOKEN
    ASSAY_TEST_DATABASE_URL     a running PostgreSQL, with a role that may create databases
    ASSAY_TEST_DOCKER=1         take PostgreSQL from Docker too
    ASSAY_TEST_SILO_IMAGE       images to use instead of the pinned ones
    ASSAY_TEST_POSTGRES_IMAGE
    ASSAY_TEST_STORES           the kinds of stores to use, comma-separated
    CI                          if set, the session fails unless genuine MinIO is tested

A running store must have two webhook targets on this machine, both with that token, which has at
least 32 characters. The tests themselves take events from the target `ASSAY` at
http://127.0.0.1:WEBHOOK_PORT/webhooks/minio. The API under test takes them from the target `API`,
which has the same path at API_PORT.

`python -m tests.support.servers` builds genuine MinIO, which takes minutes the first time, and
prints its path.
"""

import fcntl
import functools
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from service.embedded import RootCredentials, Webhook, start_postgres, start_store
from service.embedded.processes import answers, any_free_port, bound
from service.embedded.store import (
    MINIO_VARIABLES,
    keep_root_credentials,
    root_variables,
    webhook_variables,
)

TEMPORARY: Final = Path("/tmp")  # noqa: S108  # each folder in it gets a random name
MEMORY: Final = Path("/dev/shm")  # noqa: S108  # as above
DATABASE_BYTES: Final = 1024**3
"""More than the data of one server: about 200 MB."""
MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
MINIO_BUILD_SECONDS = 1200
STORES = ("external", "docker", "minio", "embedded")
EXTERNAL_STORE = tuple(
    f"ASSAY_TEST_{name}"
    for name in (
        "S3_ENDPOINT",
        "S3_ACCESS_KEY",
        "S3_SECRET_KEY",
        "WEBHOOK_PORT",
        "API_PORT",
        "WEBHOOK_TOKEN",
    )
)
SILO_IMAGE = (
    "pgsty/silo:RELEASE.2026-09-16T00-00-00Z"
    "@sha256:635197cb9f36d01bee221d34d1c7d7960f6a95c48b0b6c01d99cd13bdae51a46"
)
POSTGRES_IMAGE = (
    "postgres:18@sha256:86c951e05bf56c93d95d397747fb8820ac76cc3bedb78f43abd83eedbe3666ae"
)


@dataclass(frozen=True, slots=True)
class RunningStore:
    """A store to test on, with its root credentials.

    `pid` is None if the tests did not start the store.
    """

    endpoint: str
    root_access_key: str = field(repr=False)
    root_secret_key: str = field(repr=False)
    kind: str
    pid: int | None = None


def free_port() -> int:
    return any_free_port("127.0.0.1")


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a port that no other process is given until the end.

    A socket that does not listen is bound to it. On Linux, a server may bind to it as well.
    """
    with bound("127.0.0.1", 0) as reservation:
        port = int(reservation.getsockname()[1])
        if sys.platform != "linux":  # other systems let no second socket bind to it
            reservation.close()
        yield port


def store_kinds() -> list[str]:
    """Return the kinds of stores that are available. Nothing is started or built."""
    to_be_had = {
        "external": "ASSAY_TEST_S3_ENDPOINT" in os.environ,
        "docker": has_docker_image(silo_image()),
        "minio": bool(installed_minio() or shutil.which("go")),
        "embedded": True,
    }
    wanted = os.environ.get("ASSAY_TEST_STORES", ",".join(STORES)).split(",")
    return [kind for kind in STORES if to_be_had[kind] and kind in wanted]


def find_obstacle() -> str | None:
    """Return the reason why this session cannot run all tests that it must run, or None."""
    missing = [name for name in EXTERNAL_STORE if name not in os.environ]
    if "external" in store_kinds() and missing:
        return (
            f"a store of your own needs {', '.join(missing)} too:"
            " tests/support/servers.py describes them"
        )
    if os.environ.get("CI") and "minio" not in store_kinds():
        return (
            "CI is set and genuine MinIO is not tested: put `minio`, `silo` or `go` on the PATH,"
            " and let ASSAY_TEST_STORES name minio"
        )
    return None


@contextmanager
def start_test_store(
    kind: str, folder: Path, webhooks: Mapping[str, Webhook]
) -> Iterator[RunningStore]:
    """Run a store of that kind. An external one already runs, and has its own webhooks."""
    if kind == "external":
        root = (os.environ["ASSAY_TEST_S3_ACCESS_KEY"], os.environ["ASSAY_TEST_S3_SECRET_KEY"])
        yield RunningStore(os.environ["ASSAY_TEST_S3_ENDPOINT"], *root, kind)
    elif kind == "docker":
        with start_docker_store(folder, webhooks) as running:
            yield running
    else:
        binary = genuine_minio() if kind == "minio" else None
        with start_store(folder, binary=binary, webhooks=webhooks) as store:
            yield RunningStore(
                store.endpoint, store.root_access_key, store.root_secret_key, kind, store.pid
            )


def database_kind() -> str:
    """Return the kind of database that is tested on. Nothing is started."""
    if "ASSAY_TEST_DATABASE_URL" in os.environ:
        return "external"
    return (
        "docker"
        if os.environ.get("ASSAY_TEST_DOCKER") == "1" and has_docker_image(postgres_image())
        else "embedded"
    )


@contextmanager
def start_test_database() -> Iterator[str]:
    """Yield the URL of a PostgreSQL whose role may create databases.

    The embedded server keeps its data in a new folder, and not in pytest's `tmp_path`. If the tests
    run as root, the server runs as another user, which cannot reach `tmp_path`.
    """
    kind = database_kind()
    if kind == "external":
        yield os.environ["ASSAY_TEST_DATABASE_URL"]
    elif kind == "docker":
        with start_docker_database() as url:
            yield url
    else:
        with (
            reachable_folder(find_quick_disk()) as folder,
            start_postgres(folder, fsync=False) as postgres,
        ):
            yield postgres.url


def find_quick_disk() -> Path:
    """Return the file system in memory if it has room for a server's data, or else `/tmp`.

    Each test creates and drops a database of 300 files. On ext4, that takes eight times the CPU
    time, because ext4 does not use the inode of a file again for some seconds after its deletion.
    """
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= DATABASE_BYTES
    return MEMORY if roomy and os.access(MEMORY, os.W_OK) else TEMPORARY


@contextmanager
def reachable_folder(disk: Path = TEMPORARY) -> Iterator[Path]:
    """Yield a temporary folder that every user may pass through."""
    with tempfile.TemporaryDirectory(prefix="assay-test-", dir=disk) as name:
        Path(name).chmod(0o711)
        yield Path(name)


# Genuine MinIO


def installed_minio() -> Path | None:
    found = shutil.which("minio") or shutil.which("silo")
    if found:
        return Path(found)
    return cached_minio() if cached_minio().exists() else None


def cached_minio() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "assay" / f"minio-{MINIO_VERSION.rpartition('-')[2]}" / "minio"


def genuine_minio() -> Path | None:
    """Return a `minio` or `silo` from the PATH, or else the one that Go builds.

    Building takes minutes, once. Return None if Go is not installed either.
    """
    found = installed_minio()
    go = shutil.which("go")
    if found or not go:
        return found
    binary = cached_minio()
    binary.parent.mkdir(parents=True, exist_ok=True)
    with (binary.parent / "lock").open("w") as lock:
        # Other test processes wait here, and then find MinIO built.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            build_minio(go, binary)
    return binary


def build_minio(go: str, binary: Path) -> None:
    """Build MinIO as its README describes. Raises RuntimeError if Go fails."""
    with tempfile.TemporaryDirectory(dir=binary.parent) as folder:
        command = [go, "install", f"github.com/minio/minio@{MINIO_VERSION}"]
        environment = os.environ | {"GOBIN": folder, "CGO_ENABLED": "0"}
        built = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=MINIO_BUILD_SECONDS,
            check=False,
        )
        if built.returncode != 0:
            raise RuntimeError(
                "Go could not build MinIO; ASSAY_TEST_STORES=embedded tests without it.\n"
                f"{built.stdout[-2000:]}"
            )
        (Path(folder) / "minio").replace(binary)


# Docker


def silo_image() -> str:
    return os.environ.get("ASSAY_TEST_SILO_IMAGE", SILO_IMAGE)


def postgres_image() -> str:
    return os.environ.get("ASSAY_TEST_POSTGRES_IMAGE", POSTGRES_IMAGE)


@functools.cache
def has_docker_image(image: str) -> bool:
    """Return whether Docker answers and has the image. Nothing is pulled.

    Return False on systems other than Linux, where containers do not share the host's network.
    """
    docker = shutil.which("docker")
    if docker is None or sys.platform != "linux":
        return False
    try:
        return (
            subprocess.run(
                [docker, "image", "inspect", image], capture_output=True, timeout=5, check=False
            ).returncode
            == 0
        )
    except subprocess.TimeoutExpired:
        return False


@contextmanager
def running_container(
    image: str, command: str | None, variables: Mapping[str, str]
) -> Iterator[Any]:
    """Run a container on the host's network, so that the store reaches webhooks on loopback."""
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    testcontainers_config.ryuk_disabled = True  # the image of Ryuk would have to be pulled
    container = DockerContainer(image).with_kwargs(network_mode="host")
    if command is not None:
        container.with_command(command)
    for name, value in variables.items():
        container.with_env(name, value)
    try:
        yield container.start()
    finally:
        container.stop()


@contextmanager
def start_docker_store(folder: Path, webhooks: Mapping[str, Webhook]) -> Iterator[RunningStore]:
    folder.mkdir(parents=True, exist_ok=True)
    root: RootCredentials = keep_root_credentials(folder / "store-root")
    port, console = free_port(), free_port()
    variables = (
        MINIO_VARIABLES
        | root_variables(root)
        | webhook_variables(webhooks, queue=Path("/data-queue"))
    )
    command = f"server /data --address 127.0.0.1:{port} --console-address 127.0.0.1:{console}"
    with running_container(silo_image(), command, variables):
        wait_until(lambda: answers(port, "/minio/health/cluster", host="127.0.0.1", status=200))
        yield RunningStore(f"http://127.0.0.1:{port}", root.access_key, root.secret_key, "docker")


@contextmanager
def start_docker_database() -> Iterator[str]:
    port, password = free_port(), secrets.token_hex(16)
    variables = {"POSTGRES_USER": "assay", "POSTGRES_PASSWORD": password, "POSTGRES_DB": "assay"}
    with running_container(
        postgres_image(),
        f"postgres -c port={port} -c listen_addresses=127.0.0.1 -c fsync=off",
        variables,
    ) as container:
        # The image starts the server twice. The first one only sets up, and listens on no port.
        wait_until(
            lambda: (
                container.exec(["pg_isready", "-h", "127.0.0.1", "-p", str(port)]).exit_code == 0
            )
        )
        yield f"postgresql://assay:{password}@127.0.0.1:{port}/assay"


def wait_until(holds: Callable[[], bool], *, seconds: float = 60) -> None:
    """Evaluate the condition every 50 ms until it is true. Raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the condition was not true within {seconds} s")
        time.sleep(0.05)


if __name__ == "__main__":
    print(genuine_minio() or "neither minio nor silo nor go is on the PATH")  # noqa: T201  # output
