"""The stores and databases that tests run on: those that already run, Docker's, genuine MinIO, the embedded ones.

Named by the environment:

    ASSAY_TEST_S3_ENDPOINT, ASSAY_TEST_S3_ACCESS_KEY, ASSAY_TEST_S3_SECRET_KEY    a running store and its root
    ASSAY_TEST_WEBHOOK_PORT, ASSAY_TEST_API_PORT, ASSAY_TEST_WEBHOOK_TOKEN        its webhooks: see below
    ASSAY_TEST_DATABASE_URL     a running PostgreSQL, a role that may create databases
    ASSAY_TEST_DOCKER=1         take PostgreSQL from Docker too
    ASSAY_TEST_SILO_IMAGE, ASSAY_TEST_POSTGRES_IMAGE    other images than the pinned ones
    ASSAY_TEST_STORES           only these kinds of stores, comma-separated
    CI                          set: genuine MinIO must be among them, else the session fails

A running store has two webhooks on this machine, with that token: `ASSAY` at http://127.0.0.1:WEBHOOK_PORT/webhooks/minio, where tests take
events themselves, and `API` at the same path of API_PORT, where the API under test listens.

`python -m tests.support.servers` builds genuine MinIO (minutes, once) and prints where it is.
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
from typing import Any

from service.embedded import RootCredentials, Webhook, start_postgres, start_store
from service.embedded.processes import answers, any_free_port, bound
from service.embedded.store import (
    MINIO_VARIABLES,
    keep_root_credentials,
    root_variables,
    webhook_variables,
)

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
SILO_IMAGE = "pgsty/silo:RELEASE.2026-09-16T00-00-00Z@sha256:635197cb9f36d01bee221d34d1c7d7960f6a95c48b0b6c01d99cd13bdae51a46"
POSTGRES_IMAGE = "postgres:18"


@dataclass(frozen=True, slots=True)
class RunningStore:
    """A store to test on; the credentials are root's. `pid` is None for one that isn't our process."""

    endpoint: str
    root_access_key: str = field(repr=False)
    root_secret_key: str = field(repr=False)
    kind: str
    pid: int | None = None


def free_port() -> int:
    return any_free_port("127.0.0.1")


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port that nobody else is given meanwhile: bound by a socket that does not listen, beside which a server of ours may."""
    with bound("127.0.0.1", 0) as reservation:
        port = int(reservation.getsockname()[1])
        if sys.platform != "linux":  # elsewhere no second socket may be bound to it
            reservation.close()
        yield port


def store_kinds() -> list[str]:
    """Which stores are to be had; quick, starts and builds nothing."""
    to_be_had = {
        "external": "ASSAY_TEST_S3_ENDPOINT" in os.environ,
        "docker": has_docker_image(silo_image()),
        "minio": bool(installed_minio() or shutil.which("go")),
        "embedded": True,
    }
    wanted = os.environ.get("ASSAY_TEST_STORES", ",".join(STORES)).split(",")
    return [kind for kind in STORES if to_be_had[kind] and kind in wanted]


def find_obstacle() -> str | None:
    """Why these tests would not test what they should."""
    missing = [name for name in EXTERNAL_STORE if name not in os.environ]
    if "external" in store_kinds() and missing:
        return f"a store of your own needs {', '.join(missing)} too: tests/support/servers.py says what for"
    if os.environ.get("CI") and "minio" not in store_kinds():
        return "CI is set and genuine MinIO is not tested: put `minio`, `silo` or `go` on the PATH, and let ASSAY_TEST_STORES name minio"
    return None


@contextmanager
def start_test_store(
    kind: str, folder: Path, webhooks: Mapping[str, Webhook]
) -> Iterator[RunningStore]:
    """Run a store of that kind; an external one already runs, and has the webhooks that it has."""
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
    """Which database is tested on; quick, starts nothing."""
    if "ASSAY_TEST_DATABASE_URL" in os.environ:
        return "external"
    return (
        "docker"
        if os.environ.get("ASSAY_TEST_DOCKER") == "1" and has_docker_image(postgres_image())
        else "embedded"
    )


@contextmanager
def start_test_database(folder: Path | None = None) -> Iterator[str]:
    """The URL of a PostgreSQL whose role may create databases.

    `folder` is where the embedded one keeps its data. None: a folder of its own, as pytest's `tmp_path` won't do for root
    (`nobody` can't reach it).
    """
    kind = database_kind()
    if kind == "external":
        yield os.environ["ASSAY_TEST_DATABASE_URL"]
    elif kind == "docker":
        with start_docker_database() as url:
            yield url
    elif folder is None:
        with reachable_folder() as scratch, start_test_database(scratch / "data") as url:
            yield url
    else:
        with start_postgres(folder, fsync=False) as postgres:
            yield postgres.url


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A temporary folder that every user may pass through."""
    with tempfile.TemporaryDirectory(prefix="assay-test-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        yield Path(name)


# Genuine MinIO


def installed_minio() -> Path | None:
    """A binary that is already there."""
    found = shutil.which("minio") or shutil.which("silo")
    if found:
        return Path(found)
    return cached_minio() if cached_minio().exists() else None


def cached_minio() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "assay" / f"minio-{MINIO_VERSION.rpartition('-')[2]}" / "minio"


def genuine_minio() -> Path | None:
    """A `minio` or `silo` from the PATH, else the one that Go builds, the first time in minutes; None without Go."""
    found = installed_minio()
    go = shutil.which("go")
    if found or not go:
        return found
    binary = cached_minio()
    binary.parent.mkdir(parents=True, exist_ok=True)
    with (binary.parent / "lock").open("w") as lock:
        fcntl.flock(
            lock, fcntl.LOCK_EX
        )  # several test processes at once: the others wait, and find it built
        if not binary.exists():
            build_minio(go, binary)
    return binary


def build_minio(go: str, binary: Path) -> None:
    """As MinIO's own README says to install it."""
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
                f"Go could not build MinIO; ASSAY_TEST_STORES=embedded tests without it.\n{built.stdout[-2000:]}"
            )
        (Path(folder) / "minio").replace(binary)


# Docker


def silo_image() -> str:
    return os.environ.get("ASSAY_TEST_SILO_IMAGE", SILO_IMAGE)


def postgres_image() -> str:
    return os.environ.get("ASSAY_TEST_POSTGRES_IMAGE", POSTGRES_IMAGE)


@functools.cache
def has_docker_image(image: str) -> bool:
    """Whether an engine answers and has the image: nothing is pulled. Linux only, where containers share our network."""
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
    """A container on the host's network, so that the store can reach a webhook on our loopback."""
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    testcontainers_config.ryuk_disabled = True  # its image would have to be pulled
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
        # The image starts the server twice; the first one, which sets things up, listens on no port.
        wait_until(
            lambda: (
                container.exec(["pg_isready", "-h", "127.0.0.1", "-p", str(port)]).exit_code == 0
            )
        )
        yield f"postgresql://assay:{password}@127.0.0.1:{port}/assay"


def wait_until(holds: Callable[[], bool], *, seconds: float = 60) -> None:
    """Look every 50 ms until it holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {seconds} s")
        time.sleep(0.05)


if __name__ == "__main__":
    print(genuine_minio() or "neither minio nor silo nor go is on the PATH")  # noqa: T201  # a command's answer
