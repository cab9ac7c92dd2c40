"""Hypothesis drives declarations, PUTs, notices, workers that stall and wake late, lost answers, copies that land late,
sweepers, deletions and time; after every step the invariants are looked up in the database and in both buckets.

Time moves by shifting the rows' timestamps back. What the store still carries out is bounded as the protocol assumes: a
copy request lands within COPY_GRACE or never, a PUT begins before its file's end.
"""

import asyncio
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule, run_state_machine_as_test

from service.model import UNPROVED, Declaration, Sha256, State
from service.problems import Problem
from service.queries import claims
from service.resources import open_resources
from service.settings import Settings
from service.sweeper import sweep
from service.uploads import Declared, complete_upload, declare_file, delete_file, find_file, notice_event
from service.verification import verify
from tests.faults import FaultyPool, Gate
from tests.invariants import check_invariants, check_nothing_left

CONTENTS = (b"A" * 40, b"B" * 40)
FAULTS = ("none", "stall before copy", "stall after copy", "stall before commit", "answer lost", "commit lost", "late copy")
RETRY = timedelta(seconds=1)
DAY = timedelta(days=1)
SHIFT_FILES = """
    UPDATE files SET created_at = created_at - $1::interval, expires_at = expires_at - $1::interval,
        grace_until = grace_until - $1::interval,
        final_at = final_at - $1::interval, lease_until = lease_until - $1::interval,
        due_at = due_at - $1::interval,
        sweep_at = sweep_at - $1::interval, purge_at = purge_at - $1::interval
"""
SHIFT_COPIES = """
    UPDATE copies SET created_at = created_at - $1::interval, lease_until = lease_until - $1::interval,
        doomed_at = doomed_at - $1::interval, sweep_at = sweep_at - $1::interval,
        swept_at = swept_at - $1::interval
"""


class Sent(msgspec.Struct):
    """A file as its client knows it."""

    declared: Declared
    age: timedelta = timedelta(0)
    accepted: bool = False
    deleted: bool = False


class StallingVault:
    """The vault of one worker: stalls, or lets its copy request land late; a request is late by the time that was shifted meanwhile."""

    def __init__(self, machine: "WayOfAFile", fault: str) -> None:
        self.machine, self.fault, self.bucket = machine, fault, machine.resources.vault
        self.name = self.bucket.name
        self.claimed_at = machine.shifted
        self.gate = Gate()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bucket, name)

    async def copy_from(self, *args: Any, send_before: float, **options: Any) -> Any:
        if self.fault == "stall before copy":
            await self.gate()
        send_before -= (self.machine.shifted - self.claimed_at).total_seconds()
        if self.fault == "late copy":
            self.machine.late.append(lambda: self.bucket.copy_from(*args, send_before=float("inf"), **options))
            raise TimeoutError
        copied = await self.bucket.copy_from(*args, send_before=send_before, **options)
        if self.fault == "stall after copy":
            await self.gate()
        return copied


class StallingPool(FaultyPool):
    """The database of one worker, which stalls just before its commit."""

    def __init__(self, pool: Any, gate: Gate) -> None:
        super().__init__(pool, "verdict AS", runs=False)
        self.gate = gate

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.pool, name)
        if name != "fetchrow":
            return real

        async def call(statement: str, *args: Any) -> Any:
            if self.marker in statement:
                await self.gate()
            return await real(statement, *args)

        return call


