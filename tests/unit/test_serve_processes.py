"""Tests of `assay serve --processes`: what is divided, and what prevents a start."""

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from service.cli import processes as module
from service.cli.errors import CommandError
from service.cli.processes import METRICS_FOLDER, Share, Slot, divide, shared_metrics
from service.settings import Settings, read_settings

MIB = 1024**2


@pytest.fixture
def settings() -> Settings:
    secret = "0123456789abcdef" * 4
    required = {
        field.name
        for field in msgspec.structs.fields(Settings)
        if field.required and not field.name.endswith(("_url", "_endpoint"))
    }
    return read_settings(
        {
            "ASSAY_DATABASE_URL": "postgresql://u@h/d",
            "ASSAY_S3_ENDPOINT": "http://store:9000",
            **{f"ASSAY_{name.upper()}": secret for name in required},
            "ASSAY_S3_SIGNER_ACCESS_KEY": secret[::-1],
        },
        Settings,
    )


@pytest.mark.parametrize(
    ("processes", "pool", "downloads"), [(1, 10, 32 * MIB), (3, 3, 32 * MIB // 3), (64, 1, MIB)]
)
def test_processes_divide_what_one_may_use(
    settings: Settings, processes: int, pool: int, downloads: int
) -> None:
    part = divide(settings, processes)
    assert part.database_pool_size == pool
    assert part.download_buffers == downloads
    same = {name: getattr(part, name) for name in ("database_pool_size", "download_buffers")}
    assert part == msgspec.structs.replace(settings, **same), "nothing else differs"


def test_a_machine_without_a_temporary_folder_is_told_which_variable_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(METRICS_FOLDER, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(CommandError, match=f"set {METRICS_FOLDER} to an empty folder"):
        shared_metrics().__enter__()


def test_a_folder_for_metrics_is_made_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(METRICS_FOLDER, "")  # it is restored to what it was
    monkeypatch.delenv(METRICS_FOLDER)
    with shared_metrics():
        made = Path(os.environ[METRICS_FOLDER])
        assert made.is_dir()
    assert not made.exists()


def test_a_folder_for_metrics_that_is_named_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(METRICS_FOLDER, str(tmp_path))
    with shared_metrics():
        assert os.environ[METRICS_FOLDER] == str(tmp_path)
    assert tmp_path.is_dir()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as opened:
        yield opened


def test_a_process_that_cannot_be_started_is_tried_again_later(
    settings: Settings, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_share: Share) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(module, "start", refuse)
    slot = Slot(Share(settings, listener, processes=2, with_worker=False))
    first_due = slot.due
    slot.start()
    assert slot.process is None
    assert slot.due >= first_due + module.RESTART_SECONDS
