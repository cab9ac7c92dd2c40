"""Tests of modification times that `put` sends as the metadata `mtime`, and `get` restores."""

import asyncio
import json
import logging
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from assay import Client
from service.cli.client.records import Parcel, open_records
from service.resources import Resources
from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import check_all, prove
from tests.e2e.people import Person, write_files
from tests.support.preloaded import ASSAY

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

KIB, MIB = 1024, 1024**2
TIME = 1_700_000_000_123_456_789
TEXT = "1700000000.123456789"
LONG_AGO = -86_400_000_000_001
"""A time before 1970, with nanoseconds."""


def write_at(path: Path, content: bytes, nanoseconds: int = TIME) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(nanoseconds, nanoseconds))
    return path


def put_one(person: Person, *arguments: str, given: bytes | None = None) -> dict[str, Any]:
    """Send one file, and return the object that the command prints."""
    [said] = person.succeed("put", *arguments, "--json", given=given).objects
    found: dict[str, Any] = said
    return found


async def read_stored(resources: Resources) -> dict[str, dict[str, str]]:
    """Return the metadata of each file in the database, by its filename."""
    rows = await resources.pool.fetch("SELECT filename, metadata::text AS metadata FROM files")
    return {row["filename"]: json.loads(row["metadata"]) for row in rows}


async def test_a_folder_keeps_the_times_of_its_files(
    person: Person, client: httpx.AsyncClient, resources: Resources
) -> None:
    """Send a file through the API, one in a PUT, and one with a journal."""
    sizes = {"small": 10, "middle": 300 * KIB, "large": 33 * MIB}
    times = {"small": TIME, "middle": LONG_AGO, "large": 0}
    for name, size in sizes.items():
        write_at(person.folder / "tree" / name, os.urandom(size), times[name])
    person.succeed("put", "-r", "tree")
    listed = (await client.get("/files")).json()["files"]
    assert {file["filename"]: file["metadata"] for file in listed} == {
        "small": {"path": "tree/small", "mtime": TEXT},
        "middle": {"path": "tree/middle", "mtime": "-86400.000000001"},
        "large": {"path": "tree/large", "mtime": "0.000000000"},
    }
    assert "(already sent)" in person.succeed("put", "-r", "tree").out
    person.succeed("get", "-r", "tree", "-o", "restored")
    for name in sizes:
        there, here = person.folder / "restored/tree" / name, person.folder / "tree" / name
        assert there.read_bytes() == here.read_bytes()
        assert there.stat().st_mtime_ns == times[name]
    assert not list((person.folder / "restored").rglob(".*.part"))
    await check_all(resources)


async def test_no_times_turns_sending_and_restoring_off(person: Person) -> None:
    write_at(person.folder / "without", b"one")
    write_at(person.folder / "with", b"two")
    assert put_one(person, "without", "--no-times")["file"]["metadata"] == {}
    assert put_one(person, "with")["file"]["metadata"] == {"mtime": TEXT}
    person.succeed("get", "without", "-o", "a")
    person.succeed("get", "with", "-o", "b", "--no-times")
    person.succeed("get", "with", "-o", "c")
    for name in ("a", "b"):
        assert (person.folder / name).stat().st_mtime_ns > TIME + 10**9
    assert (person.folder / "c").stat().st_mtime_ns == TIME


async def test_an_mtime_of_the_user_takes_precedence(person: Person) -> None:
    write_at(person.folder / "a.txt", b"one")
    sent = put_one(person, "a.txt", "--meta", "mtime=12.5")
    assert sent["file"]["metadata"] == {"mtime": "12.5"}
    person.succeed("get", "a.txt", "-o", "copy")
    assert (person.folder / "copy").stat().st_mtime_ns == 12_500_000_000
    assert put_one(person, "a.txt", "--meta", "mtime=12.5")["outcome"] == "skipped"
    assert put_one(person, "a.txt", "--meta", "mtime=13")["outcome"] == "sent"


