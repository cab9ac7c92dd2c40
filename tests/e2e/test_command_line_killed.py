"""Tests of commands that are killed or interrupted, and then repeated until they succeed."""

import asyncio
import hashlib
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from service.auth.principals import digest_key
from service.cli.client.exit_codes import Away, Interrupted, NotAllowed
from service.resources import Resources
from tests.e2e.conftest import Api, Owner, new_key, run_apart
from tests.e2e.jobs import check_all
from tests.e2e.leaks import keep_secret
from tests.e2e.people import Ended, Person, make_person, write_files
from tests.support.proxies import faulty_way
from tests.support.servers import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

MIB = 1024**2
KILLS = 20
START_SECONDS, LONGEST_SECONDS = 0.4, 2.5
"""The range of times, in seconds, after which a command is killed.

A command has started its work after START_SECONDS.
"""


@pytest.fixture
def tree(person: Person) -> dict[str, bytes]:
    """Write small files (sent through the API), medium ones (one PUT) and a large one (parts)."""
    contents = {f"tree/small/{number}": b"%d" % number * 1000 for number in range(150)}
    contents |= {f"tree/middle-{number}": os.urandom(2 * MIB) for number in range(3)}
    contents["tree/large"] = os.urandom(80 * MIB)
    write_files(person.folder, contents)
    return contents


def kill_until_done(person: Person, *arguments: str) -> tuple[int, Ended]:
    """Run the command, kill it at random times, and then let it end.

    Return how often it was killed, and the result of the last run. The random times are the same
    in every run of the test.
    """
    killed, chances = 0, random.Random(4)  # noqa: S311  # not a secret
    for _ in range(KILLS):
        process = person.start(*arguments)
        try:
            process.communicate(timeout=chances.uniform(START_SECONDS, LONGEST_SECONDS))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
    return killed, person.succeed(*arguments)


@pytest.mark.slow
async def test_a_folder_sent_by_a_command_that_is_killed_often_is_stored_once(
    person: Person, tree: dict[str, bytes], resources: Resources
) -> None:
    killed, _ = await asyncio.to_thread(kill_until_done, person, "put", "-r", "tree")
    assert killed > 0
    listed = (await asyncio.to_thread(person.succeed, "ls", "--state", "ready", "--json")).objects
    assert sorted(file["metadata"]["path"] for file in listed) == sorted(tree)
    assert {file["metadata"]["path"]: file["hash"] for file in listed} == {
        path: hashlib.sha256(content).hexdigest() for path, content in tree.items()
    }
    assert list((person.home / "assay" / "uploads").iterdir()) == []
    await check_all(resources)


@pytest.mark.slow
async def test_a_folder_fetched_by_a_command_that_is_killed_often_is_complete(
    person: Person, tree: dict[str, bytes]
) -> None:
    await asyncio.to_thread(person.succeed, "put", "-r", "tree")
    killed, _ = await asyncio.to_thread(kill_until_done, person, "get", "-r", "tree", "-o", "back")
    assert killed > 0
    back = person.folder / "back"
    assert {
        path.relative_to(back).as_posix(): path.read_bytes()
        for path in back.rglob("*")
        if path.is_file()
    } == tree


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "moment"),
    [
        (1000, b"POST /files/upload"),
        (2 * MIB, b"/complete"),
        (80 * MIB, b"/parts "),
        (80 * MIB, b"/complete"),
    ],
    ids=["small", "one PUT", "parts begun", "parts sent"],
)
def test_a_key_that_may_only_write_can_resume_an_upload(
    api: Api, tmp_path: Path, size: int, moment: bytes
) -> None:
    """Kill the command while the request that contains `moment` is unanswered.

    A nightly backup, for example, has a key that may only write.
    """
    with faulty_way(api.url) as (way, url):
        person = make_person(url, api.new_owner(scopes=("write",)).key, tmp_path)
        write_files(person.folder, {"backup": os.urandom(size)})
        way.silence_after(moment)
        with person.start("put", "backup") as process:
            assert way.silenced.wait(60)
            process.kill()
        way.restore()
        [sent], [again] = (person.succeed("put", "backup", "--json").objects for _ in range(2))
    assert (sent["outcome"], sent["file"]["state"], again["outcome"]) == (
        "sent",
        "ready",
        "skipped",
    )
    assert sent["file"]["id"] == again["file"]["id"]


@pytest.mark.slow
def test_an_interrupted_command_prints_how_to_continue(person: Person) -> None:
    write_files(person.folder, {f"many/{number}": b"%d" % number for number in range(600)})
    process = person.start("put", "-r", "many")
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == Interrupted.status
    assert b"repeat the command to continue" in err
    assert b"Traceback" not in err
    sent = out.count(b"\n") + 1
    assert sent < 600
    again = person.succeed("put", "-r", "many", "--json").objects
    assert len(again) == 600
    assert sum(one["outcome"] == "skipped" for one in again) >= sent
    assert len({one["file"]["id"] for one in again}) == 600


