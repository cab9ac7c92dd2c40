"""Settings and their errors, which name the variables and are reported all at once."""

import typing
from datetime import timedelta
from pathlib import Path

import pytest

from service.settings import (
    BOUNDS,
    Bytes,
    Count,
    DatabaseSettings,
    Delay,
    Deployment,
    Settings,
    SettingsError,
    WorkerSettings,
    read_settings,
)
from tests.support.environments import COMPLETE, NEW_TOKEN, OLD_TOKEN

ROOT = {"ASSAY_S3_ROOT_ACCESS_KEY": "root", "ASSAY_S3_ROOT_SECRET_KEY": "root-secret"}


def errors_of(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read_settings(environ, Settings)
    return str(caught.value).splitlines()


def test_the_required_variables_suffice_and_the_others_have_defaults() -> None:
    settings = read_settings(COMPLETE, Settings)
    assert settings.webhook_token == (NEW_TOKEN, OLD_TOKEN)
    assert settings.public_endpoint == "http://minio:9000"
    assert settings.listen_url == "postgresql://u:p@db/assay"
    assert settings.upload_url_ttl == timedelta(minutes=15)


@pytest.mark.parametrize(("text", "binds"), [("yes", True), ("no", False), ("No", False)])
def test_a_switch_is_yes_or_no(text: str, binds: bool) -> None:
    assert (
        read_settings(
            {**COMPLETE, "ASSAY_S3_BIND_ABSENT_HEADERS": text}, Settings
        ).s3_bind_absent_headers
        is binds
    )


def test_every_missing_variable_is_named_at_once() -> None:
    errors = errors_of({})
    assert [line.split()[0] for line in errors] == list(COMPLETE)
    assert all("is required" in line for line in errors)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ASSAY_UPLOAD_TTL", "soon", "such as 15m"),
        ("ASSAY_UPLOAD_TTL", "8d", "at most 7d"),
        ("ASSAY_UPLOAD_URL_TTL", "0", "above zero"),
        ("ASSAY_COPY_GRACE", "1m", "at least 2h"),
        ("ASSAY_MAX_FILE_BYTES", "5GB", "such as 64MiB"),
        ("ASSAY_MAX_FILE_BYTES", "-1", "such as 64MiB"),
        ("ASSAY_S3_ENDPOINT", "minio:9000", "must be a URL"),
        ("ASSAY_S3_ENDPOINT", "http://user:pw@minio:9000", "must be a URL"),
        ("ASSAY_VAULT_BUCKET", "Vault", "bucket name"),
        ("ASSAY_VAULT_BUCKET", "assay-incoming", "must differ"),
        ("ASSAY_WORKER_SLOTS", "many", "whole number"),
        ("ASSAY_WEBHOOK_TOKEN", "a,,b", "empty"),
        ("ASSAY_S3_SECRET_KEY", "", "empty"),
        ("ASSAY_UPLAOD_TTL", "1h", "not a setting"),
        ("ASSAY_URL_TTL", "1h", "not a setting"),
        ("ASSAY_KEYS_ROWS", "1", "not a setting"),
        ("ASSAY_S3_ENDPOINT", "http://minio:9000/x", "without a path"),
        ("ASSAY_S3_ENDPOINT", "http://minio:99999", "must be a URL"),
        ("ASSAY_S3_PUBLIC_ENDPOINT", "http://minio:abc", "must be a URL"),
        ("ASSAY_PUBLIC_URL", "https://files.example.com/\u65e5", "in ASCII and without spaces"),
        ("ASSAY_PUBLIC_URL", "https://files.example.com/a b", "in ASCII and without spaces"),
        ("ASSAY_PUBLIC_URL", "https://files.example.com/a\nb", "in ASCII and without spaces"),
        ("ASSAY_WORKER_SLOTS", "0", "1 or more"),
        ("ASSAY_DATABASE_POOL_SIZE", "0", "1 or more"),
        ("ASSAY_S3_BIND_ABSENT_HEADERS", "1", "must be yes or no"),
        ("ASSAY_LOG_LEVEL", "verbose", "debug, info, warning or error"),
        ("ASSAY_WEBHOOK_TOKEN", "a b c", "one or two words"),
        ("ASSAY_WEBHOOK_TOKEN", "schlüssel", "ASCII"),
        ("ASSAY_KEEP_ROWS", "999999999d", "36500 days"),
        ("ASSAY_LEASE", "0.001s", "at least 1s and at most 1h"),
        ("ASSAY_LEASE", "61m", "at least 1s and at most 1h"),
        ("ASSAY_UPLOAD_URL_TTL", "604801", "at most 7d"),
        ("ASSAY_MULTIPART_ABOVE", "6GiB", "at most 5GiB"),
        ("ASSAY_WORKER_SLOTS", "1001", "at most 1000"),
        ("ASSAY_WORKER_SLOTS", "\u0664", "whole number"),
        ("ASSAY_DATABASE_STATEMENT_CACHE", "999999999", "at most 10000"),
        ("ASSAY_CORS_ORIGINS", "https://app.example.com/page", "as browsers send them"),
        ("ASSAY_CORS_ORIGINS", "https://app.example.com:443", "as browsers send them"),
        ("ASSAY_CORS_ORIGINS", "https://App.example.com", "as browsers send them"),
        ("ASSAY_CORS_ORIGINS", "*", "must be a URL"),
        ("ASSAY_ACCEL_REDIRECT", "/vault", "begins and ends with /"),
        ("ASSAY_ACCEL_REDIRECT", "/vault/", "ASSAY_ACCEL_SECRET is required with ASSAY_ACCEL_RED"),
        ("ASSAY_ACCEL_REDIRECT", "/vault/", "ASSAY_S3_READER_SECRET_KEY is required with"),
        ("ASSAY_ACCEL_SECRET", "short", "at least 32"),
        ("ASSAY_ACCEL_SECRET", "a" * 31 + ",", "letters, digits"),
        ("ASSAY_ACCEL_SECRET", "a" * 32, "ASSAY_ACCEL_REDIRECT is required with ASSAY_ACCEL_SEC"),
        ("ASSAY_ACCEL_DIRECT_OWNERS", "ann", "ASSAY_ACCEL_REDIRECT is required"),
        ("ASSAY_S3_READER_ACCESS_KEY", "reader", "ASSAY_S3_READER_SECRET_KEY is required"),
    ],
)
def test_an_error_names_the_variable_and_valid_values(variable: str, value: str, said: str) -> None:
    errors = errors_of({**COMPLETE, variable: value})
    assert any(said in line for line in errors)


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("15m", 900), ("24h", 86400), ("7d", 604800), ("0.5", 0.5)]
)
def test_times_have_units(text: str, expected: float) -> None:
    settings = read_settings({**COMPLETE, "ASSAY_SWEEP_EVERY": text}, Settings)
    assert settings.sweep_every == timedelta(seconds=expected)


