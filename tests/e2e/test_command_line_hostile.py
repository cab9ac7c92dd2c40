"""Tests of hostile names that a server could send.

No name may become a path outside the target, and no control character of a name may reach a
terminal.
"""

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.cli.client.exit_codes import Failed, SomeFailed
from service.resources import Resources
from tests.e2e.jobs import prove
from tests.e2e.people import Person, write_files

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

BODY = b"proved bytes"
TITLE = "\x1b]0;owned\x07"
HOSTILE = f"{TITLE}\x1b[2J\x9b31m\u202egpj.exe"
EMOJI = "😀" * 63 + "abc"
ORDERS = ("\x1b]0", "\x1b[2J", "\x9b", "\u202e", "\x07")
OURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""The escape sequences of progress bars, which move the cursor, clear lines and set colours."""


async def rename(resources: Resources, file: dict[str, Any], name: str) -> None:
    """Set a name that this server would refuse, but that another server might send."""
    await resources.pool.execute("UPDATE files SET filename = $2 WHERE id = $1", file["id"], name)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        "CON",
        "nul.txt",
        "a\r\nb",
        "a\\b",
        HOSTILE,
        "\u202egpj.exe",
        "COM1.tar.gz",
    ],
)
async def test_a_file_with_a_hostile_name_is_not_written(
    client: httpx.AsyncClient, person: Person, resources: Resources, name: str
) -> None:
    file = await prove(client, BODY)
    await rename(resources, file, name)
    (person.folder / "out").mkdir()
    ended = await asyncio.to_thread(person.run, "get", file["id"], "-o", "out")
    assert ended.status == Failed.status
    assert "not written" in ended.err
    assert not any(order in ended.out + ended.err for order in ORDERS)
    assert [path.name for path in person.folder.parent.rglob("*") if path.is_file()] == []
    await asyncio.to_thread(person.succeed, "get", file["id"], "-o", "chosen.txt")
    assert (person.folder / "chosen.txt").read_bytes() == BODY


async def test_long_and_unusual_valid_names_are_written(
    client: httpx.AsyncClient, person: Person
) -> None:
    for name in (EMOJI, "a:b <img onerror>"):
        file = await prove(client, BODY, filename=name)
        await asyncio.to_thread(person.succeed, "get", file["id"])
        assert (person.folder / name).read_bytes() == BODY


PATHS = [
    "/etc/assay-was-here",
    "../outside",
    "a/../../outside",
    "a//b",
    "a/./b",
    "",
    "C:/outside",
    "a\\..\\..\\outside",
    "CON",
    "a/nul.txt",
    "a\nb/c",
    "x/\x1b[2J",
    "x/\u202egpj.exe",
    "x/" + "y" * 256,
]


async def test_hostile_paths_are_refused_one_by_one(
    client: httpx.AsyncClient, person: Person
) -> None:
    for path in PATHS:
        await prove(client, path.encode() or b"nothing", metadata={"path": path})
    await prove(client, BODY, metadata={"path": "good/a.txt"})
    ended = await asyncio.to_thread(person.run, "get", "-r", "-o", "out")
    assert ended.status == SomeFailed.status
    assert ended.err.count("not written") == len(PATHS)
    assert not any(order in ended.out + ended.err for order in ORDERS)
    assert read_tree(person.folder) == {"out/good/a.txt": BODY}
    assert not await asyncio.to_thread(os.path.lexists, PATHS[0])


@pytest.mark.parametrize("force", [True, False])
async def test_links_in_the_target_are_not_followed(
    client: httpx.AsyncClient, person: Person, *, force: bool
) -> None:
    await prove(client, BODY, metadata={"path": "t/folder/a.txt"})
    await prove(client, BODY, metadata={"path": "t/file.txt"})
    await prove(client, BODY, metadata={"path": "t/dangling.txt"})
    await prove(client, BODY, metadata={"path": "t/good.txt"})
    outside = person.home / "outside"
    write_files(outside, {"victim": b"victim"})
    target = person.folder / "t"
    target.mkdir()
    (target / "folder").symlink_to(outside)
    (target / "file.txt").symlink_to(outside / "victim")
    (target / "dangling.txt").symlink_to(outside / "fresh")
    ended = await asyncio.to_thread(person.run, "get", "-r", *(["--force"] if force else []))
    assert ended.status == SomeFailed.status
    assert ended.err.count("a symbolic link") == 3
    assert read_tree(outside) == {"victim": b"victim"}
    assert (target / "good.txt").read_bytes() == BODY
    assert (target / "file.txt").is_symlink()


async def test_two_files_of_one_path_are_reported(
    client: httpx.AsyncClient, person: Person
) -> None:
    first, second = await prove(client, b"first"), await prove(client, b"second")
    ended = await asyncio.to_thread(person.run, "get", first["id"], second["id"], "--force")
    assert ended.status == SomeFailed.status
    assert "same path" in ended.err


async def test_no_control_sequence_of_a_name_reaches_the_terminal(
    client: httpx.AsyncClient, person: Person, resources: Resources
) -> None:
    file = await prove(client, BODY, metadata={f"k{TITLE}": f"v{TITLE}", "path": f"x/{HOSTILE}"})
    await rename(resources, file, HOSTILE)
    write_files(person.folder, {f"local\x1b]0;owned\x07\x1b[31m{'x' * 40}": os.urandom(2_000_000)})
    for arguments in (
        ["ls"],
        ["ls", "--sha256"],
        ["ls", "--json"],
        ["info", file["id"]],
        ["get", file["id"]],
        ["get", "-r"],
        ["put", "-r", "."],
    ):
        with person.at_terminal(*arguments) as terminal:
            await asyncio.to_thread(terminal.finish)
        shown = terminal.shown.decode()
        assert not any(order in shown for order in ORDERS), (arguments, shown)
        assert "\x1b" not in OURS.sub("", shown), (arguments, shown)
        if arguments[0] in ("ls", "info"):
            assert "\x1b" not in shown


async def test_markup_in_a_name_is_shown_as_text(client: httpx.AsyncClient, person: Person) -> None:
    await prove(client, os.urandom(3_000_000), filename="[red]a[bold] [link=evil.example]b.bin")
    with person.at_terminal("get", "[red]*") as terminal:
        await asyncio.to_thread(terminal.finish)
    assert b"[red]a[bold] [link=evil.example]b.bin" in terminal.shown.replace(b"\r\n", b"")


async def test_local_names_that_the_server_refuses_are_reported(person: Person) -> None:
    write_files(person.folder / "f", {"good.txt": b"good", "new\nline": b"n", "back\\slash": b"b"})
    (person.folder / "f" / os.fsdecode(b"caf\xe9")).write_bytes(b"latin")
    (person.folder / "f" / "link").symlink_to("/etc/passwd")
    ended = await asyncio.to_thread(person.run, "put", "-r", "f")
    assert ended.status == SomeFailed.status
    assert "f/good.txt" in ended.out
    assert ended.out.count("\n") == 1
    for said in (
        "f/caf\\xe9: its name is not UTF-8",
        "f/new\\nline: ",
        "f/back\\slash: ",
        "f/link: skipped",
    ):
        assert said in ended.err