@pytest.mark.parametrize("time", range(3))
def test_an_interrupted_pipe_leaves_nothing_when_its_writer_ends(person: Person, time: int) -> None:
    """Check that the command does not treat the closed pipe as the end of the file."""
    process = person.start("put", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"x" * 2 * MIB)
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)  # `communicate` closes the pipe first
    assert process.returncode == Interrupted.status, err
    assert b"nothing of standard input was stored" in err
    assert person.succeed("ls", "--json").objects == []


def test_an_interrupt_restores_the_terminal(person: Person) -> None:
    write_files(person.folder, {f"many/{number}": b"%d" % number for number in range(600)})
    with person.at_terminal("put", "-r", "many") as terminal:
        terminal.read_until(b" of 600 files")
        terminal.type("\x03")
        assert terminal.finish() == Interrupted.status
    shown = terminal.shown
    assert b"\x1b[?25l" in shown, "no progress bar hid the cursor"
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l"), "the cursor stays hidden"
    assert b"repeat the command" in shown


async def test_a_lost_server_ends_the_run_and_the_same_command_resumes_it(
    api: Api, person: Person
) -> None:
    write_files(person.folder, {f"many/{number}": b"%d" % number for number in range(300)})
    with faulty_way(api.url) as (way, url):
        cut = Person(url, person.key, person.home, person.folder)
        process = cut.start("put", "-r", "many", "--json", "--retry-for", "2")
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline)
        way.cut()
        out, err = await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == Away.status, err
        assert err.count(b"\n") <= 2
        way.restore()
        again = (await asyncio.to_thread(cut.succeed, "put", "-r", "many", "--json")).objects
    assert len({one["file"]["id"] for one in again}) == len(again) == 300
    assert sum(one["outcome"] == "skipped" for one in again) >= out.count(b"\n")
    listed = (await asyncio.to_thread(person.succeed, "ls", "--json")).objects
    assert sorted(file["metadata"]["path"] for file in listed) == sorted(
        f"many/{number}" for number in range(300)
    )


async def test_a_revoked_key_ends_the_run_and_another_key_resumes_it(
    api: Api, owner: Owner, person: Person, resources: Resources
) -> None:
    write_files(person.folder, {f"many/{number}": b"%d" % number for number in range(600)})
    process = person.start("put", "-r", "many", "--json")
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline)
    await resources.pool.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE secret_sha256 = $1",
        digest_key(owner.key).digest,
    )
    out, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == NotAllowed.status, err
    assert err.count(b"\n") == 1
    assert out.count(b"\n") < 599
    key = run_apart(new_key(api.settings, owner.name, scopes=("read", "write"), expires_in=None))
    keep_secret([key])
    other = Person(api.url, key, person.home, person.folder)
    again = (await asyncio.to_thread(other.succeed, "put", "-r", "many", "--json")).objects
    assert len({one["file"]["id"] for one in again}) == len(again) == 600
    assert sum(one["outcome"] == "skipped" for one in again) > out.count(b"\n")


def test_a_file_that_changed_since_its_upload_began_is_sent_again(person: Person) -> None:
    path: Path = person.folder / "large"
    path.write_bytes(os.urandom(100 * MIB))
    process = person.start("put", "large")
    wait_for_journal(person)
    process.kill()
    process.communicate()
    content = os.urandom(70 * MIB)
    path.write_bytes(content)
    ended = person.succeed("put", "large")
    assert "sent again" in ended.err
    [file] = person.succeed("ls", "--state", "ready", "--json").objects
    assert file["hash"] == hashlib.sha256(content).hexdigest()


def wait_for_journal(person: Person) -> None:
    """Wait until a journal has its first line. Before that, nothing was sent."""
    folder: Path = person.home / "assay" / "uploads"
    wait_until(lambda: any(journal.stat().st_size for journal in folder.glob("*.upload")))


def test_sigterm_restores_the_cursor(person: Person) -> None:
    write_files(person.folder, {f"many/{number}": b"%d" % number for number in range(600)})
    with person.at_terminal("put", "-r", "many") as terminal:
        terminal.read_until(b" of 600 files")
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.finish() == Interrupted.status
    assert terminal.shown.rindex(b"\x1b[?25h") > terminal.shown.rindex(b"\x1b[?25l")


@pytest.mark.parametrize("arguments", [["ls"], ["put", "-r", "many"]])
def test_a_closed_output_pipe_ends_the_command_silently(
    person: Person, arguments: list[str]
) -> None:
    write_files(person.folder, {f"many/{number}": b"%d" % number for number in range(100)})
    person.succeed("put", "-r", "many", "-q")
    process = person.start(*arguments, "--json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), said) == (1, b"")
