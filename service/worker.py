"""The worker: takes due files into its slots, and sweeps. Any number run at once; the lease keeps them apart.

It sleeps until a signal, until the next file is due, or for POLL at the most. When the store is away it claims one file at a time,
after waits that double up to a minute, so that recovery follows the store.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final

import structlog

from service import database
from service.model import GIB, Claim
from service.queries import claims
from service.resources import Resources
from service.sweeper import sweep
from service.verification import verify

POLL: Final = timedelta(seconds=5)
LONGEST_WAIT: Final = timedelta(seconds=60)
GATHER_SECONDS: Final = 0.5
STOP_SECONDS: Final = 20

log = structlog.get_logger()


class Worker:
    """One a process. `run` until cancelled: it finishes what it can within STOP_SECONDS and gives the other leases back."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.slots = resources.settings.worker_slots
        self.hashing = ThreadPoolExecutor(self.slots, thread_name_prefix="hash")
        self.running: dict[asyncio.Task[None], Claim] = {}
        self.errors = 0

    async def run(self) -> None:
        sweeping = asyncio.create_task(self.run_sweeper())
        try:
            while True:
                await self.take_turn()
        finally:
            sweeping.cancel()
            await self.stop()

    async def take_turn(self) -> None:
        """Claim what fits, then sleep until something may have changed."""
        work = self.resources.signals.work
        work.clear()
        try:
            more = await self.fill_slots()
            wait = timedelta(0) if more and self.free_slots() else await self.time_to_sleep()
        except database.UNREACHABLE as error:
            log.warning("database away", error=type(error).__name__)
            wait = timedelta(seconds=1)
        await self.sleep(wait)

    async def sleep(self, wait: timedelta) -> None:
        woken = asyncio.ensure_future(self.resources.signals.work.wait())
        deaf = self.errors > 0  # while the store is away a signal is no reason to ask it
        waiting = {task for task in (woken, *self.running) if not (deaf and task is woken)}
        try:
            if waiting:
                await asyncio.wait(waiting, timeout=wait.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(wait.total_seconds())
        finally:
            woken.cancel()

    async def time_to_sleep(self) -> timedelta:
        if self.errors:
            return self.retry_in
        if not self.free_slots():
            return POLL
        due = await claims.find_next_due(self.resources.pool)
        return POLL if due is None else min(max(due, timedelta(milliseconds=50)), POLL)

    @property
    def retry_in(self) -> timedelta:
        """The wait after an error of the store."""
        return min(timedelta(seconds=2 ** min(self.errors, 10)), LONGEST_WAIT)

    def free_slots(self) -> int:
        return self.slots - len(self.running)

    async def fill_slots(self) -> bool:
        """Large files first, into half of the slots at most; then small ones. Whether more may be due than were asked for."""
        pool, lease = self.resources.pool, self.resources.settings.lease
        claimed_at = time.monotonic()
        free = min(self.free_slots(), 1) if self.errors else self.free_slots()
        free_large = min(free, max(1, self.slots // 2) - sum(claim.size > GIB for claim in self.running.values()))
        claimed = await claims.claim_large(pool, free_large, lease) if free_large > 0 else []
        if free > len(claimed):
            claimed += await claims.claim_small(pool, free - len(claimed), lease)
        for claim in claimed:
            task = asyncio.create_task(self.verify(claim, claimed_at))
            self.running[task] = claim
            task.add_done_callback(self.running.pop)
        return len(claimed) == free > 0

    async def verify(self, claim: Claim, claimed_at: float) -> None:
        """One claim; a fault of ours is logged and costs this file a minute, not the worker its life."""
        try:
            served = await verify(self.resources, claim, claimed_at=claimed_at, hashing=self.hashing, retry_in=self.retry_in)
            self.errors = 0 if served else self.errors + 1
        except Exception:
            log.exception("verification failed", file_id=str(claim.id))

    async def run_sweeper(self) -> None:
        """Sweep when this process left something behind, and every SWEEP_EVERY for what others did."""
        leftovers = self.resources.signals.leftovers
        while True:
            leftovers.clear()
            try:
                await sweep(self.resources)
            except database.UNREACHABLE as error:
                log.warning("sweep put off", error=type(error).__name__)
            except Exception:
                log.exception("sweep failed")
            try:
                async with asyncio.timeout(self.resources.settings.sweep_every.total_seconds()):
                    await leftovers.wait()
                await asyncio.sleep(GATHER_SECONDS)  # what is left within a moment goes in one request
            except TimeoutError:
                pass

    async def stop(self) -> None:
        """Let verifications under way end, then cancel those that did not: each gives its lease back."""
        if self.running:
            _, late = await asyncio.wait(set(self.running), timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self.hashing.shutdown(wait=False, cancel_futures=True)
