"""How long a worker waits after errors of the store: recovery follows the store within a minute."""

from types import SimpleNamespace
from typing import Any

import pytest

from service.worker import LONGEST_WAIT, Worker


@pytest.fixture
def worker() -> Worker:
    resources: Any = SimpleNamespace(settings=SimpleNamespace(worker_slots=1))  # what it looks at before it works
    return Worker(resources)


def wait_after(worker: Worker, errors: int) -> float:
    worker.errors = errors
    return worker.retry_in.total_seconds()


def test_waits_double_from_a_second_on(worker: Worker) -> None:
    assert [wait_after(worker, errors) for errors in range(6)] == [1, 2, 4, 8, 16, 32]


def test_no_wait_is_longer_than_a_minute_however_long_the_store_was_away(worker: Worker) -> None:
    assert LONGEST_WAIT.total_seconds() == 60
    assert {wait_after(worker, errors) for errors in range(6, 3000)} == {60}
