"""Tests of the wheel in a virtual environment without extras.

The client and its commands must work. The server's commands must say what to install.
"""

import email.message
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.cli import FILE_COMMANDS, OPERATION_COMMANDS, SERVER_COMMANDS
from tests.e2e.commands import clean_environment
from tests.e2e.conftest import Api, Owner
from tests.e2e.people import RUN_SECONDS
from tests.support.servers import reachable_folder

ROOT: Final = Path(__file__).parents[2]
INSTALL_SECONDS: Final = 500

pytestmark = pytest.mark.timeout(600)
CLIENT: Final = {"cyclopts", "msgspec", "rich", "urllib3"}
TRANSFER: Final = """
import sys
from assay import Client
with Client() as client:
    file = client.upload(sys.argv[1], multipart=True)
    client.download(file.id, sys.argv[2])
print(file.state, file.hash)
"""
IMPORT_ALL: Final = """
import importlib, pkgutil, assay, service.cli.client
for package in (assay, service.cli.client):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""


@dataclass(frozen=True)
class Alone:
    """The wheel, and the folder of programs of an environment in which it is installed."""

    wheel: Path
    programs: Path

    def run(
        self, program: str, *arguments: str, folder: Path, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in this folder until it ends.

        The variables that would add the tests to Python's path are not set.
        """
        environment = {
            name: value
            for name, value in clean_environment().items()
            if not name.startswith("PYTHON")
        }
        return subprocess.run(
            [self.programs / program, *arguments],
            cwd=folder,
            env={
                **environment,
                "XDG_STATE_HOME": str(folder),
                "XDG_CONFIG_HOME": str(folder),
                **environ,
            },
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )

    def list_distributions(self, folder: Path) -> set[str]:
        listed = self.run(
            "python",
            "-m",
            "pip",
            "list",
            "--format=json",
            "--disable-pip-version-check",
            folder=folder,
        )
        return {canonicalize_name(one["name"]) for one in json.loads(listed.stdout)}


@pytest.fixture(scope="module")
def alone() -> Iterator[Alone]:
    with reachable_folder() as folder:
        shutil.copytree(
            ROOT,
            folder / "source",
            ignore=shutil.ignore_patterns(".*", "__pycache__", "tests", "venv"),
        )
        python = folder / "venv" / "bin" / "python"
        pip: list[str | Path] = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        call([sys.executable, "-m", "venv", folder / "venv"])
        call([*pip, "wheel", "--no-deps", "--wheel-dir", folder / "dist", folder / "source"])
        [wheel] = (folder / "dist").iterdir()
        call([*pip, "install", wheel])
        yield Alone(wheel, python.parent)


def call(command: list[str | Path]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def read_metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as opened:
        [name] = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(opened.read(name))


def test_the_wheel_requires_four_packages_and_has_both_typed_packages(
    alone: Alone,
) -> None:
    requirements = [
        Requirement(text) for text in read_metadata(alone.wheel).get_all("Requires-Dist", [])
    ]
    assert {
        one.name for one in requirements if one.marker is None or "extra" not in str(one.marker)
    } == CLIENT
    with zipfile.ZipFile(alone.wheel) as opened:
        names = set(opened.namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {
        "assay",
        "service",
    }
    assert {
        "assay/py.typed",
        "service/py.typed",
        "service/app.py",
        "service/migrations/env.py",
    } <= names


def test_the_environment_has_no_package_of_the_server(alone: Alone, tmp_path: Path) -> None:
    installed = alone.list_distributions(tmp_path)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    left_out = {
        canonicalize_name(Requirement(text).name) for text in extras["server"] + extras["embedded"]
    } - {"assay"}
    assert {"assay", *CLIENT} <= installed
    assert installed & left_out == set()


def test_all_modules_of_the_client_can_be_imported_without_the_server(
    alone: Alone, tmp_path: Path
) -> None:
    done = alone.run("python", "-W", "error", "-c", IMPORT_ALL, folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_commands_upload_and_download_a_file(
    alone: Alone, api: Api, owner: Owner, tmp_path: Path
) -> None:
    body = os.urandom(3_000_000)
    (tmp_path / "photo.jpg").write_bytes(body)
    server = {"ASSAY_URL": api.url, "ASSAY_KEY": owner.key}
    put = alone.run("assay", "put", "photo.jpg", "--json", folder=tmp_path, **server)
    assert put.returncode == 0, put.stderr
    file = json.loads(put.stdout)["file"]
    assert (file["state"], file["hash"]) == ("ready", hashlib.sha256(body).hexdigest())
    get = alone.run("assay", "get", file["id"], "-o", "copy.jpg", folder=tmp_path, **server)
    assert get.returncode == 0, get.stderr
    assert (tmp_path / "copy.jpg").read_bytes() == body


def test_the_python_client_uploads_and_downloads_a_file(
    alone: Alone, api: Api, owner: Owner, tmp_path: Path
) -> None:
    body = os.urandom(3_000_000)
    (tmp_path / "photo.jpg").write_bytes(body)
    server = {"ASSAY_URL": api.url, "ASSAY_KEY": owner.key}
    done = alone.run(
        "python", "-W", "error", "-c", TRANSFER, "photo.jpg", "copy.jpg", folder=tmp_path, **server
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ready", hashlib.sha256(body).hexdigest()]
    assert (tmp_path / "copy.jpg").read_bytes() == body


@pytest.mark.parametrize("command", sorted(SERVER_COMMANDS))
@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_a_command_of_the_server_prints_in_one_line_what_to_install(
    alone: Alone, command: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = alone.run("assay", command, *arguments, folder=tmp_path)
    extra = "embedded" if command == "dev" else "server"
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        rf"assay {command} needs the server.*: pip install 'assay\[{extra}\]'\n", done.stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_command(alone: Alone, tmp_path: Path) -> None:
    done = alone.run("assay", "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {*FILE_COMMANDS, *OPERATION_COMMANDS} <= set(done.stdout.split())


def test_wrong_arguments_are_explained_without_the_server(alone: Alone, tmp_path: Path) -> None:
    unknown = alone.run("assay", "pu", folder=tmp_path)
    assert unknown.returncode == 2
    assert 'Unknown command "pu". Did you mean "put"?' in unknown.stdout + unknown.stderr
    option = alone.run("assay", "put", "--nope", folder=tmp_path)
    assert option.returncode == 2
    assert "--nope" in option.stdout + option.stderr


def test_env_needs_no_server(alone: Alone, tmp_path: Path) -> None:
    (tmp_path / "example").write_text("ASSAY_WEBHOOK_TOKEN=\n")
    done = alone.run("assay", "env", "example", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"ASSAY_WEBHOOK_TOKEN=\S{40}\n", done.stdout)