async def test_standard_input_has_no_time(person: Person) -> None:
    assert put_one(person, "-", "--name", "a", given=b"piped")["file"]["metadata"] == {}
    write_at(person.folder / "b", b"a regular file as standard input")
    with (person.folder / "b").open("rb") as opened:
        process = person.start("put", "-", "--name", "b", "--json", stdin=opened)
        out, _ = await asyncio.to_thread(process.communicate)
    assert json.loads(out)["file"]["metadata"] == {}


async def test_a_time_without_space_is_reported_and_the_file_is_sent(person: Person) -> None:
    write_at(person.folder / "a.txt", b"one")
    pairs = {f"k{number}": "v" for number in range(32)}
    options = [part for key, value in pairs.items() for part in ("--meta", f"{key}={value}")]
    ended = person.succeed("put", "a.txt", *options)
    [line] = ended.err.splitlines()
    assert line.startswith("a.txt: its modification time is not sent")
    assert person.succeed("put", "a.txt", "--force", "-q", *options).err == ""
    assert put_one(person, "a.txt", *options)["file"]["metadata"] == pairs
    room = put_one(person, "a.txt", *options[2:])["file"]["metadata"]
    assert room == {**dict.fromkeys(list(pairs)[1:], "v"), "mtime": TEXT}


@pytest.mark.parametrize(
    "text",
    [
        *["", "yesterday", "1e9", "2026-11-28T10:00:00Z", "\u202e1", "\x1b[31m1", "x" * 4000],
        *["9" * 20, "-" + "9" * 20],
    ],
)
async def test_a_time_that_cannot_be_set_is_reported_and_the_file_kept(
    person: Person, client: httpx.AsyncClient, text: str
) -> None:
    await prove(client, b"bytes", filename="odd", metadata={"mtime": text})
    await prove(client, b"other", filename="odder", metadata={"mtime": TEXT})
    ended = person.succeed("get", "odd", "odder")
    [line] = ended.err.splitlines()
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 300
    assert f"{person.folder}/odd: its modification time was not restored: " in line
    assert (person.folder / "odd").read_bytes() == b"bytes"
    assert (person.folder / "odder").stat().st_mtime_ns == TIME
    assert person.succeed("get", "odd", "-o", "quiet", "-q").err == ""
    assert person.succeed("get", "odd", "-o", "off", "--no-times").err == ""


@pytest.mark.parametrize("seconds", [16_000_000_000, 300_000_000_000, -3_000_000_000_000])
async def test_a_time_is_restored_or_reported_but_never_another_one_set(
    person: Person, client: httpx.AsyncClient, seconds: int
) -> None:
    """Use times that only some file systems can keep. Others set the nearest one without a word."""
    await prove(client, b"bytes", filename="far", metadata={"mtime": str(seconds)})
    ended = person.succeed("get", "far")
    found = int((person.folder / "far").stat().st_mtime)
    if ended.err == "":
        assert found == seconds
    else:
        assert "its modification time was not restored" in ended.err
        assert abs(found - time.time()) < 3600


async def test_a_file_with_the_same_bytes_keeps_its_time(person: Person) -> None:
    write_at(person.folder / "a.txt", b"one")
    put_one(person, "a.txt")
    write_at(person.folder / "copy", b"one", LONG_AGO)
    assert "already received" in person.succeed("get", "a.txt", "-o", "copy").out
    assert (person.folder / "copy").stat().st_mtime_ns == LONG_AGO


@pytest.mark.parametrize(
    ("first", "then"), [(["--no-times"], []), ([], ["--no-times"])], ids=["without", "with"]
)
async def test_a_stored_file_is_not_sent_again_for_its_time(
    person: Person, first: list[str], then: list[str]
) -> None:
    """Files that an earlier version has sent have no time either."""
    write_at(person.folder / "a.txt", b"one")
    sent = put_one(person, "a.txt", *first)
    again = put_one(person, "a.txt", *then)
    assert (again["outcome"], again["file"]["id"]) == ("skipped", sent["file"]["id"])
    forced = put_one(person, "a.txt", "--force", *then)
    assert forced["file"]["metadata"] == ({} if then else {"mtime": TEXT})


