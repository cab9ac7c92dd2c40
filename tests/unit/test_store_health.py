"""The waits of a worker after failures of the store, which are at most ten seconds."""

from types import SimpleNamespace
from typing import Any

import pytest

from service.worker.store_health import LONGEST_WAIT, StoreHealth


@pytest.fixture
def health() -> StoreHealth:
    resources: Any = SimpleNamespace()  # only a probe uses it
    return StoreHealth(resources)


def wait_after(health: StoreHealth, failures: int) -> float:
    health.failures = failures
    return health.retry_in.total_seconds()


def test_waits_double_from_one_second_on(health: StoreHealth) -> None:
    assert [wait_after(health, failures) for failures in range(6)] == [1, 2, 4, 8, 10, 10]


def test_no_wait_is_longer_than_ten_seconds(health: StoreHealth) -> None:
    assert LONGEST_WAIT.total_seconds() == 10
    assert {wait_after(health, failures) for failures in range(6, 3000)} == {10}


def test_failures_alone_do_not_stop_a_worker(health: StoreHealth) -> None:
    for _ in range(100):
        health.note_failure()
    assert not health.is_away
