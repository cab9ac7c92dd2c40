"""The store's health as seen by one worker: consecutive failures, and the last probe's outcome.

An error of the store does not show whether it concerns one object or the whole store. A probe does:
it performs the requests of a verification on a scratch object. Several consecutive failures cause a
probe. A worker stops claiming only while its last probe has failed.

The probe:

1. Check that the store serves this identity at all. If it does not, the probe has failed, and
   nothing was written.
2. Insert a reservation that names a fresh key in each bucket.
   - The database is unavailable: nothing was written, and the probe has no outcome. The error is
     raised.
3. PUT a scratch object into incoming, copy it to the vault, read the copy, compare it, and delete
   both. Each request is sent once. A write is sent only before the lease of the reservation
   expires.
   - Any error, or other bytes: the probe has failed. Doom the reservation. The sweeper deletes what
     may be stored under its keys, and does so again after COPY_GRACE.
   - The process dies: the lease expires, and the sweeper dooms the reservation.
4. Delete the reservation. Every request was answered, so nothing can appear under its keys.

See docs/architecture.md, "Failures and back-off".
"""

import asyncio
import contextlib
import secrets
from datetime import timedelta
from typing import Any, Final

import structlog

from service import clock
from service.object_store import StoreError, StoreUnavailable
from service.queries import reservations
from service.queries.reservations import Probe
from service.resources import WorkerResources
from service.telemetry.metrics import STORE_PROBES

PROBE_AFTER: Final = 3
"""The number of consecutive failures after which the store is probed."""
SCRATCH_BYTES: Final = 1024
REQUEST_SECONDS: Final = 10.0
LONGEST_WAIT: Final = timedelta(seconds=10)
"""The longest wait between two probes.

A probe of an unavailable store is one request. It can be repeated this often, so that verification
resumes soon after the store recovers.
"""

log = structlog.get_logger()


class StoreHealth:
    """The view of the store that the verifications of one worker share."""

    def __init__(self, resources: WorkerResources) -> None:
        self.resources = resources
        self.failures = 0
        self.failed_probes = 0
        self.recovered = asyncio.Event()
        self._probing = asyncio.Lock()
        self._probes_begun = 0

    @property
    def is_away(self) -> bool:
        """Return whether the last probe failed and nothing has succeeded since."""
        return self.failed_probes > 0

    @property
    def retry_in(self) -> timedelta:
        """Return the wait after a failure. Each failure doubles it, to at most LONGEST_WAIT."""
        return min(timedelta(seconds=2 ** min(self.failures, 10)), LONGEST_WAIT)

    def note_success(self) -> None:
        """Record that the store has answered a verification as a healthy store would."""
        self.failures = self.failed_probes = 0
        self.recovered.set()

    def note_failure(self) -> None:
        self.failures += 1

    async def probe(self) -> bool:
        """Run a probe and return whether it succeeded. Concurrent callers share one probe.

        The outcome is never that of a probe that began before the call. Raises the errors in
        database.UNREACHABLE if the database is unavailable.
        """
        begun = self._probes_begun
        async with self._probing:
            if self._probes_begun == begun:
                self._probes_begun += 1
                await self._run_probe()
            return not self.is_away

    async def _run_probe(self) -> None:
        error = await probe_store(self.resources)
        STORE_PROBES.labels("succeeded" if error is None else "failed").inc()
        if error is None:
            self.note_success()
        else:
            self.failed_probes += 1
            self.failures = max(self.failures, self.failed_probes)
            log.warning(
                "store unavailable", error=error, retry_seconds=self.retry_in.total_seconds()
            )

    async def wait_for_recovery(self) -> None:
        """Wait until a running verification succeeds, for at most `retry_in`.

        If none does, count a failure and probe the store.
        """
        self.recovered.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.retry_in.total_seconds()):
                await self.recovered.wait()
                return
        self.note_failure()
        await self.probe()


async def probe_store(resources: WorkerResources) -> str | None:
    """Run the protocol above. Return None if the probe succeeded, or else the error's text."""
    try:
        await resources.store.check_health(timeout_seconds=REQUEST_SECONDS)
    except StoreError as error:
        return str(error)
    send_before = clock.read_seconds() + resources.settings.lease.total_seconds()
    probe = await reservations.reserve_probe(resources.pool, lease=resources.settings.lease)
    try:
        await use_scratch_objects(resources, probe, send_before=send_before)
    except StoreError as error:
        await reservations.doom_reservation(resources.pool, probe.vault_key, probe.lease)
        return str(error)
    await reservations.forget_reservation(resources.pool, probe.vault_key, probe.lease)
    return None


async def use_scratch_objects(
    resources: WorkerResources, probe: Probe, *, send_before: float
) -> None:
    """Step 3 of the protocol above: write, copy, compare and delete. Raises StoreError."""
    incoming, vault, key = resources.incoming, resources.vault, str(probe.vault_key)
    body = secrets.token_bytes(SCRATCH_BYTES)
    described: dict[str, Any] = {
        "content_type": "application/octet-stream",
        "metadata": {},
        "tags": {},
    }
    limits: dict[str, Any] = {"send_before": send_before, "timeout_seconds": REQUEST_SECONDS}
    etag = await incoming.put(probe.scratch_key, body, **described, **limits)
    await vault.copy_from(incoming, probe.scratch_key, etag=etag, key=key, **described, **limits)
    if await vault.read(key, length=SCRATCH_BYTES, timeout_seconds=REQUEST_SECONDS) != body:
        raise StoreUnavailable("the copy of a scratch object differs from what was written")
    await incoming.delete(probe.scratch_key, timeout_seconds=REQUEST_SECONDS)
    await vault.delete(key, timeout_seconds=REQUEST_SECONDS)
