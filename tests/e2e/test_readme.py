"""Tests that execute the README's commands unchanged against a real `assay dev`.

The walk-through is also executed behind nginx.
"""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import read_announcement, running, stop, wait_until_gone
from tests.e2e.conftest import Behind
from tests.e2e.dev import Dev
from tests.support.servers import reachable_folder, reserved_port

ROOT = Path(__file__).parents[2]
INSTALL_SECONDS = 500

pytestmark = pytest.mark.timeout(600)
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST_SCREEN, _, REST = README.partition("## Walk-through")
WALK_THROUGH = REST.partition("\n## ")[0]


def blocks(text: str, language: str = "sh") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def execute(script: str, folder: Path, *, api: str, key: str) -> str:
    """Run the script in bash, which stops at the first command that fails, and return its output.

    Fails if a command fails.
    """
    environment = {**os.environ, "API": api, "KEY": key}
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    """Run the README's first command, which installs and starts Assay, on another port."""
    install, found, start = blocks(FIRST_SCREEN)[0].strip().rpartition(" && ")
    assert found
    with reachable_folder() as folder, reserved_port() as port:
        shutil.copytree(
            ROOT,
            folder / "source",
            ignore=shutil.ignore_patterns(".*", "__pycache__", "tests", "venv"),
        )
        script = (
            f"cd {folder}/source && {install}"
            f" && exec {start} --data {folder}/data --port {port} --json"
        )
        with running(["bash", "-c", script], folder / "log", environ={}) as process:
            yield Dev(
                process,
                read_announcement(process, folder / "log", seconds=INSTALL_SECONDS),
                folder / "data",
            )
            assert stop(process) == 0
        wait_until_gone(folder)


def test_the_commands_of_the_first_screen_work(dev: Dev, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(os.urandom(300_000))
    _, four_commands, *_ = blocks(FIRST_SCREEN)
    dev_at = {"api": dev.line["api"], "key": dev.line["key"]}
    upload, look, compare = four_commands.replace(
        "http://127.0.0.1:8000", dev.line["api"]
    ).splitlines()
    execute(upload, tmp_path, **dev_at)
    digest = execute(compare, tmp_path, **dev_at).split()[0]
    answer = execute(f"until {look} | grep -q ready; do :; done; {look}", tmp_path, **dev_at)
    assert f'"hash":"{digest}"' in answer


def test_the_python_example_works(dev: Dev, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(os.urandom(300_000))
    [program] = blocks(FIRST_SCREEN, "python")
    environment = {**os.environ, "ASSAY_URL": dev.line["api"], "ASSAY_KEY": dev.line["key"]}
    python = dev.data.parent / "source" / ".venv" / "bin" / "python"
    run = subprocess.run(
        [python, "-c", program], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    digest = hashlib.sha256((tmp_path / "photo.jpg").read_bytes()).hexdigest()
    assert (run.stdout, run.stderr) == (f"ready {digest}\n", "")


def test_the_command_line_example_works(
    dev: Dev, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for name in ("photos/a.jpg", "photos/2026/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(os.urandom(100_000))
    (tmp_path / ".venv").symlink_to(dev.data.parent / "source" / ".venv")
    commands = blocks(FIRST_SCREEN)[2].replace("http://127.0.0.1:8000", dev.line["api"])
    execute(commands, tmp_path, api=dev.line["api"], key=dev.line["key"])
    execute("diff -r photos restored/photos", tmp_path, api="", key="")


def test_the_walk_through_works(dev: Dev, tmp_path: Path) -> None:
    execute("\n".join(blocks(WALK_THROUGH)), tmp_path, api=dev.line["api"], key=dev.line["key"])


def test_the_walk_through_works_behind_nginx(behind: Behind, tmp_path: Path) -> None:
    execute(
        "\n".join(blocks(WALK_THROUGH)),
        tmp_path,
        api=behind.nginx.url,
        key=behind.api.new_owner().key,
    )
    assert behind.nginx.buffered() == []
