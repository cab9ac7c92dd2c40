"""Odd files, arguments and environments of the client's commands: one line each, and the others go
on.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from assay import Client
from service.cli.client.exit_codes import Failed, NotFound, SomeFailed, WrongUse
from service.resources import Resources
from tests.e2e.jobs import check_all
from tests.e2e.people import Ended, Person, write_files
from tests.support.preloaded import ASSAY
from tests.support.servers import reachable_folder

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

MIB = 1024**2
UNKNOWN = "0198f1c2-0000-7000-8000-000000000000"
LATIN = os.fsdecode(b"caf\xe9")
LATEST = 15032385535
"""The last second that ext4 can store, in the year 2446."""


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def stored(person: Person) -> dict[str, str]:
    """Return the name and digest of each file that the server has."""
    with Client(person.url, person.key) as client:
        return {file.filename: file.hash or "" for file in client.list()}


def run_in_shell(person: Person, script: str, **changes: str) -> Ended:
    """Run a script of the shell, in which `assay` is the command."""
    command = f'assay() {{ "{sys.executable}" -m service "$@"; }}; {script}'
    ended = subprocess.run(
        ["bash", "-c", command],
        cwd=person.folder,
        env=person.environ(**changes),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert b"Traceback" not in ended.stderr, ended.stderr
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


# Streams that are not ready


def open_pipe(*, blocks: bool) -> tuple[int, int]:
    """Return both ends of a small pipe, of which the command's end may be non-blocking."""
    reading, writing = os.pipe()
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, blocks)
    return reading, writing


@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_a_download_waits_for_a_non_blocking_pipe(person: Person, unbuffered: str) -> None:
    body = os.urandom(5_000_000)
    write_files(person.folder, {"big.bin": body})
    person.succeed("put", "big.bin")
    reading, writing = open_pipe(blocks=False)
    process = subprocess.Popen(
        [*ASSAY, "get", "big.bin", "-o", "-"],
        cwd=person.folder,
        env=person.environ(PYTHONUNBUFFERED=unbuffered),
        stdout=writing,
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        received = pipe.read()
    assert process.wait(60) == 0
    assert digest(received) == digest(body)


@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_a_list_waits_for_a_non_blocking_pipe(person: Person, unbuffered: str) -> None:
    write_files(
        person.folder, {f"many/{'n' * 200}{number}": b"%d" % number for number in range(60)}
    )
    person.succeed("put", "-r", "many")
    expected = person.succeed("ls", "--json").out
    reading, writing = open_pipe(blocks=False)
    process = subprocess.Popen(
        [*ASSAY, "ls", "--json"],
        cwd=person.folder,
        env=person.environ(PYTHONUNBUFFERED=unbuffered),
        stdout=writing,
    )
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == expected
    assert process.wait(60) == 0


async def test_an_upload_waits_for_a_non_blocking_pipe(
    person: Person, resources: Resources
) -> None:
    body = os.urandom(3_000_000)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    process = person.start("put", "-", "--name", "a", "--json", stdin=reading)
    os.close(reading)

    def feed() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(body)

    threading.Timer(1.0, feed).start()  # long after the command has begun to read
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["file"]["hash"] == digest(body)
    await check_all(resources)


def test_a_pipe_of_the_shell_can_be_the_target(person: Person) -> None:
    write_files(person.folder, {"a.txt": b"proved"})
    person.succeed("put", "a.txt")
    ended = run_in_shell(person, "assay get a.txt -q -o /dev/stdout | cat")
    assert (ended.status, ended.out, ended.err) == (0, "proved", "")
    ended = run_in_shell(person, "assay get a.txt -q -o >(cat >copy); wait $!")
    assert (ended.status, ended.err) == (0, "")
    assert (person.folder / "copy").read_bytes() == b"proved"
    assert run_in_shell(person, "assay get a.txt -o-").out == "proved"


# Standard streams that are closed or full


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", "<&-", "<&- 2>&-"])
def test_a_file_is_sent_without_standard_error_and_input(person: Person, closed: str) -> None:
    write_files(person.folder, {"new.txt": b"new", "big.bin": os.urandom(40 * MIB)})
    ended = run_in_shell(person, f"assay put --json new.txt big.bin {closed}")
    assert ended.status == 0
    assert {said["outcome"] for said in ended.objects} == {"sent"}
    assert stored(person)["new.txt"] == digest(b"new")
    assert stored(person)["big.bin"] == digest((person.folder / "big.bin").read_bytes())
    assert not person.read_state_folder()[-1].name.endswith(".upload")


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (">&-", "standard output: it is closed\n"),
        (">/dev/full", "standard output: No space left on device\n"),
        ("| true", ""),
        ("<&- >&-", "standard output: it is closed\n"),
    ],
)
def test_files_are_sent_and_deleted_although_the_output_is_lost(
    person: Person, lost: str, reason: str
) -> None:
    write_files(person.folder, {f"{number}.txt": b"%d" % number for number in range(3)})
    ended = run_in_shell(person, f"set -o pipefail; assay put *.txt {lost}")
    assert (ended.status, ended.out, ended.err) == (Failed.status, "", reason)
    assert stored(person) == {f"{number}.txt": digest(b"%d" % number) for number in range(3)}
    ended = run_in_shell(person, f"set -o pipefail; assay get *.txt -o back/ {lost}")
    assert (ended.status, ended.out, ended.err) == (Failed.status, "", reason)
    assert (person.folder / "back" / "2.txt").read_bytes() == b"2"
    ended = run_in_shell(
        person, f"ids=$(assay ls --json | cut -d'\"' -f4); set -o pipefail; assay rm $ids {lost}"
    )
    assert (ended.status, ended.out, ended.err) == (Failed.status, "", reason)
    assert stored(person) == {}
    quiet = run_in_shell(person, f"set -o pipefail; assay put --quiet *.txt {lost}")
    assert (quiet.status, quiet.err) == (0, "")


