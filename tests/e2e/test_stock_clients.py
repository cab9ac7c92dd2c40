"""Tests of common HTTP clients with their default settings, which upload and download a file.

Java's HttpClient and `curl --http2` request HTTP/2 on each new connection with `Upgrade: h2c`. A
server may ignore that (RFC 9110, section 7.8). It must then read the request like any other.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.e2e.commands import clean_environment
from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import digest
from tests.e2e.leaks import keep_link_secret
from tests.support.programs import find_program
from tests.support.trust import TRUSTED

CLIENTS: Final = Path(__file__).with_name("clients")
RUN_SECONDS: Final = 120
SIZE: Final = 300_000
"""A size that is larger than one segment and larger than one read of a server."""


def run(
    command: Sequence[str | Path], api: Api, owner: Owner, folder: Path
) -> tuple[bytes, list[str]]:
    """Run a client that sends a file, and return the file's bytes and the ids that it prints."""
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


def test_javas_http_client_uploads_and_downloads(api: Api, owner: Owner, tmp_path: Path) -> None:
    java = find_program("java", "openjdk-17-jdk-headless")
    check(api, owner, *run([java, CLIENTS / "Client.java"], api, owner, tmp_path), count=3)


def test_nodes_fetch_uploads_and_downloads(api: Api, owner: Owner, tmp_path: Path) -> None:
    node = find_program("node", "nodejs")
    check(api, owner, *run([node, CLIENTS / "client.mjs"], api, owner, tmp_path), count=4)


def test_curl_uploads_and_downloads(api: Api, owner: Owner, tmp_path: Path) -> None:
    curl = find_program("curl", "curl")
    check(api, owner, *run(["sh", CLIENTS / "client.sh", curl], api, owner, tmp_path), count=6)


@pytest.mark.one_store
def test_wget_finds_a_file_and_saves_a_link_under_its_name(
    api: Api, owner: Owner, tmp_path: Path
) -> None:
    wget = find_program("wget", "wget")
    with httpx.Client(
        base_url=api.url, headers=owner.headers, timeout=30, verify=TRUSTED
    ) as client:
        sent = client.post("/files/upload", params={"filename": "winter ä b.txt"}, content=b"bytes")
        made = client.post(f"/files/{sent.json()['id']}/links", json={"expires_in": 60})
    keep_link_secret(made.json()["url"])
    key = f"--header=Authorization: Bearer {owner.key}"
    location = api.url + sent.headers["location"]
    for arguments in (["--spider", key, location], [api.url + made.json()["url"]]):
        subprocess.run([wget, "-q", *arguments], cwd=tmp_path, timeout=RUN_SECONDS, check=True)
    saved = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert saved == {"winter ä b.txt": b"bytes"}


def share(api: Api, owner: Owner, name: str, body: bytes) -> str:
    """Send a file, and return the address of a link to it."""
    with httpx.Client(
        base_url=api.url, headers=owner.headers, timeout=30, verify=TRUSTED
    ) as client:
        sent = client.post("/files/upload", params={"filename": name}, content=body)
        made = client.post(f"/files/{sent.json()['id']}/links", json={"expires_in": 600})
    path: str = made.json()["url"]
    keep_link_secret(path)
    return api.url + path


@pytest.mark.one_store
def test_aria2_reads_a_link_over_eight_connections(api: Api, owner: Owner, tmp_path: Path) -> None:
    aria2 = find_program("aria2c", "aria2")
    body = os.urandom(12 * 1024**2)
    link = share(api, owner, "big.bin", body)
    options = ["-q", "-x8", "-s8", "-k1M", "--no-conf", "--allow-overwrite=false"]
    subprocess.run([aria2, *options, link], cwd=tmp_path, timeout=RUN_SECONDS, check=True)
    assert {path.name: digest(path.read_bytes()) for path in tmp_path.iterdir()} == {
        "big.bin": digest(body)
    }


def check(api: Api, owner: Owner, body: bytes, ids: Sequence[str], *, count: int) -> None:
    """Check that the owner has exactly the files that were sent."""
    with httpx.Client(
        base_url=api.url, headers=owner.headers, timeout=30, verify=TRUSTED
    ) as client:
        files = client.get("/files").json()["files"]
    assert len(ids) == count
    assert {file["id"] for file in files} == set(ids)
    assert {(file["state"], file["size"], file["hash"]) for file in files} == {
        ("ready", SIZE, digest(body))
    }
