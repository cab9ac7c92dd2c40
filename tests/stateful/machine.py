"""A state machine that checks the invariants after every step, in the database and both buckets.

Hypothesis chooses the steps: declarations, PUTs, poisoned objects, arrivals, workers that stall and
resume late, lost responses, requests that take effect late, sweeps, deletions, and the passing of
time.

Time passes by shifting the rows' timestamps back. Late requests are bounded as the protocol
assumes: a copy request takes effect within COPY_GRACE or never, and a PUT begins before its file's
`expires_at`.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from service.files.lookup import delete_file, find_file
from service.model import UNPROVED, Claim, Declaration, RejectionReason, Sha256, State, Work
from service.object_store import StoreError, StoreUnavailable, UploadMissing
from service.problems import Problem
from service.resources import open_resources
from service.settings import Settings
from service.uploads.arrivals import record_event
from service.uploads.completion import complete_upload
from service.uploads.declaring import Declared, declare_file
from service.uploads.multipart import PartRequest, sign_parts
from service.uploads.signing import MultipartUpload, Upload
from service.worker.store_health import StoreHealth
from service.worker.sweeper import sweep
from tests.stateful.workers import (
    COMPLETION_STORY,
    DISTURBANCES,
    ENDS,
    FAULTS,
    FAULTS_OF_LOOKS,
    STORY,
    FaultyCompletion,
    FaultyWorker,
)
from tests.support.claims import EVERY_KIND, claim_files
from tests.support.clock import DAY, pass_time
from tests.support.faults import FaultyBucket, SpoiltBucket, lose_answer
from tests.support.invariants import Outcomes, check_invariants, check_nothing_left, list_bucket
from tests.support.objects import key_of
from tests.support.stores import send

T = TypeVar("T")

CONTENTS = (b"A" * 40, b"B" * 40)
A_LEASE = timedelta(minutes=6)  # longer than the leases of claims and of reserved keys
LIVE_RESERVATIONS = """
    SELECT vault_key FROM reservations
    WHERE doomed_at IS NULL AND lease_until > now() + interval '10 seconds'
