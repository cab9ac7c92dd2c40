"""Commands of Assay that are forked from a process in which its modules are imported already.

A new interpreter needs up to a second of CPU time for the imports of a command such as
`assay serve`. Hundreds of tests start commands as processes.

1. The first command of a test process starts the template. It imports the modules of all commands,
   has one thread, and reads requests from a Unix socket.
2. A request has the arguments, the environment and the folder of a command as JSON, and its three
   standard streams as descriptors.
3. The template clones itself with CLONE_PARENT. The new process is a child of the test process,
   which can wait for it like for any other, and not a child of the template.
4. The new process takes over what the request has, and calls `main()` of the command line. The
   template replies with its process id.
5. The template ends when the socket is closed.

A command is executed by a new interpreter if the difference could matter: see `must_execute`.
"""

import atexit
import ctypes
import functools
import gc
import importlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, AnyStr, Final

from service import cli

ROOT: Final = Path(__file__).parents[2]
ASSAY: Final = (sys.executable, "-m", "service")
CLONE_PARENT: Final = 0x8000
CLONE_NUMBERS: Final = {"x86_64": 56, "aarch64": 220}
"""The number of the system call `clone` on Linux. Elsewhere, all commands are executed."""
OF_THE_INTERPRETER: Final = ("LANG", "LC_", "LD_", "MALLOC_", "PYTHON", "SSL_", "TZ")
"""Prefixes of environment variables that are read before or while modules are imported."""
STREAMS: Final = (0, 1, 2)
REQUEST_BYTES: Final = 128 * 1024


def open_command(
    arguments: Sequence[str],
    *,
    environ: Mapping[str, str],
    prefix: Sequence[str] = (),
    **options: Any,
) -> "subprocess.Popen[Any]":
    """Start `assay` with these arguments. `options` are those of `subprocess.Popen`.

    `prefix` is a command that executes `assay`, such as `setpriv`.
    """
    command = [*prefix, *ASSAY, *arguments]
    if prefix or must_execute(arguments, environ):
        return subprocess.Popen(command, env=environ, **options)
    return ForkedCommand(command, env=environ, **options)


def must_execute(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Return whether the command needs an interpreter of its own.

    `serve --processes` and `dev` start processes that depend on how they themselves were started.
    """
    return (
        sys.platform != "linux"
        or platform.machine() not in CLONE_NUMBERS
        or "dev" in arguments[:1]
        or "--processes" in arguments
        or select_early(environ) != select_early(os.environ)
    )


def select_early(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in environ.items() if name.startswith(OF_THE_INTERPRETER)}


class ForkedCommand(subprocess.Popen[AnyStr]):
    """A process that the template forks, instead of one that executes a program.

    Popen starts its process in a private method, whose signature this is since Python 3.11.
    """

    def _execute_child(
        self,
        args: Sequence[str],
        executable: object,
        preexec_fn: object,
        close_fds: object,
        pass_fds: object,
        cwd: str | Path | None,
        env: Mapping[str, str],
        startupinfo: object,
        creationflags: object,
        shell: object,
        *rest: int,
    ) -> None:
        del executable, preexec_fn, close_fds, pass_fds, startupinfo, creationflags, shell
        pipes = rest[:6]
        theirs = (pipes[0], pipes[3], pipes[5])
        self.pid = open_template().fork(
            args[len(ASSAY) :],
            folder=str(cwd or Path.cwd()),
            environ=env,
            streams=[
                own if given == -1 else given for own, given in zip(STREAMS, theirs, strict=True)
            ],
        )
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]  # a method of Popen


class Template:
    """The process whose clones run commands."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def fork(
        self,
        arguments: Sequence[str],
        *,
        folder: str,
        environ: Mapping[str, str],
        streams: Sequence[int],
    ) -> int:
        """Start a command, and return its process id."""
        request = json.dumps([list(arguments), folder, dict(environ)]).encode()
        with self._lock:
            socket.send_fds(self._socket, [request], streams)
            reply = self._socket.recv(100)
        assert reply, "the process that forks commands has ended"
        return int(reply)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


@functools.cache
def open_template() -> Template:
    template = Template()
    atexit.register(template.close)
    return template


# In the template


def main(requests: socket.socket) -> None:
    """Serve the requests. In a process that was cloned, run the command instead."""
    for module in list_modules():
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection would write to all objects, and the kernel would copy their pages
    if serve(requests):
        cli.main()


def list_modules() -> list[str]:
    """Return the modules of all commands."""
    functions = [cli.FUNCTIONS.get(name, name) for name in cli.OPERATION_COMMANDS]
    return [
        *(f"service.cli.client.{name}" for name in cli.FILE_COMMANDS),
        *(f"service.cli.{function.partition(':')[0]}" for function in functions),
    ]


def serve(requests: socket.socket) -> bool:
    """Clone a process for each request. Return True in such a process, and False at the end."""
    while True:
        request, streams, _, _ = socket.recv_fds(requests, REQUEST_BYTES, len(STREAMS))
        if not request:
            return False
        process = clone()
        if process == 0:
            requests.close()
            arguments, folder, environ = json.loads(request)
            os.chdir(folder)
            take_streams(streams)
            os.environ.clear()
            os.environ.update(environ)
            sys.argv = ["assay", *arguments]
            return True
        requests.send(str(process).encode())
        for descriptor in streams:
            os.close(descriptor)


def take_streams(descriptors: Sequence[int]) -> None:
    for number, descriptor in zip(STREAMS, descriptors, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def clone() -> int:
    """Fork a process whose parent is the parent of this process, and return its id, or 0 in it.

    See clone(2). The interpreter is told before and after, as `os.fork` does it.
    """
    api = ctypes.pythonapi
    system_call = ctypes.PyDLL(None).syscall  # PyDLL: the thread keeps the interpreter's lock
    system_call.restype = ctypes.c_long
    number = CLONE_NUMBERS[platform.machine()]
    flags = CLONE_PARENT | signal.SIGCHLD
    api.PyOS_BeforeFork()
    process = int(system_call(*map(ctypes.c_long, (number, flags, 0, 0, 0, 0))))
    if process == 0:
        api.PyOS_AfterFork_Child()
    else:
        api.PyOS_AfterFork_Parent()
    if process < 0:
        raise OSError("clone failed")
    return process


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
