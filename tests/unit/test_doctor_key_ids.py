"""The doctor's check for key ids that can be guessed."""

import pytest

from service.cli.env import make_value
from service.operations.doctor.identities import looks_random


@pytest.mark.parametrize(
    "key_id",
    [
        "minioadmin",
        "assay-service",
        "admin123456",
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        "short",
        "MINIO_ROOT_USER_2026",
        "assay-service-production",
        "company-backend",
        "companybackend2026",
        "company-backend-v2-2026",
        "abcdefghijkl",
        "12345678901234567890",
    ],
)
def test_a_common_key_id_is_found(key_id: str) -> None:
    assert not looks_random(key_id)


@pytest.mark.parametrize(
    "key_id", ["3f9ac27be1d05486a7c1", "Q3AM3UQ867SPQQA43P2F", "service-3f9ac27be1d05486a7c1"]
)
def test_a_random_key_id_is_accepted(key_id: str) -> None:
    assert looks_random(key_id)


def test_the_key_ids_that_assay_makes_are_accepted() -> None:
    made = [make_value("ASSAY_S3_ACCESS_KEY") for _ in range(1000)]
    assert sum(not looks_random(key_id) for key_id in made) <= 5  # 3 in 10,000 look regular
