"""Tests that execute the examples of docs/client.md unchanged."""

import os
import re
import subprocess
import sys
from pathlib import Path

import assay.errors
from tests.e2e.conftest import Api, Owner

TEXT = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")


def test_the_examples_run_one_after_another(api: Api, owner: Owner, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(os.urandom(300_000))
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL))
    environment = {**os.environ, "ASSAY_URL": api.url, "ASSAY_KEY": owner.key}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " ready " in run.stdout
    assert "photo.jpg is deleted" in run.stdout
    assert (tmp_path / "copy.jpg").read_bytes() == (tmp_path / "photo.jpg").read_bytes()


def test_every_documented_error_exists() -> None:
    listed = set(re.findall(r"`([A-Z][A-Za-z]+)`", TEXT.partition("## Errors")[2]))
    assert len(listed) > 15
    for name in listed - {"OSError"}:
        assert issubclass(getattr(assay.errors, name), assay.AssayError)


def test_importing_the_client_imports_nothing_of_the_server() -> None:
    program = """
import sys, assay
server = ("service", "minio", "urllib3", "litestar")
print([name for name in sys.modules if name.partition(".")[0] in server])
"""
    assert (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
