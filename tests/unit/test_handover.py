"""Which downloads are handed over to nginx."""

from datetime import UTC, datetime

import msgspec
import pytest

from service.downloads.handover import is_handed_over
from service.model import ProvedFile, Sha256
from service.settings import Bytes, Name, Settings, read_settings
from tests.support.environments import COMPLETE
from tests.support.rows import make_proved_file

SECRET = "s" * 32
ACCEL = {
    "ASSAY_ACCEL_REDIRECT": "/vault/",
    "ASSAY_ACCEL_SECRET": SECRET,
    "ASSAY_ACCEL_MIN_BYTES": "1000",
    "ASSAY_ACCEL_DIRECT_OWNERS": "ann, bob",
    "ASSAY_S3_READER_ACCESS_KEY": "reader",
    "ASSAY_S3_READER_SECRET_KEY": "secret-3",
}
FIELDS = {"x-assay-accel": SECRET}


@pytest.fixture
def settings() -> Settings:
    return read_settings({**COMPLETE, **ACCEL}, Settings)


def make_file(owner: str) -> ProvedFile:
    return make_proved_file(owner, size=5000, moment=datetime.now(UTC), sha256=Sha256(bytes(32)))


def test_a_body_that_is_long_enough_is_handed_over(settings: Settings) -> None:
    assert is_handed_over(settings, FIELDS, make_file("eve"), 1000)
    assert not is_handed_over(settings, FIELDS, make_file("eve"), 999)


def test_the_files_of_named_owners_are_never_handed_over(settings: Settings) -> None:
    assert settings.accel_direct_owners == (Name("ann"), Name("bob"))
    assert not is_handed_over(settings, FIELDS, make_file("bob"), 5000)


@pytest.mark.parametrize("secret", ["", "s" * 31, "s" * 33, "ß" * 32])
def test_a_request_without_the_secret_is_not_handed_over(settings: Settings, secret: str) -> None:
    assert not is_handed_over(settings, {}, make_file("eve"), 5000)
    assert not is_handed_over(settings, {"x-assay-accel": secret}, make_file("eve"), 5000)


def test_nothing_is_handed_over_without_the_settings(settings: Settings) -> None:
    off = read_settings(COMPLETE, Settings)
    assert not is_handed_over(off, {"x-assay-accel": ""}, make_file("eve"), 5000)
    small = msgspec.structs.replace(settings, accel_min_bytes=Bytes(1))
    assert is_handed_over(small, FIELDS, make_file("eve"), 1)
