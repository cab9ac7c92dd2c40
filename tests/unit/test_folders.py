"""The files that `put` finds in folders, and the record of those that were sent before."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.cli.client import STANDARD_STREAM
from service.cli.client.exit_codes import Failed
from service.cli.client.folders import Pipe, Skipped, Source, Unreadable, list_sources
from service.cli.client.records import Parcel, Record, open_records


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    (photos / "2024").mkdir(parents=True)
    (photos / "2024" / "b.jpg").write_bytes(b"b")
    (photos / "a.jpg").write_bytes(b"a")
    (tmp_path / "secret").write_bytes(b"s")
    return photos


def find(arguments: list[str], **options: bool) -> list[object]:
    return list(list_sources(arguments, **{"recursive": True} | options))


def test_a_folder_keeps_its_name_for_every_spelling_of_its_path(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ["photos/2024/b.jpg", "photos/a.jpg"]
    assert [source.kept for source in find([str(tree)]) if isinstance(source, Source)] == kept
    assert [source.kept for source in find([f"{tree}/"]) if isinstance(source, Source)] == kept
    (tree.parent / "album").symlink_to(tree)
    linked = [
        source.kept for source in find([str(tree.parent / "album")]) if isinstance(source, Source)
    ]
    assert linked == [name.replace("photos/", "album/", 1) for name in kept]
    monkeypatch.chdir(tree / "2024")
    assert [source.kept for source in find([".."]) if isinstance(source, Source)] == kept
    monkeypatch.chdir(tree)
    assert [source.kept for source in find(["."]) if isinstance(source, Source)] == kept


def test_links_in_a_folder_are_not_followed(tree: Path, tmp_path: Path) -> None:
    (tree / "out").symlink_to(tmp_path / "secret")
    (tree / "up").symlink_to(tmp_path)
    (tree / "loop").symlink_to(tree)
    (tree / "nowhere").symlink_to("gone")
    os.mkfifo(tree / "pipe")
    found = find([str(tree)])
    assert {source.kept for source in found if isinstance(source, Source)} == {
        "photos/2024/b.jpg",
        "photos/a.jpg",
    }
    assert {Path(one.path).name for one in found if isinstance(one, Skipped)} == {
        "out",
        "up",
        "loop",
        "nowhere",
        "pipe",
    }


def test_files_pipes_and_links_are_accepted_by_name(tree: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tree / "a.jpg")
    names = [str(tree / "a.jpg"), str(tmp_path / "link"), str(tmp_path / "pipe"), STANDARD_STREAM]
    assert find(names) == [Source(names[0]), Source(names[1]), Pipe(names[2]), Pipe(None)]


def test_a_missing_file_does_not_prevent_the_others(tree: Path) -> None:
    missing, found = find(["/no/such", str(tree / "a.jpg")])
    assert missing == Unreadable("/no/such", "No such file or directory")
    assert found == Source(str(tree / "a.jpg"))


def test_a_folder_needs_the_recursive_option(tree: Path) -> None:
    [refused] = find([str(tree)], recursive=False)
    assert isinstance(refused, Unreadable)
    assert "-r" in refused.why


# The record of sent files

PHOTO = Parcel("http://a", "/photos/a.jpg", 5, 123, "a.jpg", None, {"path": "photos/a.jpg"})


def test_a_record_is_found_until_the_file_changes(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    with open_records(environ) as records:
        assert records.find(PHOTO) is None
        begun = records.begin(PHOTO)
    with open_records(environ) as records:
        assert records.find(PHOTO) == begun == Record(begun.idempotency_key, None, None)
        records.finish(PHOTO, file_id="id", sha256="ab")
        assert records.find(PHOTO) == Record(begun.idempotency_key, "id", "ab")
        other: dict[str, Any]
        for other in (
            {"size": 6},
            {"mtime_ns": 124},
            {"server": "http://b"},
            {"metadata": {}},
            {"filename": "b"},
            {"path": "/a.jpg"},
        ):
            assert records.find(replace(PHOTO, **other)) is None
        records.forget(PHOTO)
        assert records.find(PHOTO) is None
    assert (tmp_path / "assay").stat().st_mode & 0o777 == 0o700


def test_two_processes_that_begin_one_file_get_the_same_key(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    with open_records(environ) as one, open_records(environ) as two:
        first = one.begin(PHOTO)
        assert two.begin(PHOTO) == first
        second = two.begin(PHOTO, first)
        assert second != first
        assert one.begin(PHOTO, first) == second


def test_a_damaged_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / "assay").mkdir()
    (tmp_path / "assay" / "sent.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(Failed, match="sent again"), open_records({"XDG_STATE_HOME": str(tmp_path)}):
        pass