async def test_an_upload_begun_without_its_time_is_begun_again(
    person: Person, client: httpx.AsyncClient, resources: Resources
) -> None:
    """Use the record of a run that was killed after its declaration, before times were sent."""
    path = write_at(person.folder / "a.bin", os.urandom(100 * KIB))
    size, kind = 100 * KIB, "application/octet-stream"
    parcel = Parcel(person.url, str(path), size, TIME, "a.bin", kind, {})
    with open_records({"XDG_STATE_HOME": str(person.home)}) as records:
        record = records.begin(parcel)
    declared = await client.post(
        "/files",
        json={"filename": "a.bin", "size": size, "content_type": kind},
        headers={"Idempotency-Key": record.idempotency_key},
    )
    sent = put_one(person, "a.bin")
    assert sent["file"]["id"] != declared.json()["file"]["id"]
    assert sent["file"]["metadata"] == {"mtime": TEXT}
    assert put_one(person, "a.bin")["outcome"] == "skipped"
    await check_all(resources)


# The Python client


@pytest.mark.parametrize("through_api", [True, False])
async def test_the_python_client_keeps_times_only_if_asked(
    api: Api, owner: Owner, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, through_api: bool
) -> None:
    path = write_at(tmp_path / "a.txt", b"one")
    with Client(api.url, owner.key) as sender:
        plain = sender.upload(path, through_api=through_api)
        dated = sender.upload(path, through_api=through_api, keep_time=True)
        with path.open("rb") as opened:
            from_file = sender.upload(opened, through_api=through_api, keep_time=True)
        from_memory = sender.upload(b"x", through_api=through_api, keep_time=True)
        assert [each.metadata for each in (plain, dated, from_file, from_memory)] == [
            {},
            {"mtime": TEXT},
            {"mtime": TEXT},
            {},
        ]
        sender.download(dated, tmp_path / "new")
        sender.download(dated, tmp_path / "kept", keep_time=True)
        sender.download(plain, tmp_path / "plain", keep_time=True)
        with (tmp_path / "file").open("wb") as target:
            sender.download(dated, target, keep_time=True)
        sender.download(dated, os.devnull, keep_time=True)
    assert (tmp_path / "kept").stat().st_mtime_ns == TIME
    for name in ("new", "plain", "file"):
        assert (tmp_path / name).stat().st_mtime_ns > TIME + 10**9
    assert not [each for each in caplog.records if each.name == "assay"]


async def test_the_python_client_logs_a_time_that_it_cannot_set(
    api: Api, owner: Owner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(api.url, owner.key) as sender:
        file = sender.upload(b"bytes", metadata={"mtime": "yesterday"})
        sender.download(file, tmp_path / "kept", keep_time=True)
    assert (tmp_path / "kept").read_bytes() == b"bytes"
    [record] = [each for each in caplog.records if each.name == "assay"]
    assert record.levelno == logging.WARNING
    assert "mtime is 'yesterday', expected seconds" in record.getMessage()


def test_the_help_names_the_option() -> None:
    for command in ("put", "get"):
        shown = subprocess.run([*ASSAY, command, "--help"], capture_output=True, check=True)
        assert b"--no-times" in shown.stdout


def test_files_of_one_run_keep_their_own_times(person: Person) -> None:
    names = [f"{number}.txt" for number in range(40)]
    write_files(person.folder, {name: name.encode() for name in names})
    for number, name in enumerate(names):
        os.utime(person.folder / name, ns=(0, TIME + number))
    person.succeed("put", *names)
    person.succeed("get", *names, "-o", "out/")
    found = [(person.folder / "out" / name).stat().st_mtime_ns for name in names]
    assert found == [TIME + number for number in range(40)]
