"""`assay serve --processes N`: several processes of the API that share one port.

1. The parent binds the port and starts N processes, each of which accepts connections from the same
   socket. The first one also runs the worker. The parent serves nothing.
2. A process that ends, or cannot be started, is started again after RESTART_SECONDS. If it ended
   with WRONG_START, such as for a wrong schema, this is tried less often. Clients can connect
   meanwhile, because the other processes accept connections, or else the kernel queues them.
3. If no process is left, and the last status of each was WRONG_START, the parent ends with it.
4. On SIGTERM or SIGINT, the parent closes its socket, so that new connections are refused as soon
   as no process accepts them. It sends SIGTERM to all processes and waits for them. On a further
   SIGINT, it kills them.
5. A process whose parent was killed stops as after SIGTERM. Otherwise the port would stay in use.

The parent's signal handlers only write to a pipe, so that a signal cannot interrupt the start of a
process, which would then be unknown to the parent.

The processes are spawned and not forked, because a fork copies the locks of threads in an unknown
state, and macOS does not support it for processes that have used the network.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Final

import msgspec
import structlog
from prometheus_client.multiprocess import mark_process_dead

from service.app import create_app
from service.cli.api import Server, run_api, stop_on_sigterm
from service.cli.errors import CommandError
from service.http.server.limits import make_limits
from service.settings import BOUNDS, Bytes, Count, Settings, parse_bytes
from service.telemetry.logs import configure_logs

MOST_PROCESSES: Final = 64
RESTART_SECONDS: Final = 1.0
HOPELESS_SECONDS: Final = 15.0
WRONG_START: Final = 3
"""The exit status of a process that could not start."""
STOPPING: Final = frozenset({signal.SIGTERM, signal.SIGINT})
METRICS_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"

log = structlog.get_logger()


class Share(msgspec.Struct, frozen=True):
    """What a process serves: the settings, divided among `processes`, and the port."""

    settings: Settings
    listener: socket.socket
    processes: int
    with_worker: bool


def check_processes(processes: int) -> None:
    if not 1 <= processes <= MOST_PROCESSES:
        raise CommandError(
            f"--processes {processes}: it must be a number from 1 to {MOST_PROCESSES}"
        )


def serve_on_processes(
    settings: Settings, listener: socket.socket, processes: int, *, with_worker: bool
) -> int:
    """Serve until SIGTERM or SIGINT, or until no process can start. Return the exit status."""
    slots = [
        Slot(Share(divide(settings, processes), listener, processes, with_worker and number == 0))
        for number in range(processes)
    ]
    resource_tracker.ensure_running()  # it would release the signals that start() holds back
    with shared_metrics(), noted_signals() as signals:
        try:
            return supervise(slots, signals)
        finally:
            listener.close()
            stop([slot.process for slot in slots if slot.process is not None], signals)


def divide(settings: Settings, processes: int) -> Settings:
    """Return the settings of one of several processes, which divide the pool and the memory.

    Connections of clients are not divided, because nothing distributes them evenly.
    """
    least = parse_bytes(BOUNDS["download_buffers"][0])
    return msgspec.structs.replace(
        settings,
        database_pool_size=Count(max(1, settings.database_pool_size // processes)),
        download_buffers=Bytes(max(least, settings.download_buffers // processes)),
    )


@contextlib.contextmanager
def shared_metrics() -> Iterator[None]:
    """Let the processes keep their metrics in a common folder, so that each of them reports those
    of all.

    A folder that the environment names is used and kept. Raises CommandError if there is no place
    for one.
    """
    if METRICS_FOLDER in os.environ:
        yield
        return
    try:
        made = tempfile.TemporaryDirectory(prefix="assay-metrics-")
    except OSError as error:
        raise CommandError(
            f"--processes needs a folder for metrics ({error.strerror}): set {METRICS_FOLDER} to an"
            " empty folder"
        ) from error
    with made as folder:
        os.environ[METRICS_FOLDER] = folder
        yield


class Signals:
    """The signals that this process has received. `pipe` is readable after each of them."""

    def __init__(self, pipe: socket.socket) -> None:
        self.pipe = pipe

    def take(self) -> set[int]:
        """Return the numbers of the signals since the last call."""
        with contextlib.suppress(BlockingIOError):
            return set(self.pipe.recv(4096))
        return set()


@contextlib.contextmanager
def noted_signals() -> Iterator[Signals]:
    """Note SIGTERM and SIGINT, instead of raising KeyboardInterrupt. Ignored ones stay ignored."""
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        wakened = signal.set_wakeup_fd(writer.fileno())
        handled = {number: signal.getsignal(number) for number in STOPPING}
        for number, handler in handled.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, lambda _number, _frame: None)
        try:
            yield Signals(reader)
        finally:
            for number, handler in handled.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakened)


class Slot:
    """The place of one process: what it serves, when it is to be started, and how it last ended."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.process: SpawnProcess | None = None
        self.due = time.monotonic()
        self.last_status: int | None = None

    def start(self) -> None:
        """Start the process, or log why that is not possible, and try again later."""
        try:
            self.process = start(self.share)
        except OSError as error:
            log.error("process not started", error=str(error))  # noqa: TRY400  # it says enough
            self.due = time.monotonic() + RESTART_SECONDS
        else:
            log.info("process started", process=self.process.pid, worker=self.share.with_worker)

    def note_end(self) -> None:
        """Note how the process has ended, if it has."""
        if self.process is None or self.process.exitcode is None:
            return
        self.last_status = self.process.exitcode
        log.error("process ended", process=self.process.pid, exit_status=self.last_status)
        mark_process_dead(self.process.pid)  # type: ignore[no-untyped-call]  # not annotated
        self.process = None
        is_hopeless = self.last_status == WRONG_START
        self.due = time.monotonic() + (HOPELESS_SECONDS if is_hopeless else RESTART_SECONDS)