@pytest.mark.parametrize("command", ["ls", "ls --json", "info {id}", "share {id}", "get a -o -"])
def test_a_lost_list_is_an_error(person: Person, command: str) -> None:
    write_files(person.folder, {"a": b"a"})
    [sent] = person.succeed("put", "a", "--json").objects
    command = command.format(id=sent["file"]["id"])
    for lost, reason in ((">/dev/full", "No space left on device"), (">&-", "it is closed")):
        ended = run_in_shell(person, f"assay {command} {lost}")
        assert ended.status == Failed.status
        assert ended.err.splitlines()[-1] == f"standard output: {reason}"
    ended = run_in_shell(person, f"set -o pipefail; assay {command} | true")
    assert (ended.status, ended.out) == (Failed.status, "")
    assert "standard output" not in ended.err


def test_a_closed_standard_input_cannot_be_sent(person: Person) -> None:
    ended = run_in_shell(person, "assay put - --name a <&-")
    assert ended.status == Failed.status
    assert ended.err.count("\n") == 1
    assert stored(person) == {}
    ended = run_in_shell(person, "assay login http://127.0.0.1:1 <&-")
    assert (ended.status, ended.err) == (Failed.status, "standard input: it is closed\n")


# Sizes, times, depths


VERSION = Path("/proc/version")


async def test_a_file_of_the_kernel_is_read_to_its_end(
    person: Person, resources: Resources
) -> None:
    body = await asyncio.to_thread(VERSION.read_bytes)
    assert body
    person.succeed("put", "/proc/version")
    assert stored(person) == {"version": digest(body)}
    (person.folder / "empty").touch()
    person.succeed("put", "empty")
    assert stored(person)["empty"] == digest(b"")
    await check_all(resources)


@pytest.mark.parametrize("size", [100, 200_000, 40 * MIB])
@pytest.mark.parametrize("seconds", [LATEST, -(2**31), 253402300799])
def test_a_file_of_any_time_is_sent_and_skipped(person: Person, seconds: int, size: int) -> None:
    write_files(person.folder, {"x": os.urandom(size), "y": b"y"})
    os.utime(person.folder / "x", (seconds, seconds))
    person.succeed("put", "x", "y")
    assert stored(person)["x"] == digest((person.folder / "x").read_bytes())
    assert {said["outcome"] for said in person.succeed("put", "x", "y", "--json").objects} == {
        "skipped"
    }


def make_deep(folder: Path, name: str, depth: int) -> None:
    """Create folders below each other. Their path may be longer than a path may be."""
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)


