"""The search for programs that tests need, and what happens if one is missing."""

from pathlib import Path

import pytest

from tests.support import programs


def test_a_program_in_a_folder_for_root_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "served"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(programs, "FOLDERS", (str(tmp_path),))
    assert programs.find_program("served", "served-light") == program


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)]
)
def test_a_missing_program_skips_the_test_or_fails_it_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(programs, "is_root_on_debian", lambda: False)
    with pytest.raises(outcome, match="no assay-no-such-program here"):
        programs.find_program("assay-no-such-program", "assay-no-such-package")


def test_a_missing_program_is_installed_once_by_root_on_debian(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, ...]] = []

    def run_apt(*arguments: str) -> str:
        asked.append(arguments)
        if len(asked) == 3:  # the second `install`, after `update`
            (tmp_path / "served").touch(mode=0o755)
        return "apt-get's last line"

    monkeypatch.setattr(programs, "is_root_on_debian", lambda: True)
    monkeypatch.setattr(programs, "FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(programs, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(programs, "run_apt", run_apt)
    programs.install.cache_clear()
    assert programs.find_program("served", "served-light") == tmp_path / "served"
    assert [arguments[0] for arguments in asked] == ["install", "update", "install"]
    assert asked[0][-1] == "served-light"
