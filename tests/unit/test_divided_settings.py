"""Tests of how several processes divide what the settings permit."""

import msgspec
import pytest

from service.cli.processes import divide
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
