"""The README, executed as it stands there against a real `assay dev`."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_dev import Dev, running_dev
from tests.servers import reachable_folder

pytestmark = pytest.mark.xdist_group("dev")

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
FIRST_SCREEN, _, REST = README.partition("## Walk-through")
WALK_THROUGH = REST.partition("\n## ")[0]


def blocks(text: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def execute(dev: Dev, script: str, folder: Path) -> str:
    """One bash that stops at the first command that fails; what it printed."""
    environment = {**os.environ, "API": dev.line["api"], "KEY": dev.line["key"]}
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_first_screen_and_the_walk_through_do_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(os.urandom(300_000))
    with reachable_folder() as folder, running_dev(folder / "data") as dev:
        _, four_commands, _ = blocks(FIRST_SCREEN)
        upload, look, compare = four_commands.replace("http://127.0.0.1:8000", dev.line["api"]).splitlines()
        execute(dev, upload, tmp_path)
        digest = execute(dev, compare, tmp_path).split()[0]
        answer = execute(dev, f"until {look} | grep -q ready; do :; done; {look}", tmp_path)
        assert f'"hash":"{digest}"' in answer
        assert execute(dev, "\n".join(blocks(WALK_THROUGH)), tmp_path) is not None
