"""Workers, and requests of `complete`, that stall, lose responses, or send late requests."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import strategies as st

from service import clock
from service.database.reserved_keys import ReservedKey, ReservedKeys
from service.model import Claim, File, Sha256
from service.problems import Problem
from service.queries import claims, completing, verdicts
from service.resources import Resources
from service.uploads.completion import complete_upload
from service.worker.store_health import StoreHealth
from service.worker.verification import verify
from tests.support.faults import FaultyBucket, FaultyPool, Gate, lose_answer, lose_connection

RETRY = timedelta(seconds=1)
FAULTS = (
    "none",
    "stall after look",
    "stall before return",
    "stall before announce",
    "stall before copy",
    "stall after copy",
    "stall before commit",
    "answer lost",
    "commit lost",
    "late copy",
)
# The faults of a look, which makes no copy. Other faults need a claim after it.
FAULTS_OF_LOOKS = ("none", "stall after look", "stall before return", "stall before announce")
DISTURBANCES = (
    "lease expires, swept",
    "swept",
    "sent and announced",
    "claimed by another",
    "deleted",
    "deleted, lease expires, swept",
    "lease expires, extended",
    "digest by complete",
    "nothing",
)
STORIES = (
    ("stall before commit", "lease expires, swept"),
    ("stall before return", "sent and announced"),
    ("stall before commit", "claimed by another"),
    ("stall after copy", "swept"),
    ("stall before copy", "lease expires, extended"),
    ("stall before commit", "digest by complete"),
    ("stall before commit", "deleted, lease expires, swept"),
)
"""The sequences that the guards of the statements prevent from breaking an invariant."""

ENDS = st.sampled_from(("wakes", "wakes, then an event", "sleeps on"))
STORY = st.tuples(
    st.sampled_from(STORIES)
    | st.tuples(st.sampled_from(FAULTS[1:]), st.sampled_from(DISTURBANCES)),
    ENDS,
).map(lambda drawn: (*drawn[0], drawn[1]))


COMPLETION_FAULTS = (
    "stall after read",
    "stall before put",
    "stall after put",
    "stall before commit",
    "put lost",
    "late put",
    "answer lost",
    "commit lost",
)
COMPLETION_STORIES = (
    ("stall before commit", "lease expires, swept"),
    ("stall before commit", "claimed by another"),
    ("stall before commit", "sent and announced"),
    ("stall before commit", "deleted"),
    ("stall before put", "lease expires, swept"),
    ("late put", "nothing"),
)
COMPLETION_STORY = st.tuples(
    st.sampled_from(COMPLETION_STORIES)
    | st.tuples(st.sampled_from(COMPLETION_FAULTS), st.sampled_from(DISTURBANCES)),
    ENDS,
).map(lambda drawn: (*drawn[0], drawn[1]))


class ShiftedVault:
    """The vault of one worker, in which shifted time counts towards `send_before`."""

    def __init__(self, bucket: Any, shifted: Callable[[], timedelta]) -> None:
        self.bucket = bucket
        self.name = bucket.name
        self.shifted = shifted
        self.claimed_at = shifted()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bucket, name)

    async def copy_from(self, *args: Any, send_before: float, **options: Any) -> Any:
        send_before -= (self.shifted() - self.claimed_at).total_seconds()
        return await self.bucket.copy_from(*args, send_before=send_before, **options)

    async def put(self, *args: Any, send_before: float | None = None, **options: Any) -> Any:
        if send_before is not None:
            send_before -= (self.shifted() - self.claimed_at).total_seconds()
        return await self.bucket.put(*args, send_before=send_before, **options)


class FaultyWorker:
    """The worker of one claim, with one fault."""

    def __init__(
        self,
        resources: Resources,
        claim: Claim,
        fault: str,
        *,
        shifted: Callable[[], timedelta],
        health: StoreHealth,
    ) -> None:
        self.health = health
        self.claim = claim
        self.claimed_at = clock.read_seconds()
        self.gate = Gate()
        self.vault = FaultyBucket(ShiftedVault(resources.vault, shifted))
        self.resources: Any = self.arrange(resources, fault)
        self.task: asyncio.Task[None] | None = None

    def arrange(self, resources: Resources, fault: str) -> Resources:
        incoming, pool = FaultyBucket(resources.incoming), resources.pool
        if fault == "stall after look":
            incoming.after["head"] = incoming.after["get"] = self.gate
        elif fault == "stall before return":
            pool = FaultyPool(pool, claims.RETURN, before=self.gate)
        elif fault == "stall before announce":
            pool = FaultyPool(pool, claims.ANNOUNCE, before=self.gate)
        elif fault == "stall before copy":
            self.vault.before["copy_from"] = self.vault.before["put"] = self.gate
        elif fault == "stall after copy":
            self.vault.after["copy_from"] = self.vault.after["put"] = self.gate
        elif fault == "stall before commit":
            pool = FaultyPool(pool, verdicts.COMMIT, before=self.gate)
        elif fault == "answer lost":
            pool = FaultyPool(pool, verdicts.COMMIT, after=lose_connection)
        elif fault == "commit lost":
            pool = FaultyPool(pool, verdicts.COMMIT, before=lose_connection)
        elif fault == "late copy":
            self.vault.late |= {"copy_from", "put"}
        changed: dict[str, Any] = {"incoming": incoming, "vault": self.vault, "pool": pool}
        return msgspec.structs.replace(resources, **changed)

    async def start(self, hashing: ThreadPoolExecutor) -> None:
        """Verify the file, to the end or to the gate."""
        verification = verify(
            self.resources,
            self.claim,
            claimed_at=self.claimed_at,
            hashing=hashing,
            health=self.health,
        )
        self.task = asyncio.create_task(verification)
        reached = asyncio.create_task(self.gate.reached.wait())
        await asyncio.wait({self.task, reached}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        if self.task.done():
            await self.task

    @property
    def file_id(self) -> UUID:
        return self.claim.id

    @property
    def stalled(self) -> bool:
        return self.task is not None and not self.task.done()

    async def extend(self, lease: timedelta) -> None:
        await claims.extend_lease(self.resources.pool, self.claim, lease)

    async def shift(self, by: timedelta) -> None:
        """Do nothing, because the rows of a claim are shifted with all others."""

    async def wake(self) -> None:
        assert self.task is not None
        self.gate.opened.set()
        await self.task

    async def land(self) -> None:
        await self.vault.land()


class NotedKeys:
    """The reserved keys of a process, of which the ones that were taken are noted."""

    def __init__(self, keys: ReservedKeys) -> None:
        self.keys = keys
        self.taken: list[UUID] = []

    async def take(self) -> ReservedKey:
        key = await self.keys.take()
        self.taken.append(key.held.vault_key)
        return key


SHIFT_TAKEN = """
    UPDATE reservations SET created_at = created_at - $2::interval,
                            lease_until = lease_until - $2::interval
    WHERE vault_key = ANY ($1::uuid[]) AND doomed_at IS NULL
