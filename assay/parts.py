"""Sending a file in parts, several at once, each bound to its digest: the store itself refuses any other bytes.

1. Ask what the store has (when an earlier run may have sent some).
2. Threads take the parts in their order. One at a time reads its part and hashes it, for the part's digest and for the whole file's: so
   the whole digest needs no read of its own. With `hash="parts"` there is no whole digest, and they hash at the same time.
   A part that the store has, in the right size, and whose digest the journal knows: compared. Another: SourceChanged. Nothing is sent.
   Unknown to the journal: sent again.
3. Note the digest in the journal, have the URL signed for it, and send the part: read a second time, which mostly is from memory, so that
   no part need be held there. At most `parallel` are on their way. What goes wrong with a PUT: store.py. A fresh URL is signed when one
   has ended.
4. `complete` assembles them (uploads.py). It names parts that are missing: these are sent, and it is called again.

(a) Killed anywhere: what the store took is there, what was on its way is sent again.
(b) The store refuses a part's bytes (400): they changed between the two reads, or on the way. The fingerprint says which: SourceChanged.
(c) The store does not know the upload any more (404), or the API says that no parts are wanted (another run was faster): stop sending,
    `complete` says what is true.
(d) Any thread fails: the others stop at their next piece.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

from assay import store
from assay.api import Parts
from assay.errors import AlreadyUploaded, SourceChanged, StoreRefused
from assay.progress import Share
from assay.retries import RetryPolicy
from assay.sendings import Sending
from assay.transport import PIECE
from assay.worker_pools import WorkerPool


class PartsSending:
    """The parts of one upload under way. `stored`: numbers that the store has in their right size."""

    def __init__(self, sending: Sending, file: UUID, plan: Parts, stored: frozenset[int]) -> None:
        self.sending = sending
        self.file = file
        self.plan = plan
        self.stored = stored
        self.pool = WorkerPool()
        self.whole = hashlib.sha256() if sending.wants_whole else None
        self.turn = threading.Lock()
        self.taken = 0
        """Parts that were read in their order: the whole digest is that of as many."""

    def place(self, number: int) -> int:
        return (number - 1) * self.plan.part_size

    def size(self, number: int) -> int:
        return min(self.plan.part_size, self.sending.source.size - self.place(number))


def send_parts(sending: Sending, file: UUID, plan: Parts, *, resumed: bool) -> None:
    """Steps 1 to 3; afterwards the whole digest is known. Raises SourceChanged, StoreRefused, ServerUnavailable, what the API refuses."""
    try:
        stored = find_stored(sending, file, plan) if resumed else frozenset()
    except AlreadyUploaded:
        return
    under_way = PartsSending(sending, file, plan, stored)
    run(under_way, range(1, plan.parts + 1))
    if under_way.whole is not None and under_way.taken == plan.parts:
        sending.sha256 = under_way.whole.hexdigest()


def send_missing(sending: Sending, file: UUID, plan: Parts, *, numbers: Iterable[int]) -> None:
    """Step 4's parts."""
    under_way = PartsSending(sending, file, plan, frozenset())
    under_way.whole = None
    sending.meter.enter("sending")
    run(under_way, numbers)


def find_stored(sending: Sending, file: UUID, plan: Parts) -> frozenset[int]:
    """Of another size than the plan's they are as good as missing."""
    under_way = PartsSending(sending, file, plan, frozenset())
    return frozenset(
        part.number
        for part in sending.api.list_parts(file)
        if part.size == under_way.size(part.number)
    )


def run(under_way: PartsSending, numbers: Iterable[int]) -> None:
    left = iter(numbers)
    try:
        under_way.pool.run(
            lambda: work(under_way, left),
            min(under_way.sending.options.parallel, under_way.plan.parts),
        )
    except AlreadyUploaded:
        return
    except StoreRefused as error:
        under_way.sending.source.check_unchanged()
        if error.status != 404:
            raise


def work(under_way: PartsSending, left: Iterator[int]) -> None:
    """One thread's: a part at a time."""
    while True:
        with under_way.turn:
            number = next(left, None)
            if number is None:
                return
            sha256 = hash_part(under_way, number) if under_way.whole is not None else None
            under_way.taken = number
        if under_way.whole is None and under_way.sending.wants_parts:
            sha256 = hash_part(under_way, number)
        if not check_stored(under_way, number, sha256):
            send_part(under_way, number, sha256)


def check_stored(under_way: PartsSending, number: int, sha256: str | None) -> bool:
    """Whether the part need not be sent. Raises SourceChanged."""
    known = under_way.sending.journal.parts.get(number)
    if known is None and sha256 is not None:
        return False
    if known is not None and sha256 is not None and known != sha256:
        raise SourceChanged(
            f"{under_way.sending.source.name} was changed since its upload began: part {number} has other bytes now than were sent",
            under_way.sending.journal.path,
        )
    if number not in under_way.stored:
        return False
    under_way.sending.meter.add(under_way.size(number))
    return True


def hash_part(under_way: PartsSending, number: int) -> str:
    digest = hashlib.sha256()
    for piece in read_part(under_way, number):
        digest.update(piece)
        if under_way.whole is not None:
            under_way.whole.update(piece)
    return digest.hexdigest()


def send_part(under_way: PartsSending, number: int, sha256: str | None) -> None:
    sending, share = under_way.sending, Share(under_way.sending.meter)
    if sha256 is not None:
        sending.journal.note_part(number, sha256)

    def sign() -> store.Put:
        wanted: dict[str, Any] = {"number": number} | ({} if sha256 is None else {"sha256": sha256})
        [signed] = sending.api.sign_parts(under_way.file, [wanted])
        return store.Put(signed.url, signed.headers, signed.size)

    def open_body() -> Iterator[memoryview]:
        return share.watch(read_part(under_way, number))

    retries = RetryPolicy(sending.api.retry_seconds, under_way.pool.stop)
    store.put(sending.api.transport, sign(), renew=sign, open_body=open_body, retries=retries)


def read_part(under_way: PartsSending, number: int) -> Iterator[memoryview]:
    """Piece by piece. Raises Stopped, and what reading raises."""
    place, size = under_way.place(number), under_way.size(number)
    buffer = memoryview(bytearray(min(PIECE, size)))
    while size:
        under_way.pool.check()
        piece = buffer[: under_way.sending.source.read_into(buffer[:size], place)]
        yield piece
        place, size = place + len(piece), size - len(piece)
