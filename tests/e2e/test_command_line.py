"""Tests of `assay put`, `get`, `ls`, `info`, `rm`, `share` and `login`, run as a user runs them."""

import hashlib
import os
import subprocess
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import httpx
import pytest

from service.cli.client.exit_codes import (
    Away,
    Failed,
    NotAllowed,
    NotFound,
    Rejected,
    SomeFailed,
    WrongUse,
)
from service.resources import Resources
from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import check_all
from tests.e2e.people import Person, make_person, write_files
from tests.support.servers import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

MIB = 1024**2
UNKNOWN = "0198f1c2-0000-7000-8000-000000000000"
ALLOWED_BYTES = 120 * MIB


def put_one(person: Person, name: str, content: bytes, *options: str) -> str:
    """Write a file, send it with `assay put`, and return its id."""
    write_files(person.folder, {name: content})
    [said] = person.succeed("put", name, "--json", *options).objects
    assert said["outcome"] == "sent"
    file_id: str = said["file"]["id"]
    return file_id


async def test_the_commands_send_list_show_fetch_share_and_remove_a_file(
    person: Person, resources: Resources, anonymous: httpx.AsyncClient
) -> None:
    body = os.urandom(200_000)
    file_id = put_one(person, "photo.jpg", body, "--meta", "album=winter=cold", "--no-times")
    told = person.succeed("info", file_id, "--json").objects[0]
    assert (told["hash"], told["content_type"], told["metadata"]) == (
        hashlib.sha256(body).hexdigest(),
        "image/jpeg",
        {"album": "winter=cold"},
    )
    listed = person.succeed("ls").out
    assert listed.startswith(f"{file_id}  ready       195 KiB  ")
    assert listed.endswith("  photo.jpg\n")
    assert "metadata.album       winter=cold" in person.succeed("info", file_id).out
    person.succeed("get", file_id, "-o", "copy.jpg")
    assert (person.folder / "copy.jpg").read_bytes() == body
    link = person.succeed("share", file_id, "--expires", "5m").out.strip()
    shared = await anonymous.get(link)
    assert shared.content == body
    assert shared.headers["cross-origin-resource-policy"] == "same-origin"
    embedded = await anonymous.get(person.succeed("share", file_id, "--embed").out.strip())
    assert embedded.headers["cross-origin-resource-policy"] == "cross-origin"
    assert person.succeed("rm", file_id).out == f"{file_id} deleted\n"
    assert person.run("get", file_id).status == NotFound.status
    assert (await anonymous.get(link)).status_code == 410
    await check_all(resources)


def test_put_skips_a_stored_file_until_its_bytes_change(person: Person) -> None:
    first = put_one(person, "a.txt", b"one")
    [again] = person.succeed("put", "a.txt", "--json").objects
    assert (again["outcome"], again["file"]["id"]) == ("skipped", first)
    write_files(person.folder, {"a.txt": b"two"})
    [changed] = person.succeed("put", "a.txt", "--json").objects
    assert (changed["outcome"], changed["file"]["hash"]) == (
        "sent",
        hashlib.sha256(b"two").hexdigest(),
    )
    person.succeed("rm", changed["file"]["id"])
    [anew] = person.succeed("put", "a.txt", "--json").objects
    assert (anew["outcome"], anew["file"]["id"] != changed["file"]["id"]) == ("sent", True)
    [forced] = person.succeed("put", "a.txt", "--json", "--force").objects
    assert (forced["outcome"], forced["file"]["id"] != anew["file"]["id"]) == ("sent", True)
    assert {
        path.stat().st_mode & 0o077
        for path in (person.home / "assay", person.home / "assay" / "uploads")
    } == {0}


