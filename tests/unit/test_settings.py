"""Settings: each error under its variable's name, all at once."""

from datetime import timedelta
from pathlib import Path

import pytest

from service.settings import BootstrapSettings, DatabaseSettings, Settings, SettingsError, read_settings

COMPLETE = {
    "ASSAY_DATABASE_URL": "postgresql://u:p@db/assay",
    "ASSAY_S3_ENDPOINT": "http://minio:9000",
    "ASSAY_S3_ACCESS_KEY": "service",
    "ASSAY_S3_SECRET_KEY": "secret-1",
    "ASSAY_S3_SIGNER_ACCESS_KEY": "signer",
    "ASSAY_S3_SIGNER_SECRET_KEY": "secret-2",
    "ASSAY_WEBHOOK_TOKEN": "new, old",
}


def errors_of(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read_settings(environ, Settings)
    return str(caught.value).splitlines()


def test_the_required_variables_suffice_and_the_rest_has_defaults() -> None:
    settings = read_settings(COMPLETE, Settings)
    assert settings.webhook_token == ("new", "old")
    assert settings.public_endpoint == "http://minio:9000"
    assert settings.listen_url == "postgresql://u:p@db/assay"
    assert settings.upload_url_ttl == timedelta(minutes=15)


def test_every_missing_variable_is_named_at_once() -> None:
    errors = errors_of({})
    assert [line.split()[0] for line in errors] == list(COMPLETE)
    assert all("is required" in line for line in errors)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ASSAY_UPLOAD_TTL", "soon", "such as 15m"),
        ("ASSAY_UPLOAD_TTL", "8d", "at most 7 days"),
        ("ASSAY_UPLOAD_URL_TTL", "0", "above zero"),
        ("ASSAY_COPY_GRACE", "1m", "at least 1 hour"),
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
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(variable: str, value: str, said: str) -> None:
    errors = errors_of({**COMPLETE, variable: value})
    assert any(said in line for line in errors)


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("15m", 900), ("24h", 86400), ("7d", 604800), ("0.5", 0.5)])
def test_times_have_units(text: str, expected: float) -> None:
    settings = read_settings({**COMPLETE, "ASSAY_SWEEP_EVERY": text}, Settings)
    assert settings.sweep_every == timedelta(seconds=expected)


def test_a_secret_may_come_from_a_file_but_not_twice(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("from-file\n")
    environ = {name: value for name, value in COMPLETE.items() if name != "ASSAY_S3_SECRET_KEY"}
    settings = read_settings({**environ, "ASSAY_S3_SECRET_KEY_FILE": str(path)}, Settings)
    assert settings.s3_secret_key == "from-file"
    assert any("both set" in line for line in errors_of({**COMPLETE, "ASSAY_S3_SECRET_KEY_FILE": str(path)}))
    assert any("ASSAY_S3_SECRET_KEY" in line for line in errors_of({**environ, "ASSAY_S3_SECRET_KEY_FILE": str(tmp_path / "none")}))


def test_what_the_tests_and_the_client_read_is_known() -> None:
    read_settings({**COMPLETE, "ASSAY_TEST_STORES": "embedded", "ASSAY_URL": "http://x", "ASSAY_KEY": "k"}, Settings)


def test_a_repr_shows_no_secret() -> None:
    assert "secret-1" not in repr(read_settings(COMPLETE, Settings))


def test_each_process_reads_only_what_is_its_own() -> None:
    root = {"ASSAY_S3_ROOT_ACCESS_KEY": "root", "ASSAY_S3_ROOT_SECRET_KEY": "root-secret"}
    assert read_settings({**COMPLETE, **root}, BootstrapSettings).s3_root_access_key == "root"
    assert not hasattr(read_settings({**COMPLETE, **root}, Settings), "s3_root_access_key")
    assert read_settings(COMPLETE, DatabaseSettings).database_pool_size == 10
