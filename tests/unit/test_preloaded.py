"""Commands that are forked end like those that are executed."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import clean_environment
from tests.support.preloaded import ASSAY, ForkedCommand, must_execute, open_command

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, all are executed")
NOWHERE = {"ASSAY_URL": "http://127.0.0.1:9", "ASSAY_KEY": "none"}
CASES = (
    ("--version",),
    ("env",),
    ("doctor",),
    ("ls", "--nonsense"),
    ("put", "a name that is missing", "ü \udcff"),
)


def finish(process: "subprocess.Popen[Any]") -> tuple[int, bytes, bytes]:
    with process:
        out, errors = process.communicate(timeout=60)
    return process.returncode, out, errors


@ON_LINUX
@pytest.mark.parametrize("arguments", CASES)
def test_a_forked_command_ends_like_an_executed_one(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    environ = clean_environment(NOWHERE)
    options: dict[str, Any] = {
        "cwd": tmp_path,
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    forked = open_command(arguments, environ=environ, **options)
    assert isinstance(forked, ForkedCommand)
    executed = subprocess.Popen([*ASSAY, *arguments], env=environ, **options)
    assert finish(forked) == finish(executed)


@ON_LINUX
def test_a_forked_command_is_a_child_of_this_process(tmp_path: Path) -> None:
    environ = clean_environment(NOWHERE)
    with open_command(
        ["put", "-", "--name", "a"], environ=environ, cwd=tmp_path, stdin=subprocess.PIPE
    ) as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert f"PPid:\t{os.getpid()}\n" in status
        assert {int(path.name) for path in Path(f"/proc/{process.pid}/fd").iterdir()} >= {0, 1, 2}
        process.kill()
        assert process.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["dev"], {}),
        (["serve", "--processes", "2"], {}),
        (["ls"], {"PYTHONWARNINGS": "error"}),
        (["ls"], {"LC_ALL": "C"}),
    ],
)
def test_a_command_that_depends_on_its_start_is_executed(
    arguments: list[str], changes: dict[str, str]
) -> None:
    assert must_execute(arguments, clean_environment(changes))