def test_a_folder_of_1200_levels_does_not_end_the_run(person: Person) -> None:
    write_files(person.folder, {"f/a": b"a", "f/z": b"z"})
    make_deep(person.folder / "f", "d", 1200)
    ended = person.succeed("put", "-r", "f")
    assert ended.out.count("\n") == 3
    fetched = person.succeed("get", "-r", "f", "-o", "back")
    assert fetched.out.count("\n") == 3
    subprocess.run(["rm", "-r", person.folder / "f", person.folder / "back"], check=True)


def test_a_path_that_is_too_long_is_one_line(person: Person) -> None:
    write_files(person.folder, {"f/a": b"a", "f/z": b"z"})
    make_deep(person.folder / "f", "d" * 100, 60)
    ended = person.run("put", "-r", "f")
    assert ended.status == SomeFailed.status
    assert set(stored(person)) == {"a", "z"}
    assert "File name too long\n" in ended.err
    assert ended.err.count("\n") == 2  # the folder, and the summary
    subprocess.run(["rm", "-r", person.folder / "f"], check=True)


def test_a_journal_of_nuls_starts_over(person: Person) -> None:
    write_files(person.folder, {"big.bin": os.urandom(40 * MIB), "small": b"s"})
    person.succeed("put", "big.bin")
    state = person.home / "assay" / "uploads"
    name = hashlib.sha256(f"{person.url}\0{person.folder / 'big.bin'}".encode()).hexdigest()[:40]
    (state / f"{name}.upload").write_bytes(bytes(8192))
    person.succeed("put", "--force", "big.bin", "small")
    assert list(state.iterdir()) == []


# Arguments


@pytest.mark.parametrize(
    "arguments",
    [
        ("ls", "--name", LATIN),
        ("ls", "--type", LATIN),
        ("ls", "--hash", LATIN),
        ("ls", "--name", ""),
        ("ls", "--since", LATIN),
        ("ls", "--since", "9999-12-31T23:59:59-12:00"),
        ("ls", "--limit", "9" * 5000),
        ("ls", "--limit", "0"),
        ("ls", "--state", LATIN),
        ("ls", "--url", f"http://{LATIN}"),
        ("ls", "--url", "http://[::1"),
        ("ls", "--retry-for", "999999999999d"),
        ("ls", f"--{LATIN}"),
        ("put", "x", "--sha256", "zz"),
        ("put", "x", "--sha256", ""),
        ("put", "x", "--name", LATIN),
        ("put", "x", "--name", ""),
        ("put", "x", "--type", LATIN),
        ("put", "x", "--meta", f"a={LATIN}"),
        ("put", "x", "--jobs", "100000000000000000000"),
        ("put", "x", "--jobs", "0"),
        ("get", "x", "--jobs", "1000000"),
        ("get", LATIN),
        ("get", "x", "-o", ""),
        ("info", LATIN),
        ("rm", "zz"),
        ("rm", "-"),
        ("share", "zz"),
        ("share", UNKNOWN, "--expires", "1e99"),
    ],
    ids=ascii,
)
def test_a_wrong_argument_is_one_line_and_status_2(
    person: Person, arguments: tuple[str, ...]
) -> None:
    write_files(person.folder, {"x": b"x"})
    ended = person.run(*arguments)
    assert (ended.status, ended.out) == (WrongUse.status, "")
    assert ended.err.count("\n") == 1
    assert stored(person) == {}


@pytest.mark.parametrize("limit", ["100000000000000000000", str(2**63), "1001"])
def test_a_limit_beyond_all_files_lists_them_all(person: Person, limit: str) -> None:
    write_files(person.folder, {"x": b"x"})
    person.succeed("put", "x")
    assert person.succeed("ls", "--limit", limit).out.count("\n") == 1


def test_one_wrong_id_or_name_does_not_stop_the_others(person: Person) -> None:
    write_files(person.folder, {"x": b"x"})
    [sent] = person.succeed("put", "x", "--json").objects
    file_id = sent["file"]["id"]
    ended = person.run("info", "zz", file_id)
    assert (ended.status, ended.err.count("\n")) == (SomeFailed.status, 2)
    assert file_id in ended.out
    ended = person.run("get", LATIN, "x", "-o", "out/")
    assert (ended.status, ended.err.count("\n")) == (SomeFailed.status, 2)
    assert (person.folder / "out" / "x").read_bytes() == b"x"
    assert person.run("rm", LATIN, UNKNOWN, file_id).status == SomeFailed.status
    assert stored(person) == {}


