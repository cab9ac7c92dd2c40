"""The memory that streamed uploads borrow: its shares, its last part, and what cannot deadlock."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.problems import Unavailable
from service.uploads import buffers as memory
from service.uploads.buffers import (
    CROWDED_BYTES_PER_SECOND,
    PART_BYTES,
    SHARED_BYTES,
    STEP_BYTES,
    UNCOUNTED_BYTES,
    Loan,
    UploadBuffers,
)

pytestmark = pytest.mark.anyio

STEPS = (PART_BYTES - UNCOUNTED_BYTES) // STEP_BYTES
USUAL = 4096


@pytest.fixture
def buffers() -> Iterator[UploadBuffers]:
    buffers = UploadBuffers()
    yield buffers
    buffers.close()


async def borrow(buffers: UploadBuffers, owner: str, steps: int) -> list[Loan]:
    """Borrow this number of steps for the owner, by as many loans as are needed."""
    loans = []
    while steps > 0:
        loans.append(buffers.open_loan(owner))
        for _ in range(min(steps, STEPS)):
            await asyncio.wait_for(buffers.extend(loans[-1]), 1)
        steps -= STEPS
    return loans


async def ask(buffers: UploadBuffers, loan: Loan) -> asyncio.Task[None]:
    """Ask for a step, and return the task that waits for it."""
    task = asyncio.create_task(buffers.extend(loan))
    await asyncio.sleep(0)
    return task


async def fill(buffers: UploadBuffers) -> list[Loan]:
    """Borrow all shared memory: much for ann and bob, and the reserved rest for small owners."""
    ann = await borrow(buffers, "ann", buffers.owner_bytes // STEP_BYTES)
    bob = await borrow(buffers, "bob", (buffers.bytes_left - buffers.reserved_bytes) // STEP_BYTES)
    small = [
        loan
        for number in range(buffers.reserved_bytes // STEP_BYTES // STEPS + 1)
        for loan in await borrow(buffers, str(number), min(STEPS, buffers.bytes_left // STEP_BYTES))
    ]
    assert buffers.bytes_left == 0
    return [*ann, *small, *bob]


async def test_memory_is_lent_step_by_step(buffers: UploadBuffers) -> None:
    loan = buffers.open_loan("ann")
    assert loan.room == UNCOUNTED_BYTES
    await buffers.extend(loan)
    assert loan.room == UNCOUNTED_BYTES + STEP_BYTES
    assert buffers.bytes_left == SHARED_BYTES - STEP_BYTES
    buffers.repay(loan)
    assert (loan.room, buffers.bytes_left) == (UNCOUNTED_BYTES, SHARED_BYTES)
    assert not buffers.held_by, "an owner without memory is forgotten"


@pytest.mark.parametrize(
    ("processes", "shared"), [(1, SHARED_BYTES), (2, SHARED_BYTES // 2), (64, 4 * PART_BYTES)]
)
async def test_several_processes_share_the_memory(processes: int, shared: int) -> None:
    with contextlib.closing(UploadBuffers(processes)) as buffers:
        assert buffers.bytes_left == shared
        loans = await fill(buffers)
        for loan in loans:
            buffers.repay(loan)
        assert buffers.bytes_left == shared


async def test_slow_uploads_of_one_owner_leave_memory_to_others(buffers: UploadBuffers) -> None:
    for _ in range(500):  # as many as there is memory for, at one step each
        await ask(buffers, buffers.open_loan("greedy"))
    assert buffers.held_by["greedy"] == buffers.owner_bytes
    await borrow(buffers, "modest", STEPS)


async def test_two_greedy_owners_leave_memory_to_a_third(buffers: UploadBuffers) -> None:
    """Let the third owner release a part, as between two parts, while the others wait."""
    for owner in ("greedy", "hungry"):
        for _ in range(500):
            await ask(buffers, buffers.open_loan(owner))
    for _ in range(3):
        [loan] = await borrow(buffers, "modest", STEPS)
        assert loan.unshared == 0
        buffers.repay(loan)
        await asyncio.sleep(0)
    held = buffers.held_by["greedy"] + buffers.held_by["hungry"]
    assert held <= SHARED_BYTES - buffers.reserved_bytes


async def test_the_owner_with_the_least_memory_is_served_first(buffers: UploadBuffers) -> None:
    full = await fill(buffers)
    await ask(buffers, buffers.open_loan("ann"))  # is favoured
    first = await ask(buffers, buffers.open_loan("bob"))
    second = await ask(buffers, buffers.open_loan("eve"))
    buffers.repay(full[0])
    await asyncio.wait_for(second, 1)
    assert buffers.held_by["eve"] == STEP_BYTES
    first.cancel()


async def test_the_last_part_is_lent_to_one_upload_at_a_time(buffers: UploadBuffers) -> None:
    await fill(buffers)
    first, second = buffers.open_loan("eve"), buffers.open_loan("eve")
    favoured, waiting = await ask(buffers, first), await ask(buffers, second)
    assert favoured.done()
    assert not waiting.done()
    buffers.repay(first)
    await asyncio.wait_for(waiting, 1)
    assert buffers.favoured is second


async def test_of_several_waiting_uploads_the_nearest_is_favoured(buffers: UploadBuffers) -> None:
    await fill(buffers)
    first = buffers.open_loan("eve")
    await buffers.extend(first)
    far, near = buffers.open_loan("ann"), buffers.open_loan("bob")
    near.needed = PART_BYTES // 2
    waiting_far, waiting_near = await ask(buffers, far), await ask(buffers, near)
    buffers.repay(first)
    await asyncio.wait_for(waiting_near, 1)
    assert not waiting_far.done()
    waiting_far.cancel()


async def test_a_favoured_upload_completes_its_part(buffers: UploadBuffers) -> None:
    await fill(buffers)
    [loan] = await borrow(buffers, "ann", STEPS)
    assert loan.room == PART_BYTES
    assert (loan.unshared, buffers.bytes_left) == (PART_BYTES - UNCOUNTED_BYTES, 0)


async def test_a_cancelled_request_lets_the_next_one_through(buffers: UploadBuffers) -> None:
    full = await fill(buffers)
    await borrow(buffers, "eve", 1)
    first = await ask(buffers, buffers.open_loan("eve"))
    second = await ask(buffers, buffers.open_loan("eve"))
    first.cancel()
    buffers.repay(full[0])
    await asyncio.wait_for(second, 1)
    assert not buffers.waiting


async def test_a_request_cancelled_as_it_is_granted_is_repaid(buffers: UploadBuffers) -> None:
    full = await fill(buffers)
    await borrow(buffers, "eve", 1)
    loan = buffers.open_loan("eve")
    waiting = await ask(buffers, loan)
    buffers.repay(full[0])
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    for borrowed in (*full, loan):
        buffers.repay(borrowed)
    assert buffers.bytes_left == SHARED_BYTES


async def test_a_request_is_refused_after_its_wait(
    buffers: UploadBuffers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "WAIT_SECONDS", 0.01)
    await fill(buffers)
    await borrow(buffers, "eve", 1)
    with pytest.raises(Unavailable):
        await buffers.extend(buffers.open_loan("eve"))
    assert not buffers.waiting


async def test_the_lowest_rate_rises_while_the_same_owner_waits(buffers: UploadBuffers) -> None:
    loans = await borrow(buffers, "ann", buffers.owner_bytes // STEP_BYTES)
    other, empty = buffers.open_loan("bob"), buffers.open_loan("ann")
    await buffers.extend(other)
    assert loans[0].find_rate(USUAL) == USUAL
    await borrow(buffers, "ann", 1)  # is favoured
    waiting = await ask(buffers, buffers.open_loan("ann"))
    assert loans[0].find_rate(USUAL) == CROWDED_BYTES_PER_SECOND
    assert loans[0].find_rate(10**6) == 10**6
    assert other.find_rate(USUAL) == USUAL, "its memory would help no waiting upload"
    assert empty.find_rate(USUAL) == USUAL, "it holds no memory"
    waiting.cancel()


async def test_the_lowest_rate_rises_for_owners_with_a_large_share(buffers: UploadBuffers) -> None:
    full = await fill(buffers)
    buffers.repay(full[0])
    modest = buffers.open_loan("eve")
    await buffers.extend(modest)
    while buffers.bytes_left:
        await borrow(buffers, "zoe", 1)
    [favoured] = await borrow(buffers, "joe", 1)
    waiting = await ask(buffers, buffers.open_loan("kim"))
    assert full[-1].find_rate(USUAL) == CROWDED_BYTES_PER_SECOND
    assert favoured.find_rate(USUAL) == CROWDED_BYTES_PER_SECOND
    assert modest.find_rate(USUAL) == USUAL
    waiting.cancel()


class Upload:
    """An upload whose client sends at once, but lets other uploads run between two steps."""

    def __init__(self, buffers: UploadBuffers, owner: str, needs: list[int]) -> None:
        self.buffers = buffers
        self.loan = buffers.open_loan(owner)
        self.needs = needs

    async def run(self) -> None:
        for steps in self.needs:
            for _ in range(steps):
                await self.buffers.extend(self.loan)
                self.check()
                await asyncio.sleep(0)
            self.buffers.repay(self.loan)

    def check(self) -> None:
        buffers = self.buffers
        assert buffers.bytes_left >= 0
        assert sum(buffers.held_by.values()) == SHARED_BYTES - buffers.bytes_left
        assert max(buffers.held_by.values(), default=0) <= buffers.owner_bytes
        assert buffers.favoured is None or buffers.favoured.unshared <= PART_BYTES


@settings(deadline=None, max_examples=30)
@given(
    uploads=st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(1, STEPS), min_size=1, max_size=3)),
        min_size=1,
        max_size=60,
    )
)
def test_no_order_of_requests_deadlocks(uploads: list[tuple[str, list[int]]]) -> None:
    async def run_all() -> None:
        buffers = UploadBuffers()
        async with asyncio.timeout(30):
            await asyncio.gather(*(Upload(buffers, *upload).run() for upload in uploads))
        assert (buffers.bytes_left, buffers.favoured) == (SHARED_BYTES, None)
        buffers.close()

    asyncio.run(run_all())


async def test_many_large_uploads_at_once_complete(buffers: UploadBuffers) -> None:
    """Run more uploads than there is memory for, so that all of them wait with half a part."""
    uploads = [Upload(buffers, owner, [STEPS, STEPS]) for owner in "abcd" for _ in range(20)]
    async with asyncio.timeout(30):
        await asyncio.gather(*(upload.run() for upload in uploads))
    assert buffers.bytes_left == SHARED_BYTES


async def test_memory_is_lent_at_once_only_if_nothing_waits(buffers: UploadBuffers) -> None:
    loan = buffers.open_loan("zoe")
    assert buffers.extend_at_once(loan)
    assert loan.room == UNCOUNTED_BYTES + STEP_BYTES
    buffers.repay(loan)
    held = await fill(buffers)
    assert not buffers.extend_at_once(loan), "nothing is left"
    favoured, waiting = [await ask(buffers, buffers.open_loan("ann")) for _ in range(2)]
    assert (favoured.done(), waiting.done()) == (True, False)
    buffers.repay(held[-1])
    assert buffers.bytes_left > 0
    assert not waiting.done(), "its owner holds too much"
    assert not buffers.extend_at_once(loan), "another upload waits"
    waiting.cancel()


async def test_a_loan_hands_over_everything_that_it_holds(buffers: UploadBuffers) -> None:
    loan = buffers.open_loan("ann")
    await buffers.extend(loan)
    given = loan.hand_over()
    assert (loan.room, given.room) == (UNCOUNTED_BYTES, UNCOUNTED_BYTES + STEP_BYTES)
    buffers.repay(loan)
    assert buffers.bytes_left == SHARED_BYTES - STEP_BYTES
    buffers.repay(given)
    assert buffers.bytes_left == SHARED_BYTES
    assert not buffers.held_by


async def test_the_favour_goes_with_the_memory_that_is_handed_over(buffers: UploadBuffers) -> None:
    await fill(buffers)
    loan = buffers.open_loan("zoe")
    await buffers.extend(loan)
    assert buffers.favoured is loan
    given = loan.hand_over()
    assert buffers.favoured is given
    assert not buffers.extend_at_once(loan), "a second part is never favoured"
    waiting = await ask(buffers, loan)
    assert not waiting.done()
    buffers.repay(given)
    await asyncio.wait_for(waiting, 1)