class WayOfAFile(RuleBasedStateMachine):
    settings: Settings
    sent = Bundle("sent")
    stalled = Bundle("stalled")

    @initialize()
    def open(self) -> None:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.sends: list[Sent] = []
        self.late: list[Any] = []
        self.stalls: list[tuple[Gate, asyncio.Task[bool]]] = []
        self.shifted = timedelta(0)
        self.hashing = ThreadPoolExecutor(4)
        self.runner.run(self.open_resources())

    async def open_resources(self) -> None:
        self.resources = await self.stack.enter_async_context(open_resources(self.settings))
        self.client = await self.stack.enter_async_context(httpx.AsyncClient())
        await self.resources.pool.execute("TRUNCATE files, copies, idempotency_keys")
        for bucket in (self.resources.incoming, self.resources.vault):
            keys = [found.key async for found in bucket.list_keys()]
            if keys:
                await bucket.delete_many(keys)

    @rule(target=sent, digest=st.sampled_from((None, *CONTENTS)))
    def declare(self, digest: bytes | None) -> Sent:
        sha256 = digest and Sha256(hashlib.sha256(digest).digest())
        declaration = Declaration(owner="ann", filename="f", size=40, content_type="text/plain", sha256=sha256 or None, metadata={})
        sent = Sent(self.runner.run(declare_file(self.resources, declaration)))
        self.sends.append(sent)
        return sent

    @rule(sent=sent, body=st.sampled_from(CONTENTS))
    def put(self, sent: Sent, body: bytes) -> None:
        upload = sent.declared.upload
        if upload is None or sent.age >= DAY:
            return
        answer = self.runner.run(self.client.put(upload.url, content=body, headers=upload.headers))
        sent.accepted |= answer.status_code == 200

    @rule(sent=sent)
    def event(self, sent: Sent) -> None:
        self.runner.run(notice_event(self.resources, sent.declared.file.incoming_key or ""))

    @rule(sent=sent, digest=st.sampled_from((None, *CONTENTS)))
    def complete(self, sent: Sent, digest: bytes | None) -> None:
        sha256 = digest and Sha256(hashlib.sha256(digest).digest())
        try:
            self.runner.run(complete_upload(self.resources, sent.declared.file.id, owner="ann", sha256=sha256 or None))
        except Problem as problem:
            assert problem.status in (409, 410)  # noqa: PT017  # any of the refusals may be right here; a 5xx never is

    @rule(target=stalled, fault=st.sampled_from(FAULTS[1:]))
    def upload_and_work(self, fault: str) -> tuple[Gate, asyncio.Task[bool]] | None:
        """The usual beginning in one step, so that the interesting steps come behind it."""
        sent = self.declare(None)
        self.put(sent, CONTENTS[0])
        self.event(sent)
        return self.runner.run(self.take_one(fault))

    @rule()
    def end_leases_and_sweep(self) -> None:
        self.pass_time(timedelta(minutes=2))
        self.sweep()

    @rule(target=stalled, fault=st.sampled_from(FAULTS))
    def work(self, fault: str) -> tuple[Gate, asyncio.Task[bool]] | None:
        return self.runner.run(self.take_one(fault))

    async def take_one(self, fault: str) -> tuple[Gate, asyncio.Task[bool]] | None:
        claimed_at = time.monotonic()
        claimed = await claims.claim_small(self.resources.pool, 1, self.settings.lease)
        if not claimed:
            return None
        vault = StallingVault(self, fault)
        pool: Any = self.resources.pool
        if fault == "stall before commit":
            pool = StallingPool(pool, vault.gate)
        elif fault in ("answer lost", "commit lost"):
            pool = FaultyPool(pool, "verdict AS", runs=fault == "answer lost")
        resources = msgspec.structs.replace(self.resources, vault=vault, pool=pool)
        task = asyncio.create_task(verify(resources, claimed[0], claimed_at=claimed_at, hashing=self.hashing, retry_in=RETRY))
        reached = asyncio.create_task(vault.gate.reached.wait())
        await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        if task.done():
            await task
            return None
        self.stalls.append((vault.gate, task))
        return vault.gate, task

    @rule(stall=consumes(stalled))
    def wake(self, stall: tuple[Gate, asyncio.Task[bool]] | None) -> None:
        if stall is not None:
            self.runner.run(self.wake_up(*stall))

    async def wake_up(self, gate: Gate, task: asyncio.Task[bool]) -> None:
        gate.opened.set()
        await task

    @rule()
    def land_late_copies(self) -> None:
        self.runner.run(self.land())

    async def land(self) -> None:
        while self.late:
            try:
                await self.late.pop()()
            except Exception as error:  # the source may have gone or changed: then nothing lands
                assert "41" in str(error) or "404" in str(error)  # noqa: PT017  # 412 or 404

    @rule()
    def sweep(self) -> None:
        self.runner.run(sweep(self.resources))

    @rule(sent=sent)
    def delete(self, sent: Sent) -> None:
        self.runner.run(delete_file(self.resources, sent.declared.file.id, owner="ann"))
        sent.deleted = True

    @rule(by=st.sampled_from((timedelta(minutes=2), timedelta(hours=1), DAY)))
    def pass_time(self, by: timedelta) -> None:
        self.runner.run(self.shift(by))

    async def shift(self, by: timedelta) -> None:
        if by >= DAY:
            await self.land()  # a request is carried out within COPY_GRACE, or never
        await self.resources.pool.execute(SHIFT_COPIES, by)
        await self.resources.pool.execute(SHIFT_FILES, by)
        self.shifted += by
        for sent in self.sends:
            sent.age += by

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "resources"):
            self.runner.run(check_invariants(self.resources))

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
        """Undisturbed, everything comes to an end, and nothing is left over."""
        for gate, task in self.stalls:
            await self.wake_up(gate, task)
        for _ in range(14):
            await self.shift(DAY)
            for _ in range(3 * len(self.sends)):
                await self.take_one("none")
            await sweep(self.resources)
        await check_nothing_left(self.resources)
        for sent in self.sends:
            await self.check_end(sent)

    async def check_end(self, sent: Sent) -> None:
        file_id: UUID = sent.declared.file.id
        file = await find_file(self.resources, file_id, owner=None)
        assert file.state not in UNPROVED
        assert (file.state == State.DELETED) == sent.deleted
        if sent.accepted and not sent.deleted:
            assert file.state in (State.READY, State.REJECTED), "an upload that the store accepted expired"


def test_the_invariants_hold_whatever_happens(settings_of_the_service: Settings) -> None:
    machine = type("WayOfAFileHere", (WayOfAFile,), {"settings": settings_of_the_service})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=60, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True),
    )