def test_a_single_hyphen_can_be_a_name(person: Person) -> None:
    write_files(person.folder, {"x": b"x"})
    person.succeed("put", "x", "--name", "-")
    assert stored(person) == {"-": digest(b"x")}
    assert person.succeed("get", "-", "-o", "-").out == "x"


# Environments


NO_FOLDER: Mapping[str, Any] = {"XDG_STATE_HOME": "", "XDG_CONFIG_HOME": ""}


@pytest.mark.parametrize("home", ["", "/dev/null", "/proc", "relative"])
def test_files_are_sent_without_a_usable_home_folder(person: Person, home: str) -> None:
    write_files(person.folder, {"x": b"x", "big": os.urandom(40 * MIB)})
    changes: dict[str, Any] = {**NO_FOLDER, "HOME": home}
    ended = person.succeed("put", "x", "big", **changes)
    assert "no record is kept" in ended.err or home == ""  # without HOME, the user's own is used
    if home:
        assert ended.err.count("\n") == 1
    assert person.run("put", "-", "--name", "p", given=b"p", **changes).err == ""
    assert stored(person) == {
        "x": digest(b"x"),
        "p": digest(b"p"),
        "big": digest((person.folder / "big").read_bytes()),
    }
    assert person.succeed("ls", **changes).out.count("\n") == 3
    assert person.run("ls", ASSAY_KEY="", **changes).err.count("\n") == 1
    assert {path.name for path in person.folder.iterdir()} == {"x", "big"}


