"""The loop of a worker: it claims due files into its slots.

The sweeper and the scrub run beside it.

Any number of workers may run at once, because a lease lets only one of them verify a file.

A free slot goes to the owner with the fewest files in this worker. An owner that has half of the
slots therefore gets another one only while no other owner waits.

Files of at most 1 MiB have slots of their own, because they wait for the store most of the time.
These slots are filled many at once, by one statement.

Looks have slots of their own, half as many as verifications. Files that were declared and never
sent therefore delay no file that has arrived.

A file whose object could not be read is tried again in a separate slot. Each such try also costs a
probe of the store, so the slot pauses after it. Such files therefore take a small share of the
store's capacity, however many there are.

A worker claims nothing while the database does not agree with the vault
(service/marker/__init__.py).

The worker sleeps until it is notified, until the next file is due, or for POLL at most. It stops
claiming only while its own probe of the store fails (service/worker/store_health.py). It then
probes again after waits that double, up to ten seconds.

See docs/architecture.md, "Failures and back-off".
"""

import asyncio
import contextlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final

import asyncpg
import structlog

from service import clock, database
from service.model import Claim, Work
from service.queries import claims
from service.resources import WorkerResources
from service.worker.scrubber import scrub_when_due
from service.worker.store_health import StoreHealth
from service.worker.sweeper import sweep
from service.worker.verification import verify

POLL: Final = timedelta(seconds=5)
SHORTEST_SLEEP: Final = timedelta(milliseconds=50)
COPYING: Final = frozenset({Work.MEDIUM, Work.LARGE})
"""The kinds of work that share the slots of the setting WORKER_SLOTS."""
SMALL_AT_ONCE: Final = 32
"""The small files that are verified at once, each of which is held in memory."""
SMALL_A_CLAIM: Final = 16
SMALL_PAUSE_SECONDS: Final = 1.0
UNREADABLE_SLOTS: Final = 1
UNREADABLE_REST_SECONDS: Final = 1.0
GATHER_SECONDS: Final = 0.5
STOP_SECONDS: Final = 20
LOOK_FOR_SCRUB: Final = timedelta(minutes=1)

log = structlog.get_logger()


class Worker:
    """The worker of a process.

    When `run` is cancelled, verifications that end within STOP_SECONDS are completed. The others
    are cancelled and release their leases.
    """

    def __init__(self, resources: WorkerResources) -> None:
        self.resources = resources
        self.slots = resources.settings.worker_slots
        self.look_slots = max(1, self.slots // 2)
        self.hashing = ThreadPoolExecutor(self.slots + UNREADABLE_SLOTS, thread_name_prefix="hash")
        self.running: dict[asyncio.Task[None], Claim] = {}
        self.last_owners = dict.fromkeys(Work, "")
        self.small_claimed_at = 0.0
        self.health = StoreHealth(resources)

    async def run(self) -> None:
        beside = [asyncio.create_task(self.run_sweeper()), asyncio.create_task(self.run_scrubber())]
        try:
            while True:
                await self.take_turn()
        finally:
            for task in beside:
                task.cancel()
            await self.stop()
            await asyncio.gather(*beside, return_exceptions=True)

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
            wait = await self.fill_slots()
        except database.UNREACHABLE as error:
            log.warning("database unavailable", error=type(error).__name__)
            wait = timedelta(seconds=1)
        except Exception:
            log.exception("worker iteration failed")
            wait = timedelta(seconds=1)
        await self.sleep(wait)

    async def sleep(self, wait: timedelta) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait.total_seconds()):
                await self.resources.notifications.work.wait()

    def free_slots(self, work: Work) -> int:
        """Return how many files with this kind of work may begin.

        Small files begin SMALL_A_CLAIM at once, as soon as there are slots for so many. If that
        takes longer than SMALL_PAUSE_SECONDS, fewer begin, so that slow files delay no others.
        Files above 1 GiB take at most half of the slots that they share with medium ones.
        """
        held = Counter(claim.work for claim in self.running.values())
        if work == Work.SMALL:
            free = min(SMALL_A_CLAIM, SMALL_AT_ONCE - held[work])
            waited = clock.read_seconds() - self.small_claimed_at
            return free if free == SMALL_A_CLAIM or waited > SMALL_PAUSE_SECONDS else 0
        if work == Work.UNREADABLE:
            return UNREADABLE_SLOTS - held[work]
        if work == Work.LOOK:
            return self.look_slots - held[work]
        free = self.slots - held[Work.MEDIUM] - held[Work.LARGE]
        return free if work == Work.MEDIUM else min(free, max(1, self.slots // 2) - held[work])

    async def fill_slots(self) -> timedelta:
        """Begin work in the free slots, and return the time until there may be more for them."""
        standing = await self.resources.guard.check()
        if standing.stopped is not None:
            return POLL
        kinds = [work for work in Work if self.free_slots(work) > 0]
        found = await claims.find_work(
            self.resources.pool, {work: self.last_owners[work] for work in kinds}
        )
        more = False
        for due in found:
            if due.is_due and self.free_slots(due.work) > 0:
                more = await self.claim(due, standing.counter) or more
        if more:
            return timedelta(0)
        soonest = min((due.due_in for due in found), default=POLL)
        return min(max(soonest, SHORTEST_SLEEP), POLL)

    async def claim(self, due: claims.DueWork, counter: int) -> bool:
        """Claim files of these owners, and begin their work. `counter` is that of the vault.

        Return whether a file was claimed, or owners remain that were not asked for.
        """
        has_all_owners = len(due.owners) < claims.MOST_OWNERS
        self.last_owners[due.work] = "" if has_all_owners else due.owners[-1]
        claimed_at = clock.read_seconds()
        if due.work == Work.SMALL:
            self.small_claimed_at = claimed_at
        claimed = await claims.claim_files(
            self.resources.pool,
            due.work,
            self.free_slots(due.work),
            held=self.count_held(due),
            lease=self.resources.settings.lease,
            counter=counter,
        )
        for claim in claimed:
            task = asyncio.create_task(self.verify(claim, claimed_at))
            self.running[task] = claim
            task.add_done_callback(self.free_slot)
        return bool(claimed) or not has_all_owners

    def free_slot(self, ended: asyncio.Task[None]) -> None:
        """Free the slot of a claim that has ended, and wake the loop if it can claim another file.

        The claimed file itself may also be due again soon.
        """
        if self.free_slots(self.running.pop(ended).work) > 0:
            self.resources.notifications.work.set()

    def count_held(self, due: claims.DueWork) -> dict[str, int]:
        """Return how many of the slots that this kind of work can use each owner occupies."""
        kinds = COPYING if due.work in COPYING else {due.work}
        held = Counter(claim.owner for claim in self.running.values() if claim.work in kinds)
        return {owner: held[owner] for owner in due.owners}

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
        if claim.work == Work.UNREADABLE:
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

    async def run_scrubber(self) -> None:
        """Read the objects again that are due (service/worker/scrubber.py)."""
        pause = min(LOOK_FOR_SCRUB, self.resources.settings.scrub_every).total_seconds()
        while True:
            await asyncio.sleep(pause)
            try:
                await scrub_when_due(self.resources)
            except (asyncpg.PostgresError, *database.UNREACHABLE) as error:
                log.warning("scrub postponed", error=type(error).__name__)
            except Exception:
                log.exception("scrub failed")

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
