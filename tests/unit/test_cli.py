"""The parts of the command line that need no server."""

import os
import re
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.cli import FILE_COMMANDS, OPERATION_COMMANDS, main
from service.cli.dev import address_of, check_exposure, describe_exposure
from service.cli.dev_folder import choose_folder, make_identities
from service.cli.env import env, fill_line
from service.cli.errors import CommandError
from service.cli.extras import describe_missing
from service.cli.keys import check_owner, describe_keys, parse_lifetime, parse_scopes
from service.cli.platforms import describe_unsupported
from service.model import make_id
from service.queries.keys import ApiKey
from service.settings import list_variables
from tests.support.environments import COMPLETE
from tests.support.servers import reachable_folder


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch, **environ: str) -> int:
    """Return the exit status of `assay ARGUMENTS…`."""
    for name in list_variables():
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["assay", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_help_imports_no_server() -> None:
    script = (
        "import sys\nsys.argv = ['assay', '--help']\nfrom service.cli import main\n"
        "try: main()\nexcept SystemExit: print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert "dev " in done.stdout
    assert not {"litestar", "uvicorn", "asyncpg", "minio", "alembic"}.intersection(
        done.stdout.split()
    )


def test_every_command_has_a_help_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        "dev",
        "serve",
        "worker",
        "migrate",
        "bootstrap",
        "sweep",
        "import",
        "inspect",
        "keys",
        "doctor",
        "env",
    ):
        assert call([command, "--help"], monkeypatch) == 0
        assert f"assay {command}" in capsys.readouterr().out


def test_the_help_of_a_command_is_its_whole_docstring(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert call(["put", "--help"], monkeypatch) == 0
    _, first, second, *_ = capsys.readouterr().out.split("\n\n")
    assert first == "Send files, folders or standard input, and wait until each file is proved."
    assert second.startswith("Repeat the command to continue after an interruption. It skips files")


def test_the_list_of_commands_has_one_line_for_each() -> None:
    # The help of one command, which another test may have printed, changes its line.
    shown = subprocess.run(
        [sys.executable, "-m", "service", "--help"],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    for command, summary in {**FILE_COMMANDS, **OPERATION_COMMANDS}.items():
        assert re.search(rf" {command} +{re.escape(summary)} ", shown)


def test_an_unknown_command_is_explained_without_importing_the_others() -> None:
    script = (
        "import sys\nsys.argv = ['assay', 'serv']\nfrom service.cli import main\n"
        "try: main()\nexcept SystemExit: print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert 'Unknown command "serv". Did you mean "serve"?' in done.stdout + done.stderr
    assert not {"litestar", "uvicorn", "asyncpg", "minio", "alembic"}.intersection(
        done.stdout.split()
    )


def test_only_a_missing_third_party_package_means_a_missing_extra() -> None:
    wrapped = ImportError("Cannot import module 'service.cli.serve'")
    wrapped.__cause__ = ModuleNotFoundError("No module named 'litestar'", name="litestar.app")
    assert (
        describe_missing("serve", wrapped)
        == "assay serve needs the server: pip install 'assay[server]'"
    )
    assert (
        describe_missing("dev", wrapped)
        == "assay dev needs the server and both embedded servers: pip install 'assay[embedded]'"
    )
    for name in ("service.nothing", "assay", "_sqlite3"):
        assert describe_missing("serve", ModuleNotFoundError(name, name=name)) is None
    assert (
        describe_missing("serve", ImportError("cannot import name 'Router' from 'litestar'"))
        is None
    )
    assert describe_missing("serve", ValueError("litestar")) is None


def test_dev_without_embedded_servers_names_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.metadata.files", lambda _: None)
    assert call(["dev", "--data", str(tmp_path / "data"), "--port", "0"], monkeypatch) == 1
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert (
        call(
            ["dev", "--data", str(tmp_path / "data"), "--port", "0", "--minio", "/bin/true"],
            monkeypatch,
        )
        == 1
    )
    store, database = capsys.readouterr().err.splitlines()
    assert ("store is not installed" in store, "PostgreSQL is not installed" in database) == (
        True,
        True,
    )
    assert "pip install 'assay[embedded]'" in store
    assert "pip install 'assay[embedded]'" in database
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("system", "machine", "library", "macos", "supported"),
    [
        ("linux", "x86_64", ("glibc", "2.28"), "", True),
        ("linux", "aarch64", ("glibc", "2.41"), "", True),
        ("linux", "x86_64", ("glibc", "2.17"), "", False),
        ("linux", "x86_64", ("", ""), "", False),
        ("linux", "riscv64", ("glibc", "2.41"), "", False),
        ("darwin", "arm64", ("", ""), "13.6.1", True),
        ("darwin", "arm64", ("", ""), "12.7", False),
        ("darwin", "x86_64", ("", ""), "15.1", False),
        ("win32", "AMD64", ("", ""), "", False),
    ],
)
def test_dev_names_the_unsupported_platform_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    system: str,
    machine: str,
    library: tuple[str, str],
    macos: str,
    supported: bool,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with monkeypatch.context() as patch:
        patch.setattr("service.cli.platforms.sys.platform", system)
        patch.setattr("platform.machine", lambda: machine)
        patch.setattr("platform.libc_ver", lambda: library)
        patch.setattr("platform.mac_ver", lambda: (macos, ("", "", ""), machine))
        unsupported = describe_unsupported()
    assert (unsupported is None) is supported
    monkeypatch.setattr("service.cli.dev.describe_unsupported", lambda: unsupported)
    assert call(["dev"], monkeypatch) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert ("pip install 'assay[embedded]'" in line) is supported
    assert ("--minio" in line and "PostgreSQL" in line and machine in line) is not supported


def test_dev_without_a_python_module_names_the_platform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Check the message on Windows, where the command cannot be imported because Windows has no
    `fcntl`.
    """
    missing = ModuleNotFoundError("No module named 'fcntl'", name="fcntl")
    assert describe_missing("dev", missing) is None
    monkeypatch.setattr("service.cli.platforms.describe_unsupported", lambda: "not here")
    assert describe_missing("dev", missing) == "not here"
    assert describe_missing("dev", ValueError("fcntl")) is None
    assert describe_missing("serve", missing) is None


def test_all_wrong_settings_are_named_at_once_and_the_status_is_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["serve"], monkeypatch, ASSAY_UPLOAD_TTL="soon", ASSAY_UPLAOD_TTL="1h") == 2
    lines = capsys.readouterr().err.splitlines()
    for name in (
        "ASSAY_UPLAOD_TTL",
        "ASSAY_UPLOAD_TTL",
        "ASSAY_DATABASE_URL",
        "ASSAY_S3_SECRET_KEY",
        "ASSAY_WEBHOOK_TOKEN",
    ):
        assert [line for line in lines if line.startswith(f"{name} ")], name


def test_the_status_of_an_unknown_option_is_2(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(["migrate", "--fast"], monkeypatch) == 2


def test_an_unavailable_database_is_one_line_and_the_status_is_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        call(
            ["keys", "list"],
            monkeypatch,
            ASSAY_DATABASE_URL="postgresql://assay:hidden@127.0.0.1:1/assay",
        )
        == 1
    )
    said = capsys.readouterr().err
    assert "ASSAY_DATABASE_URL" in said
    assert said.count("\n") == 1
    assert "hidden" not in said


def test_the_doctor_reports_wrong_settings_as_findings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["doctor"], monkeypatch) == 1
    said = capsys.readouterr().out
    assert "failed   settings: ASSAY_DATABASE_URL is required" in said


def test_bootstrap_prints_variable_names_instead_of_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "s3cr3t-of-the-service"
    assert (
        call(
            ["bootstrap", "--print"],
            monkeypatch,
            ASSAY_S3_SECRET_KEY=secret,
            ASSAY_INCOMING_BUCKET="drop-zone",
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "$ASSAY_S3_SIGNER_ACCESS_KEY" in said
    assert "drop-zone" in said
    assert secret not in said
    assert "unseen" not in said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_public_endpoint(host: str) -> None:
    check_exposure(host, None)
    assert describe_exposure(host, None, store="http://127.0.0.1:9000", embedded=True) == []


@pytest.mark.parametrize("host", ["192.0.2.7", "0.0.0.0", "::"])  # noqa: S104  # nothing is bound
def test_other_hosts_need_the_public_endpoint_of_the_store(host: str) -> None:
    with pytest.raises(CommandError, match="ASSAY_S3_PUBLIC_ENDPOINT"):
        check_exposure(host, None)
    check_exposure(host, "http://192.0.2.7:9000")


def test_the_exposure_of_other_hosts_is_described() -> None:
    public, store = "http://192.0.2.7:9000", "http://192.0.2.7:9000"
    plain, embedded = describe_exposure("192.0.2.7", public, store=store, embedded=True)
    assert "trusted network" in plain
    assert "until a file is proved" in embedded
    assert describe_exposure("192.0.2.7", public, store=store, embedded=False) == [plain]
    *_, moved = describe_exposure(
        "192.0.2.7", public, store="http://192.0.2.7:9001", embedded=False
    )
    assert "port 9001" in moved


def test_an_address_is_one_by_which_this_machine_reaches_the_api() -> None:
    assert address_of("127.0.0.1", 8000) == "http://127.0.0.1:8000"
    assert address_of("0.0.0.0", 8000) == "http://127.0.0.1:8000"  # noqa: S104  # nothing is bound
    assert address_of("::", 8000) == "http://[::1]:8000"


def test_the_data_folder_belongs_to_the_user() -> None:
    assert choose_folder({"XDG_DATA_HOME": "/home/ada/data"}) == Path("/home/ada/data/assay")
    assert choose_folder({}).name == "assay"


def test_two_calls_make_different_identities() -> None:
    assert make_identities() != make_identities()


def test_empty_variables_are_filled_and_other_lines_are_kept() -> None:
    assert fill_line("# NAME=\n") == "# NAME=\n"
    assert fill_line("ASSAY_UPLOAD_TTL=24h\n") == "ASSAY_UPLOAD_TTL=24h\n"
    filled = fill_line("ASSAY_S3_ACCESS_KEY=\n")
    assert filled != fill_line("ASSAY_S3_ACCESS_KEY=\n")
    assert len(filled) == len("ASSAY_S3_ACCESS_KEY=\n") + 20
    assert len(fill_line("ASSAY_S3_SECRET_KEY=\n")) == len("ASSAY_S3_SECRET_KEY=\n") + 40


def test_env_writes_a_private_file_and_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "example").write_text("# secrets\nASSAY_WEBHOOK_TOKEN=\n")
    env(tmp_path / "example", output=tmp_path / ".env")
    written = (tmp_path / ".env").read_text()
    assert written.startswith("# secrets\nASSAY_WEBHOOK_TOKEN=")
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    with pytest.raises(CommandError, match="exists already"):
        env(tmp_path / "example", output=tmp_path / ".env")
    assert (tmp_path / ".env").read_text() == written


def test_unknown_scopes_are_refused() -> None:
    assert parse_scopes("write, read,read") == ["read", "write"]
    for wrong in ("", "read,", "everything"):
        with pytest.raises(CommandError, match="--scopes"):
            parse_scopes(wrong)


def test_lifetimes_and_owners_are_checked() -> None:
    assert parse_lifetime("30d") == timedelta(days=30)
    assert parse_lifetime(None) is None
    with pytest.raises(CommandError, match="--expires"):
        parse_lifetime("-1d")
    for wrong in ("", " ", "a\0b", "x" * 300):
        with pytest.raises(CommandError, match="--owner"):
            check_owner(wrong)


def test_the_columns_of_the_list_of_keys_are_aligned() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    key = ApiKey(
        id=make_id(),
        owner="ada",
        name="",
        scopes=["read"],
        created_at=when,
        expires_at=None,
        revoked_at=None,
    )
    heading, row = describe_keys([key]).splitlines()
    assert heading.index("SCOPES") == row.index("read")
    assert "never expires" in row


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["migrate"], 130), (["keys", "list"], 130), (["worker"], 0), (["serve"], 0)],
)
def test_an_interrupt_is_a_success_for_servers_only(
    arguments: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("service.cli.App.__call__", interrupt)
    assert call(arguments, monkeypatch) == status


@pytest.mark.parametrize("port", ["70000", "-1"])
def test_an_invalid_port_is_refused(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with reachable_folder() as folder:  # the default folder may be in use
        assert call(["dev", "--port", port, "--data", str(folder / "data")], monkeypatch) in (1, 2)
    assert "port" in capsys.readouterr().err


def test_an_occupied_port_for_metrics_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "service", "worker", "--metrics-port", str(port)]
        done = subprocess.run(
            command,
            env={**os.environ, **COMPLETE},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert f"port {port} (Address already in use)" in done.stderr
