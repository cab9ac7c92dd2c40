"""The processes of embedded servers: how they start, become ready, stop, and end with their parent,
even after kill -9.

On Linux, the kernel signals the server when the thread that forked it ends (`launch`). Elsewhere, a
watcher process waits for the end of a pipe that only the parent holds. Each server leads a session
of its own, so that Ctrl-C on the terminal reaches only the parent, which stops the servers in
order.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from service.embedded.errors import EmbeddedError

LAUNCHER = Path(__file__).with_name("launch.py")
WATCHER = "import os, sys; os.read(0, 1); os.killpg(int(sys.argv[1]), int(sys.argv[2]))"
READY_SECONDS = 60.0
PORTS_TO_TRY = 100

# The kernel's death signal depends on the *thread* that forked, not on its process: a server
# started by a worker thread would die with that thread. Therefore one thread, which lives until the
# interpreter ends, starts all servers.
_launching_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-launcher")
_watchers: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, slots=True)
class User:
    """The user as which a program runs."""

    uid: int = field(default_factory=os.geteuid)
    gid: int = field(default_factory=os.getegid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program to run: its command, folder, log, environment and user.

    The environment of this process is not passed on. The program's output goes to `log`.
    """

    command: Sequence[str | Path]
    cwd: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # it contains secrets
    user: User = field(default_factory=User)
    death_signal: signal.Signals = signal.SIGKILL


def launch(program: Program, *inherited: int) -> subprocess.Popen[bytes]:
    """Start the program.

    It inherits the given descriptors, and gets `death_signal` when this process ends.
    """
    return _launching_thread.submit(_launch, program, inherited).result()


def _launch(program: Program, inherited: Sequence[int]) -> subprocess.Popen[bytes]:
    who = [os.getpid(), int(program.death_signal), program.user.uid, program.user.gid]
    with program.log.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  # Assay's own launcher
            [sys.executable, "-I", "-S", LAUNCHER, *map(str, who), *program.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=program.cwd,
            env={"PATH": os.defpath, "TZ": "UTC", **program.environment},
            pass_fds=inherited,
            start_new_session=True,
            umask=0o077,
        )
    if sys.platform != "linux":
        watch(process, program.death_signal)
    return process


def watch(process: subprocess.Popen[bytes], death_signal: signal.Signals) -> None:
    """Start a watcher that signals the server when this process ends, which closes the watcher's
    pipe.
    """
    watcher = subprocess.Popen(  # noqa: S603  # Assay's own watcher
        [sys.executable, "-I", "-S", "-c", WATCHER, str(process.pid), str(int(death_signal))],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _watchers[process.pid] = watcher


def stop(process: subprocess.Popen[bytes], *gentle: tuple[signal.Signals, float]) -> None:
    """Send each signal and wait for the given seconds.

    At last, kill what is left of the process group.
    """
    for number, seconds in gentle:
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    watcher = _watchers.pop(process.pid, None)
    if watcher is not None:  # before its pipe closes, because the process id may soon be another's
        watcher.kill()
        watcher.communicate()


def run(program: Program, *inherited: int, seconds: float) -> int:
    """Run a short program to its end. Return its exit status, or -1 if it takes too long."""
    process = launch(program, *inherited)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return -1
    finally:
        stop(process)


def run_or_fail(program: Program, *inherited: int, seconds: float) -> None:
    status = run(program, *inherited, seconds=seconds)
    if status != 0:
        name = Path(program.command[0]).name
        raise EmbeddedError(f"{name} failed ({status}). {tail(program.log)}")


def launch_on_port(
    program_on: Callable[[int], Program],
    is_ready: Callable[[int], bool],
    *,
    host: str,
    port: int | None,
    lock: int,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server on `port`, or on the next port that is still free. Return once it is ready.

    Raises EmbeddedError if it does not start.
    """
    for candidate in free_ports(host, port):
        program = program_on(candidate)
        process = launch(program, lock)
        try:
            if wait_until_ready(process, partial(is_ready, candidate)):
                return process, candidate
        except BaseException:
            stop(process)
            raise
        ended = process.poll()
        stop(process)
        if ended is None or is_free(host, candidate):  # the port was not the reason
            break
    name = Path(program.command[0]).name
    raise EmbeddedError(f"{name} did not start. {tail(program.log)}")


def wait_until_ready(process: subprocess.Popen[bytes], is_ready: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if is_ready():
            return process.poll() is None
        time.sleep(0.02)
    return False


def answers(port: int, path: str, *, host: str, status: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == status
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_ports(host: str, wanted: int | None) -> Iterator[int]:
    """Yield free ports, from `wanted` on, or any. Raises EmbeddedError if there is none."""
    if wanted is None:
        yield from (any_free_port(host) for _ in range(5))
        return
    candidates = [
        port for port in range(wanted, min(wanted + PORTS_TO_TRY, 65536)) if is_free(host, port)
    ]
    if not candidates:
        raise EmbeddedError(
            f"No port from {wanted} to {wanted + PORTS_TO_TRY - 1} is free on {host}."
        )
    yield from candidates


def any_free_port(host: str) -> int:
    with bound(host, 0) as listener:
        return int(listener.getsockname()[1])


def is_free(host: str, port: int) -> bool:
    try:
        bound(host, port).close()
    except OSError:
        return False
    return True


def bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as the servers do, so that TIME_WAIT does not matter
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def start_log(path: Path) -> Path:
    """Create an empty log, and keep that of the run before beside it."""
    if path.exists():
        path.replace(path.with_name(path.name + ".1"))
    path.touch(mode=0o600)
    return path


def tail(log: Path, *, lines: int = 5) -> str:
    said = log.read_text(errors="replace").splitlines()[-lines:]
    return f"Its log {log} ends with: " + " / ".join(said) if said else f"Its log {log} is empty."