def test_only_the_sweep_delay_may_be_zero() -> None:
    assert read_settings(COMPLETE, Settings).sweep_delay == timedelta(minutes=5)
    assert read_settings({**COMPLETE, "ASSAY_SWEEP_DELAY": "0"}, Settings).sweep_delay == timedelta(
        0
    )
    assert read_settings(
        {**COMPLETE, "ASSAY_SWEEP_DELAY": "2m"}, Settings
    ).sweep_delay == timedelta(minutes=2)
    assert errors_of({**COMPLETE, "ASSAY_SWEEP_DELAY": "-1"}) == [
        "ASSAY_SWEEP_DELAY must be a time in seconds or in a form such as 15m, 24h or 7d"
    ]
    assert errors_of({**COMPLETE, "ASSAY_SWEEP_EVERY": "0"})


NUMBERS = sorted(BOUNDS)


def test_every_number_size_and_duration_has_bounds() -> None:
    hints = typing.get_type_hints(Settings)
    kinds = (timedelta, Delay, int, Count, Bytes)
    assert {name for name, hint in hints.items() if hint in kinds} == set(BOUNDS)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "text",
    [
        "nan",
        "inf",
        "-inf",
        "Infinity",
        "1e400",
        "1e3",
        "1e3s",
        "-1",
        "-1s",
        "+1",
        "0x10",
        "1_0",
        "٣",
        "",
        " ",
        "1 s",
        "999999999999999999999999",
        "9" * 5000,
    ],
)
def test_a_number_in_another_form_is_refused(name: str, text: str) -> None:
    variable = f"ASSAY_{name.upper()}"
    [said] = errors_of({**COMPLETE, variable: text})
    assert said.startswith(f"{variable} must be ")


@pytest.mark.parametrize("name", NUMBERS)
def test_the_bounds_of_a_setting_are_values_of_it(name: str) -> None:
    least, most = (
        getattr(read_settings({**COMPLETE, f"ASSAY_{name.upper()}": bound}, Settings), name)
        for bound in BOUNDS[name]
    )
    assert least < getattr(read_settings(COMPLETE, Settings), name) <= most


SHORT = "hunter2-hunter2"
LONGER = "hunter2-" * 4


@pytest.mark.parametrize("variable", ["ASSAY_LINK_SECRET", "ASSAY_WEBHOOK_TOKEN"])
@pytest.mark.parametrize(
    ("value", "length"),
    [
        ("x", 1),
        (LONGER[:31], 31),
        (f"{SHORT},{SHORT}!", 15),
        (f"{LONGER}, {SHORT}", 15),
    ],
)
def test_a_short_secret_is_refused_and_not_shown(variable: str, value: str, length: int) -> None:
    [said] = errors_of({**COMPLETE, variable: value})
    assert said.startswith(f"{variable} has a secret of {length} characters")
    assert "at least 32" in said
    assert "a comma separates two secrets" in said
    assert "openssl rand -hex 32" in said
    assert "hunter2" not in said


