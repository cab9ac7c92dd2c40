"""The file names that the client accepts from a server, and how a terminal shows them."""

import subprocess
from pathlib import Path

import pytest

from service.cli.client.checksums import format_checksum
from service.cli.client.display import show, show_seconds, show_size
from service.cli.client.names import UnsafeName, check_name, split_path

EMOJI = "😀" * 63 + "abc"  # 255 bytes


@pytest.mark.parametrize(
    "name",
    [
        "a.txt",
        "ä b.txt",
        EMOJI,
        ".hidden",
        "..a",
        "console.txt",
        "com10",
        "a:b",
        "10:30.log",
        "nul-1",
        "👨‍👩‍👧",
    ],
)
def test_a_plain_name_is_accepted_unchanged(name: str) -> None:
    assert check_name(name, windows=False) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../../etc/passwd",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "C:\\x",
        "a\r\nb",
        "a\0b",
        "\x1b[2J",
        "a\x9bb",
        "\u202egpj.exe",
        "a\u2066b",
        *(
            "CON",
            "con",
            "Con.txt",
            "nul.tar.gz",
            "COM1",
            "lpt¹",
            "AUX ",
            "CONIN$",
            "con:",
            "PRN .txt",
            EMOJI + "d",
            "\ud800",
        ),
    ],
)
def test_an_unsafe_name_is_refused(name: str) -> None:
    for windows in (True, False):
        with pytest.raises(UnsafeName):
            check_name(name, windows=windows)


@pytest.mark.parametrize("name", ["a:b", "a.", "a ", "what?", "<img onerror>"])
def test_names_that_windows_would_change_are_refused_there(name: str) -> None:
    assert check_name(name, windows=False) == name
    with pytest.raises(UnsafeName):
        check_name(name, windows=True)


def test_a_kept_path_is_relative_and_stays_in_its_folder() -> None:
    assert split_path("photos/2024/a.jpg", windows=False) == ["photos", "2024", "a.jpg"]
    for wrong in (
        "/etc/passwd",
        "../a",
        "a/../b",
        "a/..",
        "a//b",
        "a/",
        "",
        ".",
        "a/./b",
        "C:/x",
        "c:x",
        "\\\\host\\share",
        "a\\..\\b",
        "a/CON/b",
        "a\0/b",
    ):
        with pytest.raises(UnsafeName):
            split_path(wrong, windows=False)


def test_control_characters_are_escaped() -> None:
    assert show("ä b 😀 👨‍👩‍👧 فارسی.txt") == "ä b 😀 👨‍👩‍👧 فارسی.txt"
    assert show("\x1b]0;title\x07") == "\\x1b]0;title\\x07"
    assert show("a\r\nb\tc") == "a\\r\\nb\\tc"
    assert show("\x9b2J\x7f") == "\\x9b2J\\x7f"
    assert show("\u202egpj.exe") == "\\u202egpj.exe"
    assert show("\u2028\ufeff\U000e0041") == "\\u2028\\ufeff\\U000e0041"
    assert show(b"caf\xe9".decode(errors="surrogateescape")) == "caf\\xe9"
    for number in [
        *range(0x20),
        *range(0x7F, 0xA0),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    ]:
        assert chr(number) not in show(f"a{chr(number)}b")


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2, "1.0 MiB"),
        (20 * 1024**3, "20 GiB"),
        (5 * 1024**4, "5.0 TiB"),
    ],
)
def test_sizes_are_rounded(size: int, shown: str) -> None:
    assert show_size(size) == shown


def test_durations_are_shown_as_on_a_clock() -> None:
    assert [show_seconds(seconds) for seconds in (7, 725, 10800)] == ["0:07", "12:05", "3:00:00"]


def test_sha256sum_reads_the_checksums(tmp_path: Path) -> None:
    names = ["plain.txt", "with blank", "back\\slash", "new\nline", "-dash", " lead", "ä😀"]
    listed = subprocess.run(
        ["sha256sum", "--", *names],
        cwd=make_files(tmp_path, names),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    digests = [line.removeprefix("\\")[:64] for line in listed.splitlines()]
    lines = [format_checksum(digest, name) for digest, name in zip(digests, names, strict=True)]
    assert "\n".join([*lines, ""]) == listed
    (tmp_path / "sums").write_text("\n".join([*lines, ""]))
    checked = subprocess.run(
        ["sha256sum", "--strict", "-c", "sums"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count(": OK") == len(names)


def make_files(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).write_text(name)
    return folder