def supervise(slots: list[Slot], signals: Signals) -> int:
    """Keep the processes running until a signal, or until none can start. Return the status."""
    while True:
        for slot in slots:
            if slot.process is None and slot.due <= time.monotonic():
                slot.start()
        absent = [slot.due for slot in slots if slot.process is None]
        timeout = max(0.0, min(absent) - time.monotonic()) if absent else None
        wait([signals.pipe, *find_sentinels(slots)], timeout)
        if signals.take() & STOPPING:
            return 0
        for slot in slots:
            slot.note_end()
        if all(slot.process is None and slot.last_status == WRONG_START for slot in slots):
            return WRONG_START


def find_sentinels(slots: list[Slot]) -> list[int]:
    return [slot.process.sentinel for slot in slots if slot.process is not None]


def start(share: Share) -> SpawnProcess:
    """Start a process that inherits a mask of the signals, and releases them when it can handle
    them.
    """
    process = multiprocessing.get_context("spawn").Process(target=run_process, args=(share,))
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    return process


def stop(running: list[SpawnProcess], signals: Signals) -> None:
    """Let the processes end, or kill them after a further SIGINT."""
    for process in running:
        process.terminate()
    while left := [process.sentinel for process in running if process.exitcode is None]:
        wait([signals.pipe, *left])
        if signal.SIGINT in signals.take():
            for process in running:
                process.kill()


def run_process(share: Share) -> None:
    """Serve in a process of its own until it is signalled, or until its parent has ended."""
    with contextlib.suppress(KeyboardInterrupt):
        stop_on_sigterm()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        configure_logs(share.settings.log_level)
        app = create_app(share.settings, with_worker=share.with_worker, processes=share.processes)
        run_api(app, share.listener, make_limits(share.settings), on_start=stop_with_parent)


def stop_with_parent(server: Server) -> None:
    """Stop the server when the parent of this process has ended."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("this process was not started by multiprocessing")
    loop = asyncio.get_running_loop()
    loop.add_reader(parent.sentinel, partial(stop_server, server, loop, parent.sentinel))


def stop_server(server: Server, loop: asyncio.AbstractEventLoop, sentinel: int) -> None:
    loop.remove_reader(sentinel)  # it stays readable
    log.error("the parent process has ended")
    server.should_exit = True