def test_the_scheme_before_a_webhook_token_does_not_make_it_longer() -> None:
    [said] = errors_of({**COMPLETE, "ASSAY_WEBHOOK_TOKEN": f"Bearer {LONGER[:31]}"})
    assert "a secret of 31 characters" in said
    token = f"Basic {LONGER}"
    assert read_settings({**COMPLETE, "ASSAY_WEBHOOK_TOKEN": token}, Settings).webhook_token == (
        token,
    )


def test_secrets_of_32_characters_are_accepted() -> None:
    environ = {**COMPLETE, "ASSAY_LINK_SECRET": f"{LONGER}, {NEW_TOKEN}"}
    assert read_settings(environ, Settings).link_secret == (LONGER, NEW_TOKEN)


def test_a_secret_comes_from_a_variable_or_a_file_but_not_both(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("from-file\n")
    environ = {name: value for name, value in COMPLETE.items() if name != "ASSAY_S3_SECRET_KEY"}
    settings = read_settings({**environ, "ASSAY_S3_SECRET_KEY_FILE": str(path)}, Settings)
    assert settings.s3_secret_key == "from-file"
    assert any(
        "both set" in line
        for line in errors_of({**COMPLETE, "ASSAY_S3_SECRET_KEY_FILE": str(path)})
    )
    assert any(
        "ASSAY_S3_SECRET_KEY" in line
        for line in errors_of({**environ, "ASSAY_S3_SECRET_KEY_FILE": str(tmp_path / "none")})
    )


def test_the_variables_of_the_tests_and_the_client_are_permitted() -> None:
    read_settings(
        {**COMPLETE, "ASSAY_TEST_STORES": "embedded", "ASSAY_URL": "http://x", "ASSAY_KEY": "k"},
        Settings,
    )


def test_a_repr_shows_no_secret() -> None:
    assert "secret-1" not in repr(read_settings(COMPLETE, Settings))


def test_each_process_reads_only_its_own_settings() -> None:
    assert read_settings({**COMPLETE, **ROOT}, Deployment).s3_root_access_key == "root"
    assert not hasattr(read_settings({**COMPLETE, **ROOT}, Settings), "s3_root_access_key")
    assert read_settings(COMPLETE, DatabaseSettings).database_pool_size == 10


def test_a_worker_needs_no_secret_of_the_api() -> None:
    environ = {
        name: value
        for name, value in COMPLETE.items()
        if "SIGNER" not in name and name != "ASSAY_WEBHOOK_TOKEN"
    }
    assert read_settings(environ, WorkerSettings).s3_access_key == "service"
    for name in ("s3_signer_secret_key", "webhook_token", "link_secret"):
        assert not hasattr(read_settings(COMPLETE, WorkerSettings), name)


def test_a_worker_checks_the_time_that_a_copy_may_take() -> None:
    with pytest.raises(SettingsError, match="ASSAY_COPY_GRACE must be at least"):
        read_settings({**COMPLETE, "ASSAY_COPY_GRACE": "1m"}, WorkerSettings)


def test_an_administrator_of_the_database_needs_a_role_to_create() -> None:
    environ = {**COMPLETE, **ROOT, "ASSAY_DATABASE_ADMIN_URL": "postgresql://root:p@db/postgres"}
    assert read_settings(environ, Deployment).database_url == COMPLETE["ASSAY_DATABASE_URL"]
    del environ["ASSAY_DATABASE_URL"]
    with pytest.raises(SettingsError, match="ASSAY_DATABASE_URL is required with"):
        read_settings(environ, Deployment)


def test_bootstrap_refuses_one_bucket_for_both_purposes() -> None:
    with pytest.raises(SettingsError, match="must differ"):
        read_settings({**COMPLETE, **ROOT, "ASSAY_INCOMING_BUCKET": "assay-vault"}, Deployment)


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "mysql://u:hunter2@db/assay",
        "postgresql://u:hunter2/x@db/assay",
        "postgresql://u:hunter2#x@db/assay",
        "postgresql://u:p@db:hunter2/assay",
        "postgresql://u:p@[hunter2/assay",
    ],
)
def test_an_invalid_database_url_is_named_and_not_shown(url: str) -> None:
    [said] = errors_of({**COMPLETE, "ASSAY_DATABASE_URL": url})
    assert said.startswith("ASSAY_DATABASE_URL must be a URL")
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://db/assay",
        "postgres://u:p%2Fq@db:5432/assay?sslmode=verify-full&sslrootcert=/ca.pem",
        "postgresql://u@one:5432,two:5433/assay?target_session_attrs=read-write",
        "postgresql://u:p@[::1]:5432/assay",
        "postgresql:///assay?host=/run/postgresql",
    ],
)
def test_a_database_url_may_have_the_forms_that_asyncpg_reads(url: str) -> None:
    assert read_settings({"ASSAY_DATABASE_URL": url}, DatabaseSettings).database_url == url
