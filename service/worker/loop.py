"""The loop of a worker: it claims due files into its slots, and runs the sweeper.

Any number of workers may run at once, because a lease lets only one of them verify a file.

A file whose object could not be read is tried again in a separate slot. Each such try also costs a
probe of the store, so the slot pauses after it. Such files therefore take a small share of the
store's capacity, however many there are.

The worker sleeps until it is notified, until the next file is due, or for POLL at most. It stops
claiming only while its own probe of the store fails (service/worker/store_health.py). It then
probes again after waits that double, up to ten seconds.

See docs/architecture.md, "Failures and back-off".
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
from service.resources import WorkerResources as Resources
from service.worker.store_health import StoreHealth
from service.worker.sweeper import sweep
from service.worker.verification import verify

POLL: Final = timedelta(seconds=5)
UNREADABLE_SLOTS: Final = 1
UNREADABLE_REST_SECONDS: Final = 1.0
GATHER_SECONDS: Final = 0.5
STOP_SECONDS: Final = 20

log = structlog.get_logger()


class Worker:
    """The worker of a process.

    When `run` is cancelled, verifications that end within STOP_SECONDS are completed. The others
    are cancelled and release their leases.
    """

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.slots = resources.settings.worker_slots
        self.hashing = ThreadPoolExecutor(self.slots + UNREADABLE_SLOTS, thread_name_prefix="hash")
        self.running: dict[asyncio.Task[None], Claim] = {}
        self.health = StoreHealth(resources)

    async def run(self) -> None:
        sweeping = asyncio.create_task(self.run_sweeper())
        try:
            while True:
                await self.take_turn()
        finally:
            sweeping.cancel()
            await self.stop()

    async def take_turn(self) -> None:
        """Claim files for the free slots, then sleep until something may have changed.

        While the store is unavailable, wait and probe it instead. An exception is logged, and
        delays the next turn by one second.
        """
        self.resources.notifications.work.clear()
        try:
            if self.health.is_away:
                await self.health.wait_for_recovery()
                return
            more = await self.fill_slots()
            wait = timedelta(0) if more and self.free_slots() else await self.time_to_sleep()
        except database.UNREACHABLE as error:
            log.warning("database unavailable", error=type(error).__name__)
            wait = timedelta(seconds=1)
        except Exception:
            log.exception("worker iteration failed")
            wait = timedelta(seconds=1)
        await self.sleep(wait)

    async def sleep(self, wait: timedelta) -> None:
        woken = asyncio.ensure_future(self.resources.notifications.work.wait())
        try:
            await asyncio.wait(
                {woken, *self.running},
                timeout=wait.total_seconds(),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            woken.cancel()

    async def time_to_sleep(self) -> timedelta:
        small, large, unreadable = (
            self.free_slots() > 0,
            self.free_large_slots() > 0,
            self.free_unreadable_slots() > 0,
        )
        due = await claims.find_next_due(
            self.resources.pool, small=small, large=large, unreadable=unreadable
        )
        return POLL if due is None else min(max(due, timedelta(milliseconds=50)), POLL)

    def free_slots(self) -> int:
        return self.slots - sum(claim.failed_reads == 0 for claim in self.running.values())

    def free_large_slots(self) -> int:
        """Return how many large files may begin. They take at most half of the slots."""
        large = sum(claim.failed_reads == 0 and claim.size > GIB for claim in self.running.values())
        return min(self.free_slots(), max(1, self.slots // 2) - large)

    def free_unreadable_slots(self) -> int:
        return UNREADABLE_SLOTS - sum(claim.failed_reads > 0 for claim in self.running.values())

    async def fill_slots(self) -> bool:
        """Begin verifications in the free slots. Return whether more files may be due."""
        free, large, unreadable = (
            self.free_slots(),
            self.free_large_slots(),
            self.free_unreadable_slots(),
        )
        if free + unreadable <= 0:
            return False
        claimed_at = time.monotonic()
        lease = self.resources.settings.lease
        claimed = await claims.claim_files(
            self.resources.pool, free, large=large, unreadable=unreadable, lease=lease
        )
        for claim in claimed:
            task = asyncio.create_task(self.verify(claim, claimed_at))
            self.running[task] = claim
            task.add_done_callback(self.running.pop)
        return sum(claim.failed_reads == 0 for claim in claimed) == free > 0

    async def verify(self, claim: Claim, claimed_at: float) -> None:
        """Verify one claim. An unexpected exception is logged, and delays only this file."""
        try:
            await verify(
                self.resources,
                claim,
                claimed_at=claimed_at,
                hashing=self.hashing,
                health=self.health,
            )
        except Exception:
            log.exception("verification failed", file_id=str(claim.id))
        if claim.failed_reads > 0:
            await asyncio.sleep(UNREADABLE_REST_SECONDS)

    async def run_sweeper(self) -> None:
        """Sweep every SWEEP_EVERY.

        If SWEEP_DELAY is zero, also sweep when this process has left something behind.
        """
        leftovers = self.resources.notifications.leftovers
        while True:
            leftovers.clear()
            try:
                await sweep(self.resources)
            except database.UNREACHABLE as error:
                log.warning("sweep postponed", error=type(error).__name__)
            except Exception:
                log.exception("sweep failed")
            if self.resources.settings.sweep_delay:  # the leftovers just announced are not due
                await asyncio.sleep(self.resources.settings.sweep_every.total_seconds())
                continue
            try:
                async with asyncio.timeout(self.resources.settings.sweep_every.total_seconds()):
                    await leftovers.wait()
                # Leftovers that appear at almost the same time are then deleted by one request.
                await asyncio.sleep(GATHER_SECONDS)
            except TimeoutError:
                pass

    async def stop(self) -> None:
        """Wait for running verifications, and cancel those that exceed STOP_SECONDS.

        A cancelled verification releases its lease.
        """
        if self.running:
            _, late = await asyncio.wait(set(self.running), timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self.hashing.shutdown(wait=False, cancel_futures=True)
