"""The memory that the streamed uploads of a process share.

An upload has UNCOUNTED_BYTES of memory for each part. For more, it borrows STEP_BYTES at a time, as
bytes arrive, and returns everything when the part has been sent. While a part is being sent, the
next one is received into memory that can be lent without waiting. If there is none, the upload
first waits until the part has been sent. An upload that waits for memory therefore holds that of
one part, and keeps it. The following rules prevent uploads from waiting for each other forever.

1. All memory but that of one part is shared. A waiting upload gets a step of it if there is one
   left, and if its owner then holds at most half of it. The last quarter is only for owners that
   then hold at most one part, so that two owners cannot hold everything. The owner that holds the
   least comes first, and then the request that came first.
2. If no waiting upload can get a step of the shared memory, the one that needs the least to
   complete its part is favoured. It gets this step and all further ones from the memory of the
   part that is not shared, until it has returned what it holds. That memory is sufficient, because
   no waiting upload holds more than one part. At most one upload is favoured at a time.
3. A favoured upload, or any other that holds memory, may have a slow client. While other uploads
   wait for the memory that its owner holds, the client has to send CROWDED_BYTES_PER_SECOND. (See
   `UploadBuffers.is_crowded` and `service.http.request_bodies.Pace`.)
4. A request that has waited for WAIT_SECONDS is refused.
"""

import asyncio
from collections import Counter
from typing import Final

from service import problems
from service.http.budget import Budget

PART_BYTES: Final = 8 * 1024**2
UNCOUNTED_BYTES: Final = 256 * 1024
STEP_BYTES: Final = 256 * 1024
SHARED_BYTES: Final = 120 * 1024**2
LEAST_SHARED_BYTES: Final = 4 * PART_BYTES
"""The least shared memory of one of several processes, in which two owners have a part each."""
CROWDED_BYTES_PER_SECOND: Final = 64 * 1024
WAIT_SECONDS: Final = 60.0


class Loan:
    """The memory that one upload has borrowed for a part.

    `needed` is the size of the part that is being received, or an upper bound of it.
    """

    def __init__(self, buffers: "UploadBuffers", owner: str) -> None:
        self.buffers = buffers
        self.owner = owner
        self.needed = PART_BYTES
        self.shared = 0
        self.unshared = 0

    @property
    def room(self) -> int:
        """Return how many bytes of a part the upload may keep."""
        return UNCOUNTED_BYTES + self.shared + self.unshared

    @property
    def missing(self) -> int:
        return self.needed - self.room

    def hand_over(self) -> "Loan":
        """Return a loan with all the memory of this one, which has none from then on."""
        given = Loan(self.buffers, self.owner)
        given.shared, given.unshared = self.shared, self.unshared
        self.shared = self.unshared = 0
        if self.buffers.favoured is self:
            self.buffers.favoured = given
        return given

    def find_rate(self, usual: int) -> int:
        """Return the lowest rate of the client, in bytes per second."""
        return max(usual, CROWDED_BYTES_PER_SECOND) if self.buffers.is_crowded(self) else usual


class UploadBuffers(Budget):
    """The memory and the threads of all streamed uploads of one process, which shares its port with
    others if `processes` is more than 1.

    `bytes_left` is what is left of the shared memory.
    """

    def __init__(self, processes: int = 1) -> None:
        self.shared_bytes = max(SHARED_BYTES // processes, min(SHARED_BYTES, LEAST_SHARED_BYTES))
        self.owner_bytes = self.shared_bytes // 2
        self.reserved_bytes = self.shared_bytes // 4
        super().__init__(self.shared_bytes, name="upload")
        self.held_by: Counter[str] = Counter()
        self.waiting: dict[asyncio.Future[None], Loan] = {}
        self.favoured: Loan | None = None

    def open_loan(self, owner: str) -> Loan:
        return Loan(self, owner)

    async def extend(self, loan: Loan) -> None:
        """Lend another step, by the rules above. Raises Unavailable after WAIT_SECONDS.

        If this raises, the loan still has to be given back.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting[turn] = loan
        self.serve()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await turn
        except TimeoutError:
            raise problems.Unavailable("too many uploads are in progress: try again") from None
        finally:
            self.waiting.pop(turn, None)
            self.serve()  # a favoured request may have been cancelled

    def extend_at_once(self, loan: Loan) -> bool:
        """Lend another step if no upload waits and the shared memory has one, and return whether it
        did.
        """
        if self.waiting or self.favoured is loan or not self.fits(loan):
            return False
        self.lend(loan)
        return True

    def repay(self, loan: Loan) -> None:
        """Take back everything that was lent."""
        self.give_back(loan.shared)
        self.held_by[loan.owner] -= loan.shared
        if not self.held_by[loan.owner]:
            del self.held_by[loan.owner]  # the dictionary must not grow with the number of owners
        loan.shared = loan.unshared = 0
        if self.favoured is loan:
            self.favoured = None
        self.serve()

    def is_crowded(self, loan: Loan) -> bool:
        """Return whether another upload could go on if this one returned what it holds.

        That is so for the favoured upload, and for an upload that holds memory if another one of
        the same owner waits. If only reserved memory is left, it is also so if the owner holds at
        least an equal share of the shared memory.
        """
        if not loan.shared + loan.unshared or not self.waiting:
            return False
        if loan is self.favoured or loan.owner in {other.owner for other in self.waiting.values()}:
            return True
        owners = self.held_by.keys() | {other.owner for other in self.waiting.values()}
        equal = self.shared_bytes / len(owners)
        is_short = self.bytes_left < self.reserved_bytes + STEP_BYTES
        return is_short and self.held_by[loan.owner] >= equal

    def serve(self) -> None:
        while (turn := self.choose()) is not None:
            self.lend(self.waiting.pop(turn))
            turn.set_result(None)

    def choose(self) -> asyncio.Future[None] | None:
        """Return the next request to grant, by the rules above, or None if there is none."""
        turns = [turn for turn in self.waiting if not turn.done()]
        fitting = [turn for turn in turns if self.fits(self.waiting[turn])]
        if fitting:
            return min(fitting, key=lambda turn: self.held_by[self.waiting[turn].owner])
        if self.favoured is None and turns:
            nearest = min(turns, key=lambda turn: self.waiting[turn].missing)
            self.favoured = self.waiting[nearest]
            return nearest
        return None

    def fits(self, loan: Loan) -> bool:
        left, held = self.bytes_left - STEP_BYTES, self.held_by[loan.owner] + STEP_BYTES
        kept = 0 if held <= PART_BYTES else self.reserved_bytes
        return loan is self.favoured or (left >= kept and held <= self.owner_bytes)

    def lend(self, loan: Loan) -> None:
        if loan is self.favoured:
            loan.unshared += STEP_BYTES
        else:
            loan.shared += STEP_BYTES
            self.bytes_left -= STEP_BYTES
            self.held_by[loan.owner] += STEP_BYTES