def test_files_of_another_owner_on_the_same_machine_are_not_skipped(
    api: Api, person: Person
) -> None:
    first = put_one(person, "a.txt", b"one")
    other = Person(api.url, api.new_owner().key, person.home, person.folder)
    [said] = other.succeed("put", "a.txt", "--json").objects
    assert (said["outcome"], said["file"]["id"] != first) == ("sent", True)


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3 * MIB])
def test_a_file_of_any_size_is_sent_and_fetched(person: Person, size: int) -> None:
    body = os.urandom(size)
    file_id = put_one(person, "body.bin", body)
    (person.folder / "body.bin").unlink()
    assert person.succeed("get", "body.bin").out == f"{file_id}  {person_size(size)}  body.bin\n"
    assert (person.folder / "body.bin").read_bytes() == body


def person_size(size: int) -> str:
    return {
        0: "     0 B",
        1: "     1 B",
        65_536: "  64 KiB",
        65_537: "  64 KiB",
        3 * MIB: " 3.0 MiB",
    }[size]


# Folders


@pytest.fixture
def tree(person: Person) -> dict[str, bytes]:
    contents = {
        f"photos/{folder}/ä {number}.jpg": os.urandom(number * 40_000)
        for folder in ("2023", "2024/may")
        for number in range(4)
    }
    contents["photos/[red] x.txt"] = b"markup"
    write_files(person.folder, contents)
    return contents


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_is_sent_and_fetched_unchanged(person: Person, tree: dict[str, bytes]) -> None:
    sent = person.succeed("put", "-r", "photos", "--json").objects
    assert {one["file"]["metadata"]["path"] for one in sent} == set(tree)
    person.succeed("get", "-r", "photos", "-o", "back")
    assert read_tree(person.folder / "back") == tree
    person.succeed("get", "-r", "photos/2023", "-o", "part")
    assert read_tree(person.folder / "part") == {
        name: body for name, body in tree.items() if name.startswith("photos/2023/")
    }
    again = person.succeed("get", "-r", "-o", "back", "--json").objects
    assert {one["outcome"] for one in again} == {"skipped"}
    assert {one["outcome"] for one in person.succeed("put", "-r", "photos", "--json").objects} == {
        "skipped"
    }


