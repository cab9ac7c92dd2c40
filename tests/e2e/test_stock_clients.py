"""HTTP clients that people already have, with their default settings, take a file there and back.

Java's HttpClient and `curl --http2` ask each new connection for HTTP/2 by `Upgrade: h2c`. A server
may ignore that (RFC 9110, section 7.8), and then has to read the request as any other.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx

from tests.e2e.commands import clean_environment
from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import digest
from tests.support.programs import find_program

CLIENTS: Final = Path(__file__).with_name("clients")
RUN_SECONDS: Final = 120
SIZE: Final = 300_000
"""More than one segment, and than what a server takes in one read."""


def run(
    command: Sequence[str | Path], api: Api, owner: Owner, folder: Path
) -> tuple[bytes, list[str]]:
    """Let a client send a file, and return its bytes and the ids that the client prints."""
    path, body = folder / "sent.bin", os.urandom(SIZE)
    path.write_bytes(body)
    environ = {**clean_environment(), "ASSAY_KEY": owner.key}
    ran = subprocess.run(
        [*command, api.url, path],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return body, ran.stdout.split()


def test_javas_http_client(api: Api, owner: Owner, tmp_path: Path) -> None:
    java = find_program("java", "openjdk-17-jdk-headless")
    check(api, owner, *run([java, CLIENTS / "Client.java"], api, owner, tmp_path), count=3)


def test_nodes_fetch(api: Api, owner: Owner, tmp_path: Path) -> None:
    node = find_program("node", "nodejs")
    check(api, owner, *run([node, CLIENTS / "client.mjs"], api, owner, tmp_path), count=4)


def test_curl(api: Api, owner: Owner, tmp_path: Path) -> None:
    curl = find_program("curl", "curl")
    check(api, owner, *run(["sh", CLIENTS / "client.sh", curl], api, owner, tmp_path), count=6)


def check(api: Api, owner: Owner, body: bytes, ids: Sequence[str], *, count: int) -> None:
    """All files of the owner are what was sent, and there are no others."""
    with httpx.Client(base_url=api.url, headers=owner.headers, timeout=30) as client:
        files = client.get("/files").json()["files"]
    assert len(ids) == count
    assert {file["id"] for file in files} == set(ids)
    assert {(file["state"], file["size"], file["hash"]) for file in files} == {
        ("ready", SIZE, digest(body))
    }
