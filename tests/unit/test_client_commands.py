"""The output and the exit statuses of the client's commands, as far as they need no server."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from assay import errors
from service.cli.client.display import show
from service.cli.client.exit_codes import (
    Away,
    Ending,
    Failed,
    NotAllowed,
    NotFound,
    Outcomes,
    Rejected,
    SomeFailed,
    explain,
)
from service.cli.client.reports import Form, Report
from service.cli.client.times import parse_moment, parse_span
from service.cli.client.types import guess_type
from service.cli.standard_streams import OutputLost

ROOT = Path(__file__).parents[2]
HEAVY = {
    "litestar",
    "uvicorn",
    "asyncpg",
    "minio",
    "alembic",
    "service.settings",
    "service.database",
}


def modules_of(*arguments: str) -> set[str]:
    """Return the modules that a command imports."""
    script = (
        "import sys\nsys.argv = ['assay', *sys.argv[1:]]\nfrom service.cli import main\n"
        "try: main()\nexcept SystemExit: print('loaded', *sys.modules)"
    )
    environ = {"ASSAY_URL": "http://127.0.0.1:1", "ASSAY_KEY": "none", "HOME": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environ,
        cwd=ROOT,
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("command", ["put", "get", "ls", "info", "rm", "share", "login"])
def test_a_client_command_imports_no_server(command: str) -> None:
    loaded = modules_of(command, "--help")
    assert f"service.cli.client.{command}" in loaded
    assert not HEAVY & loaded


def test_help_imports_neither_the_client_nor_a_markdown_parser() -> None:
    assert not (
        HEAVY | {"assay", "urllib3", "markdown_it", "rich.progress", "importlib.metadata"}
    ) & modules_of("--help")


def test_the_exit_statuses_are_documented() -> None:
    document = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    statuses = {kind.status for kind in Ending.__subclasses__()}
    assert len(statuses) == len(Ending.__subclasses__())
    for status in statuses:
        assert f"\n| {status} | " in document


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (errors.Unauthorized("no"), NotAllowed),
        (errors.Forbidden("no"), NotAllowed),
        (errors.NotFound("no"), NotFound),
        (errors.Gone("no"), NotFound),
        (errors.DigestMismatch("no"), Rejected),
        (errors.ServerUnavailable("no"), Away),
        (errors.NotAssay("no"), Away),
        (errors.StoreRefused("no", status=403, code="AccessDenied"), Failed),
        (errors.SourceChanged("no"), Failed),
        (errors.TargetFailed("no"), Failed),
        (errors.InvalidRequest("no"), Failed),
        (FileNotFoundError(2, "No such file or directory", "a"), Failed),
        (Failed("no"), Failed),
    ],
)
def test_an_error_of_the_client_has_its_ending(error: Exception, ending: type[Ending]) -> None:
    assert type(explain(error)) is ending


def test_every_error_of_the_client_has_an_ending() -> None:
    def walk(kind: type[Exception]) -> list[type[Exception]]:
        return [kind, *(below for child in kind.__subclasses__() for below in walk(child))]

    for kind in walk(errors.AssayError):
        error = kind.__new__(kind)
        Exception.__init__(error, "no")
        assert isinstance(explain(error), Ending), kind


def test_an_unexpected_exception_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = explain(ZeroDivisionError("a\nb"))
    assert type(ending) is Failed
    assert str(ending) == "unexpected error, please report it: ZeroDivisionError: a\\nb"
    monkeypatch.setattr("sys.flags", SimpleNamespace(dev_mode=True))
    with pytest.raises(ZeroDivisionError):
        explain(ZeroDivisionError())


def test_a_lost_output_is_not_an_ending() -> None:
    with pytest.raises(OutputLost):
        explain(OutputLost())


def test_control_characters_in_a_server_message_are_escaped() -> None:
    assert str(explain(errors.NotFound("a\x1b[2J\nb"))) == "a\\x1b[2J\\nb"


@pytest.mark.parametrize(
    ("done", "failed", "ending"),
    [
        (1, [Failed], SomeFailed),
        (0, [NotFound, NotFound], NotFound),
        (0, [NotFound, Failed], SomeFailed),
        (0, [Rejected], Rejected),
    ],
)
def test_the_ending_of_several_files_is_the_one_they_share(
    done: int, failed: list[type[Ending]], ending: type[Ending]
) -> None:
    outcomes = Outcomes()
    outcomes.done, outcomes.failed = done, failed
    with pytest.raises(ending):
        outcomes.end()


def test_a_command_without_failures_has_no_ending() -> None:
    Outcomes().end()


def test_json_is_ascii_and_quiet_prints_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\u202e"
    Report(Form(json=True, quiet=False), None).complain(name, "no\x9b", {"source": name})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"source": name, "error": "no\x9b"}
    assert out.isascii()
    assert "\x1b" not in out
    assert err == "a\\x1b[2J\\u202e: no\\x9b\n"
    quiet = Report(Form(json=False, quiet=True), None)
    quiet.say("done", {})
    quiet.note("skipped")
    assert capsys.readouterr() == ("", "")
    quiet.complain("a", "no", {})
    assert capsys.readouterr() == ("", "a: no\n")


def test_times_are_read_in_the_forms_that_people_write() -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert [parse_span(text) for text in ("90", "15m", "1h", "7d")] == [
        timedelta(seconds=s) for s in (90, 900, 3600, 604800)
    ]
    assert parse_moment("2h", now) == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert parse_moment("2026-01-31T12:00:00+02:00", now) == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert parse_moment("2026-01-30", now).tzinfo is UTC
    for wrong in ("", "0", "0h", "-1h", "1w", "1.5h", "9" * 12):
        with pytest.raises(ValueError, match="time"):
            parse_span(wrong)
    for wrong in ("soon", "2026-13-01", "999999999d", "12"):
        with pytest.raises(ValueError, match="is not a time"):
            parse_moment(wrong, now)


def test_a_type_is_guessed_from_the_end_of_the_name() -> None:
    assert [
        guess_type(name)
        for name in ("a.jpg", "a.txt", "a.tar.gz", "a", "data:text/html,x", "http://x/a.png")
    ] == [
        "image/jpeg",
        "text/plain",
        "application/gzip",
        None,
        None,
        "image/png",
    ]


def test_escaping_twice_changes_nothing() -> None:
    assert show(show("\x1b\u202e\n")) == show("\x1b\u202e\n")
