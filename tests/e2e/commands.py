"""The `assay` command as a separate process."""

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.e2e.leaks import check_log, keep_secret, keep_settings_secret
from tests.support.preloaded import open_command
from tests.support.servers import wait_until

START_SECONDS = 90
STOP_SECONDS = 60


@contextmanager
def started(
    arguments: Sequence[str],
    log: Path,
    *,
    environ: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[subprocess.Popen[str]]:
    """Run `assay`, with its standard error in `log`, and kill it at exit if it still runs."""
    whole = clean_environment(environ)
    start = partial(open_command, arguments, environ=whole, prefix=prefix)
    with watched(start, log, whole) as process:
        yield process


@contextmanager
def running(
    command: Sequence[str], log: Path, *, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Run the command like `started`."""
    whole = clean_environment(environ)
    with watched(partial(subprocess.Popen, command, env=whole), log, whole) as process:
        yield process


@contextmanager
def watched(
    start: Callable[..., subprocess.Popen[str]], log: Path, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Start a process, and kill it at exit. Fails if its log contains a secret."""
    keep_settings_secret(environ)
    with log.open("a") as errors:
        process = start(stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    with process.stdout:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(STOP_SECONDS)
    check_log(log.read_text())


def run(
    arguments: Sequence[str], *, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `assay` until it ends, and capture both of its outputs."""
    whole = clean_environment(environ)
    keep_settings_secret(whole)
    with open_command(
        arguments, environ=whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, errors = process.communicate(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    check_log(errors)
    return subprocess.CompletedProcess(arguments, process.returncode, out, errors)


def clean_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without the settings of another deployment, and with `changes`."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("ASSAY_", "COV_"))
    }
    return kept | dict(changes or {})


def read_announcement(
    process: subprocess.Popen[str], log: Path, *, seconds: float = START_SECONDS
) -> dict[str, Any]:
    """Return the JSON object that `assay dev --json` prints when it is ready."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline() if ready else ""
    assert line, f"it did not start: {log.read_text()[-2000:]}"
    announced: dict[str, Any] = json.loads(line)
    keep_secret(
        [
            announced["key"],
            announced["database"],
            announced["s3"]["access_key"],
            announced["s3"]["secret_key"],
        ]
    )
    return announced


def stop(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> int:
    """Send the signal to the process, and return its exit status."""
    process.send_signal(number)
    return process.wait(STOP_SECONDS)


def processes_in(folder: Path) -> set[int]:
    """Return the ids of the processes whose working directory is the folder or is below it.

    All servers that Assay starts have such a working directory, regardless of their parent.
    """
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve(strict=True).is_relative_to(
                folder.resolve()
            ):
                found.add(int(entry.name))
        except OSError:
            continue  # the process has ended, or belongs to another user
    return found


def wait_until_gone(folder: Path) -> None:
    wait_until(lambda: not processes_in(folder), seconds=20)