"""


class FaultyCompletion:
    """One request of `complete` with one fault."""

    def __init__(
        self,
        resources: Resources,
        file_id: UUID,
        fault: str,
        digest: Sha256 | None,
        *,
        shifted: Callable[[], timedelta],
    ) -> None:
        self.file_id = file_id
        self.digest = digest
        self.gate = Gate()
        self.vault = FaultyBucket(ShiftedVault(resources.vault, shifted))
        self.keys = NotedKeys(resources.reserved_keys)
        self.pool = resources.pool
        self.resources: Any = self.arrange(resources, fault)
        self.task: asyncio.Task[File | None] | None = None

    def arrange(self, resources: Resources, fault: str) -> Resources:
        incoming, pool = FaultyBucket(resources.incoming), resources.pool
        if fault == "stall after read":
            incoming.after["get"] = self.gate
        elif fault == "stall before put":
            self.vault.before["put"] = self.gate
        elif fault == "stall after put":
            self.vault.after["put"] = self.gate
        elif fault == "stall before commit":
            pool = FaultyPool(pool, completing.COMMIT, before=self.gate)
        elif fault == "put lost":
            self.vault.after["put"] = lose_answer
        elif fault == "late put":
            self.vault.late.add("put")
        elif fault == "answer lost":
            pool = FaultyPool(pool, completing.COMMIT, after=lose_connection)
        elif fault == "commit lost":
            pool = FaultyPool(pool, completing.COMMIT, before=lose_connection)
        changed: dict[str, Any] = {
            "incoming": incoming,
            "vault": self.vault,
            "pool": pool,
            "reserved_keys": self.keys,
        }
        return msgspec.structs.replace(resources, **changed)

    async def start(self) -> None:
        """Send the request, and wait for its end or for the gate."""
        self.task = asyncio.create_task(self.complete())
        reached = asyncio.create_task(self.gate.reached.wait())
        await asyncio.wait({self.task, reached}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        if self.task.done():
            await self.task

    async def complete(self) -> File | None:
        """Return the file, or None if the request was refused, as a client would see it."""
        try:
            return await complete_upload(
                self.resources, self.file_id, owner="ann", sha256=self.digest
            )
        except Problem as problem:
            assert problem.status in (409, 410)  # noqa: PT017  # the call may succeed
            return None

    @property
    def stalled(self) -> bool:
        return self.task is not None and not self.task.done()

    async def extend(self, lease: timedelta) -> None:
        """Do nothing, because the lease of a reserved key is never extended."""

    async def shift(self, by: timedelta) -> None:
        """Let time pass for the keys that were taken."""
        await self.pool.execute(SHIFT_TAKEN, self.keys.taken, by)

    async def wake(self) -> None:
        assert self.task is not None
        self.gate.opened.set()
        await self.task

    async def land(self) -> None:
        await self.vault.land()
