"""`assay serve --processes N`: several processes of the API that share one port.

1. The parent binds the port and starts N processes, each of which accepts connections from the same
   socket. The first one also runs the worker. The parent serves nothing.
2. A process that ends is logged and started again after RESTART_SECONDS. Clients can connect
   meanwhile, because the other processes accept connections, or else the kernel queues them.
3. A process that ends with WRONG_START would fail again. The parent stops the others and ends with
   the same status.
4. On SIGTERM or SIGINT, the parent closes its socket, so that new connections are refused as soon
   as no process accepts them. It sends SIGTERM to all processes and waits for them. On a second
   signal, it kills them.
5. A process whose parent was killed stops as after SIGTERM. Otherwise the port would stay in use.

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
WRONG_START: Final = 3
"""The exit status of a process that could not start, such as with a wrong schema."""
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
    """Serve until SIGINT or SIGTERM, which end as KeyboardInterrupt, or until a process cannot
    start. Return the exit status of that process.
    """
    shares = [
        Share(divide(settings, processes), listener, processes, with_worker and number == 0)
        for number in range(processes)
    ]
    with shared_metrics():
        return supervise(shares, listener)


def divide(settings: Settings, processes: int) -> Settings:
    """Return the settings of one of several processes, which together use what one may use."""
    least = parse_bytes(BOUNDS["download_buffers"][0])
    return msgspec.structs.replace(
        settings,
        database_pool_size=Count(max(1, settings.database_pool_size // processes)),
        max_connections=Count(max(1, settings.max_connections // processes)),
        download_buffers=Bytes(max(least, settings.download_buffers // processes)),
    )


@contextlib.contextmanager
def shared_metrics() -> Iterator[None]:
    """Let the processes keep their metrics in a common folder, so that each of them can report the
    sums. A folder that the environment names is used and kept.
    """
    if METRICS_FOLDER in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="assay-metrics-") as folder:
        os.environ[METRICS_FOLDER] = folder
        yield


def supervise(shares: list[Share], listener: socket.socket) -> int:
    """Keep a process for each share running until one cannot start. Return its exit status."""
    running: list[SpawnProcess] = []
    try:
        for share in shares:
            with held_signals():
                running.append(start(share))
        while True:
            wait([process.sentinel for process in running])
            for number, process in enumerate(running):
                if process.exitcode is None:
                    continue
                log.error("process ended", process=process.pid, exit_status=process.exitcode)
                mark_process_dead(process.pid)  # type: ignore[no-untyped-call]  # not annotated
                if process.exitcode == WRONG_START:
                    return WRONG_START
                time.sleep(RESTART_SECONDS)
                with held_signals():
                    running[number] = start(shares[number])
    finally:
        listener.close()
        stop(running)


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Hold back the signals that stop this process, so that it knows each process it has started.

    The process that is started inherits this, and releases the signals when it can handle them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def start(share: Share) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(target=run_process, args=(share,))
    process.start()
    log.info("process started", process=process.pid, worker=share.with_worker)
    return process


def stop(running: list[SpawnProcess]) -> None:
    """Let the processes end, or kill them after another signal."""
    try:
        for process in running:
            process.terminate()
        for process in running:
            process.join()
    except KeyboardInterrupt:
        for process in running:
            process.kill()
        raise


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