"""
HURRY = "UPDATE files SET due_at = now() - interval '1 hour' WHERE id = $1 AND due_at IS NOT NULL"


class Sent(msgspec.Struct):
    """A file from the view of its client.

    `heard` means that an arrival was reported when the object existed. `spoilt` means that the
    store cannot read the object.
    """

    declared: Declared
    age: timedelta = timedelta(0)
    accepted: bool = False
    heard: bool = False
    deleted: bool = False
    spoilt: bool = False

    @property
    def id(self) -> UUID:
        return self.declared.file.id


class RecordingRunner:
    """An event loop that appends the text of each exception to `failures` before it raises it."""

    def __init__(self, failures: list[str]) -> None:
        self.runner = asyncio.Runner()
        self.failures = failures

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return self.runner.run(coroutine)
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            raise

    def close(self) -> None:
        self.runner.close()


class WayOfAFile(RuleBasedStateMachine):
    settings: Settings
    failures: list[str]
    sent = Bundle("sent")

    @initialize(
        target=sent,
        stories=st.lists(STORY, min_size=1, max_size=3),
        completions=st.lists(COMPLETION_STORY, min_size=1, max_size=2),
    )
    def open(
        self, stories: list[tuple[str, str, str]], completions: list[tuple[str, str, str]]
    ) -> Any:
        self.runner = RecordingRunner(self.failures)
        self.stack = contextlib.AsyncExitStack()
        self.sends: list[Sent] = []
        self.workers: list[FaultyWorker | FaultyCompletion] = []
        self.assemblies: list[FaultyBucket] = []
        self.outcomes = Outcomes()
        self.shifted = timedelta(0)
        self.hashing = ThreadPoolExecutor(4)
        self.runner.run(self.open_resources())
        return multiple(
            *(self.upload_and_work(story) for story in stories),
            *(self.upload_and_complete(story, digest=None) for story in completions),
        )

    async def open_resources(self) -> None:
        settings = msgspec.structs.replace(self.settings, unverifiable_reads=2)
        opened = await self.stack.enter_async_context(open_resources(settings))
        self.spoilt_keys: set[str] = set()
        spoilt: dict[str, Any] = {
            name: SpoiltBucket(getattr(opened, name), self.spoilt_keys)
            for name in ("incoming", "vault")
        }
        self.resources = msgspec.structs.replace(opened, **spoilt)
        self.health = StoreHealth(self.resources)
        await self.resources.pool.execute(
            "TRUNCATE files, file_history, reservations, idempotency_keys"
        )
        for bucket in (self.resources.incoming, self.resources.vault):
            if keys := await list_bucket(bucket):
                await bucket.delete_many([*keys])

    # Steps of a client

    @rule(target=sent, digest=st.sampled_from((None, *CONTENTS)), multipart=st.booleans())
    def declare(self, digest: bytes | None, *, multipart: bool) -> Sent:
        declaration = Declaration(
            owner="ann",
            filename="f",
            size=40,
            content_type="text/plain",
            sha256=hash_if_any(digest),
            metadata={},
            multipart=multipart,
        )
        sent = Sent(self.runner.run(declare_file(self.resources, declaration)))
        self.sends.append(sent)
        return sent

    @rule(sent=sent, body=st.sampled_from(CONTENTS))
    def put(self, sent: Sent, body: bytes) -> None:
        upload = sent.declared.upload
        if upload is None or sent.age >= DAY:
            return
        if isinstance(upload, Upload):
            sent.accepted |= (
                send("PUT", upload.url, body=body, headers=upload.headers).status == 200
            )
            return
        with contextlib.suppress(Problem):  # the file may be final or expired
            [part] = self.runner.run(
                sign_parts(self.resources, sent.id, [PartRequest(1, None)], owner="ann")
            )
            send("PUT", part.url, body=body, headers=part.headers)

    @rule(sent=sent, how=st.sampled_from(("many fields", "unreadable")))
    def poison(self, sent: Sent, how: str) -> None:
        """Send an object that is poisoned.

        It has 130 header fields of its own, or the store cannot read it again.
        """
        upload = sent.declared.upload
        if not isinstance(upload, Upload) or sent.age >= DAY:
            return
        fields = (
            {f"x-amz-meta-a{number}": "" for number in range(130)} if how == "many fields" else {}
        )
        accepted = (
            send("PUT", upload.url, body=CONTENTS[0], headers=upload.headers | fields).status == 200
        )
        sent.accepted |= accepted
        if accepted and how == "unreadable":
            sent.spoilt = True
            self.spoilt_keys.add(key_of(sent.declared.file))

    @rule(sent=sent)
    def event(self, sent: Sent) -> None:
        self.runner.run(record_event(self.resources, key_of(sent.declared.file)))
        sent.heard |= sent.accepted

    @rule(sent=sent, digest=st.sampled_from((None, *CONTENTS)))
    def complete(self, sent: Sent, digest: bytes | None) -> None:
        try:
            self.runner.run(
                complete_upload(self.resources, sent.id, owner="ann", sha256=hash_if_any(digest))
            )
        except Problem as problem:
            # Several refusals are possible here, but a 5xx never is.
            assert problem.status in (409, 410)  # noqa: PT017  # the call may succeed
        else:
            # The assembled object is now under the incoming key.
            sent.accepted |= isinstance(sent.declared.upload, MultipartUpload)
            sent.heard |= sent.accepted

    @rule(sent=sent, late=st.booleans())
    def complete_unheard(self, sent: Sent, *, late: bool) -> None:
        """Let the store assemble the parts, at once or later, while the response is lost.

        The lease then expires without being released.
        """
        incoming = FaultyBucket(self.resources.incoming)
        if late:
            incoming.late.add("complete_upload")
        else:
            incoming.after["complete_upload"] = lose_answer
        self.assemblies.append(incoming)
        with contextlib.suppress(Problem, StoreUnavailable):
            self.runner.run(
                complete_upload(
                    msgspec.structs.replace(self.resources, incoming=incoming),
                    sent.id,
                    owner="ann",
                    sha256=None,
                )
            )
        self.pass_time(A_LEASE)

    @rule(sent=sent)
    def delete(self, sent: Sent) -> None:
        self.runner.run(delete_file(self.resources, sent.id, owner="ann"))
        sent.deleted = True

    # Steps of workers and sweepers

    @rule(fault=st.sampled_from(FAULTS))
    def work(self, fault: str) -> None:
        self.runner.run(self.take_one(fault))

    @rule(target=sent, story=STORY)
    def upload_and_work(self, story: tuple[str, str, str]) -> Sent:
        """Upload a file and disturb its verification, in one step.

        Separate steps would hardly ever form the sequences that matter.
        """
        fault, what, end = story
        sent: Sent = self.declare(None, multipart=False)  # type: ignore[assignment]  # one file
        if fault != "stall before return":  # that fault needs a claim before the upload
            self.put(sent, CONTENTS[0])
        if fault not in ("stall before return", "stall before announce"):
            self.event(sent)
        self.runner.run(self.hurry(sent.id))
        self.runner.run(self.take_one(fault))
        if self.workers[-1].stalled:
            self.disturb_worker(self.workers[-1], what, end=end)
        return sent

    @rule(target=sent, story=COMPLETION_STORY, digest=st.sampled_from((None, *CONTENTS)))
    def upload_and_complete(self, story: tuple[str, str, str], digest: bytes | None) -> Sent:
        """Upload a file and disturb its inline proof, in one step."""
        fault, what, end = story
        sent: Sent = self.declare(None, multipart=False)  # type: ignore[assignment]  # one file
        self.put(sent, CONTENTS[0])
        completion = FaultyCompletion(
            self.resources, sent.id, fault, hash_if_any(digest), shifted=lambda: self.shifted
        )
        self.workers.append(completion)
        self.runner.run(completion.start())
        if completion.stalled:
            self.disturb_worker(completion, what, end=end)
        sent.heard |= not completion.stalled
        return sent

    async def hurry(self, file_id: UUID) -> None:
        """Make this file the oldest due one, which the next claim takes."""
        await self.resources.pool.execute(HURRY, file_id)

    async def take_one(self, fault: str) -> bool:
        """Claim one file, and run its worker to the end or to its stall.

        If the claim is a look that the fault does not concern, also claim what it has found. Return
        False if no file is due.
        """
        claimed = await self.claim()
        if claimed is None:
            return False
        if claimed.work == Work.LOOK and fault not in FAULTS_OF_LOOKS:
            await self.start(claimed, "none")
            await self.hurry(claimed.id)
            claimed = await self.claim()
        if claimed is not None:
            await self.start(claimed, fault)
        return True

    async def claim(self) -> Claim | None:
        lease = self.settings.lease
        claimed = await claim_files(self.resources.pool, 1, lease=lease, kinds=EVERY_KIND)
        return claimed[0] if claimed else None

    async def start(self, claim: Claim, fault: str) -> None:
        worker = FaultyWorker(
            self.resources, claim, fault, shifted=lambda: self.shifted, health=self.health
        )
        self.workers.append(worker)
        await worker.start(self.hashing)

    def stalled(self) -> list[FaultyWorker | FaultyCompletion]:
        return [worker for worker in self.workers if worker.stalled]

    @precondition(lambda self: self.stalled())
    @rule(which=st.integers(0, 3), what=st.sampled_from(DISTURBANCES), end=ENDS)
    def disturb(self, which: int, what: str, *, end: str) -> None:
        self.disturb_worker(self.stalled()[which % len(self.stalled())], what, end=end)

    def disturb_worker(
        self, worker: FaultyWorker | FaultyCompletion, what: str, *, end: str
    ) -> None:
        """Disturb the file of a stalled worker or request. Then wake it, unless it "sleeps on"."""
        sent = next(sent for sent in self.sends if sent.id == worker.file_id)
        if what.startswith("deleted"):
            self.delete(sent)
        elif what == "digest by complete":
            self.complete(sent, CONTENTS[1])
        elif what == "sent and announced":
            self.put(sent, CONTENTS[0])
            self.event(sent)
        if "lease expires" in what or what == "claimed by another":
            self.pass_time(A_LEASE)
        if what == "lease expires, extended":
            self.runner.run(worker.extend(self.settings.lease))
        elif what == "claimed by another":
            self.runner.run(self.hurry(sent.id))
            self.work("none")
        if "swept" in what:
            self.sweep()
        if end != "sleeps on":
            self.runner.run(worker.wake())
        if end == "wakes, then an event":
            self.runner.run(self.hurry(sent.id))
            self.runner.run(self.take_one("none"))  # a first mismatch leads to a second copy
            self.runner.run(self.check())  # record the outcome, which the event must not change
            self.event(sent)

    @precondition(lambda self: self.stalled())
    @rule(which=st.integers(0, 3))
    def wake(self, which: int) -> None:
        self.runner.run(self.stalled()[which % len(self.stalled())].wake())

    @precondition(lambda self: self.stalled())
    @rule(which=st.integers(0, 3))
    def extend(self, which: int) -> None:
        worker = self.stalled()[which % len(self.stalled())]
        self.runner.run(worker.extend(self.settings.lease))

    @rule()
    def land_late_requests(self) -> None:
        self.runner.run(self.land())

    async def land(self) -> None:
        for worker in self.workers:
            with contextlib.suppress(StoreError):  # the source has changed, or cannot be read
                await worker.land()
        for incoming in self.assemblies:
            with contextlib.suppress(UploadMissing):  # it was assembled before, or aborted
                await incoming.land()

    @rule()
    def sweep(self) -> None:
        self.runner.run(self.sweep_but_live_reservations())

    async def sweep_but_live_reservations(self) -> None:
        live = {row["vault_key"] for row in await self.resources.pool.fetch(LIVE_RESERVATIONS)}
        await sweep(self.resources)
        doomed = {
            row["vault_key"]
            for row in await self.resources.pool.fetch(
                "SELECT vault_key FROM reservations WHERE doomed_at IS NOT NULL"
            )
        }
        assert not live & doomed, "a reservation is doomed under a live lease"

    @rule(by=st.sampled_from((A_LEASE, timedelta(hours=1), DAY)))
    def pass_time(self, by: timedelta) -> None:
        self.runner.run(self.shift(by))

    async def shift(self, by: timedelta) -> None:
        if by >= DAY:
            await self.land()  # a request takes effect within COPY_GRACE, or never
        await pass_time(self.resources.pool, by)
        for worker in self.workers:
            await worker.shift(by)
        self.shifted += by
        for sent in self.sends:
            sent.age += by

    # What must hold after every step

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "resources"):
            self.runner.run(self.check())

    async def check(self) -> None:
        await check_invariants(self.resources)
        await self.outcomes.check(self.resources)
        waiting = {
            row["id"]
            for row in await self.resources.pool.fetch(
                "SELECT id FROM files WHERE state = 'pending'"
            )
        }
        unheard = [sent for sent in self.sends if sent.heard and sent.id in waiting]
        assert not unheard, "the arrival of an existing object was missed"
        assert not self.health.is_away, (
            "the worker stopped claiming although the store is available"
        )

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        try:
            self.runner.run(self.settle())
        finally:
            self.runner.run(self.stack.aclose())
            self.runner.close()
            self.hashing.shutdown()

    async def settle(self) -> None:
        """Run without disturbances, and check that every file is final and nothing is left."""
        for worker in self.stalled():
            await worker.wake()
        for days in (1, 1, 1, 1, 8, 8):  # longer than all lifetimes and grace periods together
            await self.shift(days * DAY)
            while await self.take_one("none"):
                pass
            await sweep(self.resources)
        await self.forget_stock()
        await check_nothing_left(self.resources)
        for sent in self.sends:
            await self.check_end(sent)

    async def forget_stock(self) -> None:
        """Delete the reservations of unused keys, as a process does that stops."""
        keys = self.resources.reserved_keys
        await keys.forget([*keys.stock])
        keys.stock.clear()

    async def check_end(self, sent: Sent) -> None:
        file = await find_file(self.resources, sent.id, owner=None)
        assert file.state not in UNPROVED
        assert (file.state == State.DELETED) == sent.deleted, f"a file became {file.state}"
        if sent.accepted and not sent.deleted:
            assert file.state in (State.READY, State.REJECTED), (
                "an upload that the store accepted expired"
            )
        if not sent.spoilt:
            assert file.rejection_reason != RejectionReason.UNVERIFIABLE, (
                "a file was rejected because of another file's object"
            )


def hash_if_any(content: bytes | None) -> Sha256 | None:
    return Sha256(hashlib.sha256(content).digest()) if content else None