HOMELESS = """
import os, sys
import service.cli.client.login
from service.cli import main

url, *given = sys.argv[1:]

def call(*words):
    sys.argv = ["assay", *words]
    try:
        main()
    except SystemExit as ending:
        return ending.code

call("put", "-q", "first", "--url", url)  # root can import the modules that the next call needs
del os.environ["XDG_STATE_HOME"], os.environ["XDG_CONFIG_HOME"]
os.setgroups([]); os.setgid(54321); os.setuid(54321)
sys.exit(call(*given))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without a home")
def test_a_user_without_any_home_can_send_and_cannot_sign_in(person: Person) -> None:
    environ = person.environ(HOME="")

    def run(folder: Path, *arguments: str, given: bytes = b"") -> Any:
        return subprocess.run(
            [sys.executable, "-c", HOMELESS, person.url, *arguments],
            cwd=folder,
            env=environ,
            input=given,
            capture_output=True,
            timeout=60,
            check=False,
        )

    with reachable_folder() as folder:
        write_files(folder, {"first": b"first", "x": b"x"})
        sent = run(folder, "put", "x")
        assert (sent.returncode, sent.stderr.count(b"\n")) == (0, 1), sent.stderr
        assert b"there is no home folder" in sent.stderr
        assert stored(person) == {"first": digest(b"first"), "x": digest(b"x")}
        refused = run(folder, "login", person.url, given=person.key.encode())
        assert (refused.returncode, refused.stderr.count(b"\n")) == (Failed.status, 1)
        assert b"XDG_CONFIG_HOME" in refused.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LANG": "xx_YY.nonsense", "LC_ALL": ""},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "ascii:strict", "COLUMNS": "0", "TERM": "", "TZ": "Nowhere/None"},
    ],
)
def test_names_survive_any_locale(person: Person, changes: dict[str, Any]) -> None:
    write_files(person.folder, {"é ü.txt": b"e"})
    person.succeed("put", "é ü.txt", **changes)
    person.succeed("put", "é ü.txt", "--name", "ö", "--meta", "ä=ß", **changes)
    assert stored(person) == {"é ü.txt": digest(b"e"), "ö": digest(b"e")}
    assert person.succeed("ls", "--name", "ö", **changes).out.count("\n") == 1
    assert person.run("get", "é ü.txt", "-o", "out/", **changes).status in (0, Failed.status)


@pytest.mark.parametrize("columns", ["0", "00", "-1", "99999999999", "\u0663", "x", ""])
@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_help_is_printed_for_any_width(person: Person, columns: str, term: str) -> None:
    shown = person.succeed(COLUMNS=columns, TERM=term).out
    assert "Send files, folders or standard input." in shown
    assert len(shown) < 10_000


@pytest.mark.parametrize(
    "named", [("/dev/stdin", "/dev/stdin"), ("-", "/dev/stdin"), ("/dev/fd/0", "-"), ("fifo",) * 2]
)
async def test_a_pipe_that_is_named_twice_is_sent_once(
    person: Person, resources: Resources, named: tuple[str, str]
) -> None:
    body = os.urandom(300_000)
    fifo = person.folder / "fifo"
    os.mkfifo(fifo)
    if "fifo" in named:
        writer = threading.Thread(target=fifo.write_bytes, args=(body,))
        writer.start()
        ended = person.run("put", *named, "--json")
        writer.join()
    else:
        ended = person.run("put", *named, "--json", given=body)
    assert ended.status == SomeFailed.status
    assert "is the same pipe as another argument" in ended.err
    assert [*stored(person).values()] == [digest(body)]
    await check_all(resources)


# Names and modes


@pytest.mark.parametrize("name", [UNKNOWN, "d41d8cd98f00b204e9800998ecf8427e", "ab" * 32])
def test_a_name_that_looks_like_an_id_can_be_fetched(person: Person, name: str) -> None:
    write_files(person.folder, {name: b"named"})
    person.succeed("put", name)
    assert person.succeed("get", "--by-name", name, "-o", "-").out == "named"
    plain = person.run("get", name, "-o", "-")
    assert plain.status == (NotFound.status if name == UNKNOWN else 0)
    assert "--by-name" in plain.err or plain.out == "named"
    write_files(person.folder, {f"{name}.d/{name}/a": b"below"})
    person.succeed("put", "-r", f"{name}.d/{name}")
    person.succeed("get", "--by-name", "-r", name, "-o", "back")
    assert (person.folder / "back" / name / "a").read_bytes() == b"below"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o755])
def test_a_replaced_file_keeps_its_mode(person: Person, mode: int) -> None:
    write_files(person.folder, {"a": b"theirs"})
    person.succeed("put", "a")
    write_files(person.folder, {"a": b"mine", "fresh": b""})
    (person.folder / "a").chmod(mode)
    person.succeed("get", "a", "--force")
    assert (person.folder / "a").read_bytes() == b"theirs"
    assert (person.folder / "a").stat().st_mode & 0o7777 == mode
    person.succeed("get", "a", "-o", "new")
    fresh = (person.folder / "fresh").stat().st_mode
    assert (person.folder / "new").stat().st_mode == fresh


# Hidden names


async def test_hidden_names_are_written_only_on_request(
    person: Person, resources: Resources
) -> None:
    tree = {
        "home/.ssh/authorized_keys": b"planted",
        "home/.profile": b"planted",
        "home/docs/.git/hooks/x": b"planted",
        "home/docs/a.txt": b"good",
    }
    write_files(person.folder / "sent", tree)
    sending = Person(person.url, person.key, person.home, person.folder / "sent")
    sending.succeed("put", "-r", "home")
    ended = person.run("get", "-r", "home", "-o", "out")
    assert ended.status == SomeFailed.status
    assert ended.err.count("\n") == 4  # one for each hidden file, and the summary
    assert ended.err.count("--hidden") == 3
    written = [path for path in (person.folder / "out").rglob("*") if path.is_file()]
    assert written == [person.folder / "out" / "home" / "docs" / "a.txt"]
    assert not (person.folder / "out" / "home" / ".ssh").exists()
    person.succeed("get", "-r", "home", "-o", "out", "--hidden")
    assert {
        path.relative_to(person.folder / "out").as_posix(): path.read_bytes()
        for path in (person.folder / "out").rglob("*")
        if path.is_file()
    } == tree
    await check_all(resources)


def test_a_hidden_name_that_the_user_has_typed_is_written(person: Person) -> None:
    write_files(person.folder / "sent", {".profile": b"planted", "a": b"a"})
    sending = Person(person.url, person.key, person.home, person.folder / "sent")
    sent = sending.succeed("put", ".profile", "a", "--json").objects
    file_id = next(one["file"]["id"] for one in sent if one["source"] == ".profile")
    assert person.run("get", file_id).status == Failed.status
    assert person.run("get", "*").status == SomeFailed.status
    assert person.run("get", ".*").status == Failed.status
    assert {path.name for path in person.folder.iterdir()} == {"sent", "a"}
    person.succeed("get", file_id, "-o", "chosen")
    person.succeed("get", ".profile")
    assert (person.folder / ".profile").read_bytes() == b"planted"
    (person.folder / ".profile").unlink()
    person.succeed("get", ".*", "--hidden")
    assert (person.folder / ".profile").read_bytes() == b"planted"
