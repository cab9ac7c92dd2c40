"""Tests of the pool of threads that a command hands its files to."""

import itertools
import sys
import threading
import time
from types import FrameType
from typing import Any

import pytest

from service.cli.client.worker_pool import WorkerPool

END_SECONDS = 60
ITEMS = 20  # more than wait for `jobs` threads, so that the caller has to wait


def work(item: int) -> None:
    """Take so long that the caller has to wait for a place."""
    del item
    time.sleep(0.001)


class Interrupt(BaseException):
    """What the tests raise in the place of KeyboardInterrupt."""


class InterruptAt:
    """A trace function that raises Interrupt before a line, counted from its first one."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, _: FrameType, event: str, __: Any) -> "InterruptAt":
        self.left -= event == "line"
        if event == "line" and self.left == 0:
            raise Interrupt
        return self


def is_interrupted(pool: WorkerPool[int], line: int) -> bool:
    """Hand over the items, and return whether there was such a line to interrupt."""
    before = sys.gettrace()
    sys.settrace(InterruptAt(line))
    try:
        for item in range(ITEMS):
            pool.hand_over(item)
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_interrupt_between_any_two_lines_spoils_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    report: Any = None  # the items succeed, and say nothing
    for line in itertools.count(1):
        pool = WorkerPool[int](work, report, name=str, jobs=2)
        interrupted = is_interrupted(pool, line)
        pool.stop()
        for thread in pool._threads:
            thread.join(END_SECONDS)  # `stop` waits for two seconds
            assert not thread.is_alive()
        assert not failed
        if not interrupted:
            break
    assert line > ITEMS