def test_sha256sum_accepts_the_list_of_digests(person: Person, tree: dict[str, bytes]) -> None:
    person.succeed("put", "-r", "photos")
    sums = person.succeed("ls", "--sha256").out
    assert sums.count("\n") == len(tree)
    checked = subprocess.run(
        ["sha256sum", "--strict", "-c"],
        input=sums.encode(),
        cwd=person.folder,
        capture_output=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_get_fetches_the_newest_file_of_a_name(person: Person) -> None:
    put_one(person, "a.txt", b"one")
    put_one(person, "a.txt", b"two")
    put_one(person, "ab.txt", b"three")
    assert person.succeed("get", "a.txt", "-o", "-").out == "two"
    person.succeed("get", "a*", "-o", "all/")
    assert read_tree(person.folder / "all") == {"a.txt": b"two", "ab.txt": b"three"}


def test_get_keeps_a_local_file_with_different_bytes(person: Person) -> None:
    put_one(person, "a.txt", b"theirs")
    put_one(person, "b.txt", b"b")
    write_files(person.folder, {"a.txt": b"mine"})
    (person.folder / "b.txt").unlink()
    ended = person.run("get", "a.txt", "b.txt")
    assert ended.status == SomeFailed.status
    assert "exists with different content" in ended.err
    assert read_tree(person.folder) == {"a.txt": b"mine", "b.txt": b"b"}
    person.succeed("get", "a.txt", "--force")
    assert read_tree(person.folder)["a.txt"] == b"theirs"


# Pipes


def test_standard_input_and_output_can_be_pipes(person: Person, tree: dict[str, bytes]) -> None:
    with subprocess.Popen(["tar", "c", "photos"], cwd=person.folder, stdout=subprocess.PIPE) as tar:
        process = person.start(
            "put", "-", "--name", "photos.tar", "--meta", "from=tar", "--json", stdin=tar.stdout
        )
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert b'"from": "tar"' in out
    got = person.start("get", "photos.tar", "-o", "-")
    archive, err = got.communicate(timeout=60)
    assert got.returncode == 0, err
    with tarfile.open(fileobj=BytesIO(archive)) as opened:
        found = {member.name: opened.extractfile(member) for member in opened if member.isfile()}
        assert {name: member.read() for name, member in found.items() if member} == tree


def test_a_pipe_is_sent_in_constant_memory(person: Person) -> None:
    block, digest = os.urandom(MIB), hashlib.sha256()

    def feed() -> Iterator[bytes]:
        for _ in range(200):
            digest.update(block)
            yield block

    ended = person.measure("put", "-", "--name", "big", "--json", feed=feed())
    assert ended.status == 0, ended.err
    assert ended.objects[0]["file"]["hash"] == digest.hexdigest()
    assert ended.most_bytes < ALLOWED_BYTES


def test_a_named_pipe_is_read_to_its_end(person: Person) -> None:
    os.mkfifo(person.folder / "pipe")
    process = person.start("put", "pipe", "--name", "a.txt", "--json")
    (person.folder / "pipe").write_bytes(b"through")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert hashlib.sha256(b"through").hexdigest().encode() in out


def test_a_folder_of_many_small_files_is_sent_in_constant_memory(person: Person) -> None:
    write_files(person.folder, {f"many/{number}": b"%d" % number for number in range(400)})
    ended = person.measure("put", "-r", "many", "--json")
    assert ended.status == 0, ended.err
    assert {one["file"]["metadata"]["path"] for one in ended.objects} == {
        f"many/{number}" for number in range(400)
    }
    assert ended.most_bytes < ALLOWED_BYTES


# Lists


def test_the_list_is_filtered(person: Person) -> None:
    first = put_one(person, "photo-1.jpg", b"1")
    second = put_one(person, "photo-2.jpg", b"2")
    put_one(person, "other.txt", b"3")
    hour_ago, in_an_hour = (datetime.now(UTC) + hours * timedelta(hours=1) for hours in (-1, 1))

    def list_ids(*options: str) -> list[str]:
        return [file["id"] for file in person.succeed("ls", "--json", *options).objects]

    assert list_ids("--name", "photo*") == [second, first]
    assert list_ids("--name", "photo-1.jpg") == [first]
    assert list_ids("--hash", hashlib.sha256(b"1").hexdigest()) == [first]
    assert list_ids("--type", "image/jpeg") == [second, first]
    assert list_ids("--name", "photo*", "--limit", "1") == [second]
    assert (
        len(list_ids("--since", "1h"))
        == len(list_ids("--since", hour_ago.isoformat()))
        == len(list_ids("--before", in_an_hour.isoformat()))
        == 3
    )
    assert list_ids("--before", "1h") == list_ids("--state", "pending") == []
    person.succeed("rm", first)
    assert list_ids("--state", "deleted") == [first]
    assert set(list_ids("--state", "deleted", "--state", "ready", "--name", "photo*")) == {
        first,
        second,
    }


# Failures


def test_each_kind_of_failure_has_its_own_exit_status(
    api: Api, owner: Owner, person: Person
) -> None:
    put_one(person, "a.txt", b"a")
    write_files(person.folder, {"b.txt": b"b"})
    wrong = hashlib.sha256(b"another").hexdigest()
    cases = [
        (["put"], WrongUse),
        (["put", "a.txt", "--name", "b", "-"], WrongUse),
        (["put", "a.txt", "--meta", "pair"], WrongUse),
        (["put", "a.txt", "--meta", "a=1", "--meta", "a=2"], WrongUse),
        (["share", UNKNOWN, "--expires", "8d"], WrongUse),
        (["ls", "--since", "soon"], WrongUse),
        (["ls", "--type", "image"], Failed),
        (["info", "a.txt"], WrongUse),
        (["info", UNKNOWN], NotFound),
        (["rm", UNKNOWN], NotFound),
        (["share", UNKNOWN], NotFound),
        (["get", UNKNOWN, "nothing.txt"], NotFound),
        (["get", "-r", "no-folder"], NotFound),
        (["put", "b.txt", "--sha256", wrong], Rejected),
        (["put", "missing.txt"], Failed),
        (["put", "."], Failed),
        (["put", "missing.txt", "a.txt"], SomeFailed),
    ]
    for arguments, ending in cases:
        ended = person.run(*arguments)
        assert (arguments, ended.status) == (arguments, ending.status), ended.err
        assert ended.err
        assert "Traceback" not in ended.err


def test_a_refused_key_is_reported_once(api: Api, person: Person, tmp_path: Path) -> None:
    write_files(person.folder, {f"{number}.txt": b"1" for number in range(5)})
    names = [f"{number}.txt" for number in range(5)]
    for key in ("assay_wrong", api.new_owner(expires_in=timedelta(seconds=-1)).key):
        ended = person.run("put", *names, ASSAY_KEY=key)
        assert ended.status == NotAllowed.status
        assert ended.err.count("\n") == 1
    readers = api.new_owner(scopes=("read",))
    assert person.run("put", *names, ASSAY_KEY=readers.key).status == NotAllowed.status
    assert person.run("ls", ASSAY_KEY="").status == NotAllowed.status


def test_an_unavailable_server_is_reported(person: Person) -> None:
    ended = person.run("ls", ASSAY_URL=f"http://127.0.0.1:{free_port()}")
    assert ended.status == Away.status
    assert "does not answer" in ended.err


def test_quiet_prints_only_failures(person: Person) -> None:
    write_files(person.folder, {"a.txt": b"a"})
    assert person.succeed("put", "a.txt", "--quiet") == person.succeed("put", "a.txt", "-q")
    ended = person.run("put", "a.txt", "none.txt", "-q")
    assert (ended.out, ended.err.splitlines()[0]) == ("", "none.txt: No such file or directory")
    assert person.succeed("get", "a.txt", "-q", "-o", "b.txt").out == ""


def test_every_json_object_has_an_outcome(person: Person) -> None:
    write_files(person.folder, {"a.txt": b"a"})
    ended = person.run("put", "a.txt", "none.txt", "--json")
    said = {one["source"]: one for one in ended.objects}
    assert said["a.txt"]["outcome"] == "sent"
    assert (said["none.txt"]["outcome"], said["none.txt"]["error"]) == (
        "failed",
        "No such file or directory",
    )
    assert "none.txt" in ended.err


# Signing in


def test_login_reads_the_key_from_standard_input(api: Api, owner: Owner, tmp_path: Path) -> None:
    person = make_person(api.url, owner.key, tmp_path)
    ended = person.succeed(
        "login", api.url, given=f"{owner.key}\n".encode(), ASSAY_KEY="", ASSAY_URL=""
    )
    assert ended.out == ""
    kept = person.home / "assay" / "login.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    person.succeed("ls", ASSAY_KEY="", ASSAY_URL="")
    kept.chmod(0o640)
    refused = person.run("ls", ASSAY_KEY="", ASSAY_URL="")
    assert (refused.status, "can be read by other users" in refused.err) == (
        NotAllowed.status,
        True,
    )


def test_login_does_not_save_a_key_that_the_server_refuses(api: Api, person: Person) -> None:
    ended = person.run("login", api.url, given=b"assay_wrong\n", ASSAY_KEY="")
    assert ended.status == NotAllowed.status
    assert not (person.home / "assay" / "login.json").exists()


def test_login_does_not_show_the_key_on_the_terminal(
    api: Api, owner: Owner, person: Person
) -> None:
    with person.at_terminal("login", ASSAY_KEY="") as terminal:
        terminal.read_until(b"Key for ")
        terminal.type(f"{owner.key}\n")
        assert terminal.finish() == 0
    assert owner.key.encode() not in terminal.shown
    assert b"signed in" in terminal.shown
    person.succeed("ls", ASSAY_KEY="")
