"""Multipart uploads from the client's side: several parts at a time.

1. If an earlier run may have sent parts, list the parts that the store has.
2. Threads take the parts in order, and send at most `parallel` at a time. An expired URL is
   replaced. The retries of a PUT are described in store.py. A part that the store has in the right
   size is not sent again.
3. One more thread computes the digest of the whole file meanwhile, if the caller does not know it.
   The source is read twice, the second time usually from the page cache, so that no part has to be
   kept in memory.
4. `complete` assembles the parts (uploads.py). If it reports missing parts, send them and call it
   again.

With `hash="parts"`, there is no whole digest. Instead, each thread first hashes its part, records
the digest in the journal, and requests a URL that binds it, so that the store refuses any other
bytes. If the journal has a digest of the part already, the two are compared.
   - *They are equal, and the store has the part in the right size:* do not send it again.
   - *They differ:* raise SourceChanged.
   - *The journal has no digest:* send the part.

Failures:

- *The process is killed:* the next run sends again only what had not arrived.
- *The bytes of a part changed between two reads, or in transit:* with `hash="parts"`, the store
  refuses the part (400). If the fingerprint has changed, raise SourceChanged, otherwise
  StoreRefused. Without, the server finds that the whole digest differs (uploads.py, step 5).
- *The multipart upload no longer exists (404), or the API accepts no more parts (another run was
  faster):* stop sending. The response to `complete` shows the state.
- *A thread fails:* the other threads stop at their next piece.
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
    """The parts of one upload in progress.

    `stored` holds the numbers of the parts that the store has in the right size.
    """

    def __init__(self, sending: Sending, file: UUID, plan: Parts, stored: frozenset[int]) -> None:
        self.sending = sending
        self.file = file
        self.plan = plan
        self.stored = stored
        self.pool = WorkerPool()
        self.turn = threading.Lock()

    def place(self, number: int) -> int:
        return (number - 1) * self.plan.part_size

    def size(self, number: int) -> int:
        return min(self.plan.part_size, self.sending.source.size - self.place(number))


def send_parts(sending: Sending, file: UUID, plan: Parts, *, resumed: bool) -> None:
    """Run steps 1 to 3 of the protocol above, and set the whole digest if it is wanted.

    Raises SourceChanged, StoreRefused, ServerUnavailable, and the API's refusals.
    """
    try:
        stored = find_stored(sending, file, plan) if resumed else frozenset()
    except AlreadyUploaded:
        return
    under_way = PartsSending(sending, file, plan, stored)
    run(under_way, range(1, plan.parts + 1), hashing=sending.wants_whole)


def send_missing(sending: Sending, file: UUID, plan: Parts, *, numbers: Iterable[int]) -> None:
    """Send the parts that `complete` has reported missing in step 4 of the protocol above."""
    under_way = PartsSending(sending, file, plan, frozenset())
    sending.meter.enter("sending")
    run(under_way, numbers, hashing=False)


def find_stored(sending: Sending, file: UUID, plan: Parts) -> frozenset[int]:
    """Return the numbers of the parts that the store has in the planned size."""
    under_way = PartsSending(sending, file, plan, frozenset())
    return frozenset(
        part.number
        for part in sending.api.list_parts(file)
        if part.size == under_way.size(part.number)
    )


def run(under_way: PartsSending, numbers: Iterable[int], *, hashing: bool) -> None:
    left = iter(numbers)
    threads = min(under_way.sending.options.parallel, under_way.plan.parts)
    tasks = [lambda: send_in_turn(under_way, left)] * threads
    if hashing:
        tasks.append(lambda: hash_whole(under_way))
    try:
        under_way.pool.run(tasks)
    except AlreadyUploaded:
        return
    except StoreRefused as error:
        under_way.sending.source.check_unchanged()
        if error.status != 404:
            raise


def hash_whole(under_way: PartsSending) -> None:
    """Set the digest of the whole file."""
    digest = hashlib.sha256()
    for number in range(1, under_way.plan.parts + 1):
        for piece in read_part(under_way, number):
            digest.update(piece)
    under_way.sending.sha256 = digest.hexdigest()


def send_in_turn(under_way: PartsSending, left: Iterator[int]) -> None:
    """Send parts until none is left. Several threads run this function."""
    while True:
        with under_way.turn:
            number = next(left, None)
        if number is None:
            return
        sha256 = hash_part(under_way, number) if under_way.sending.wants_parts else None
        if not check_stored(under_way, number, sha256):
            send_part(under_way, number, sha256)


def check_stored(under_way: PartsSending, number: int, sha256: str | None) -> bool:
    """Return whether the part is at the store already. Raises SourceChanged."""
    known = under_way.sending.journal.parts.get(number)
    if known is None and sha256 is not None:
        return False
    if known is not None and sha256 is not None and known != sha256:
        raise SourceChanged(
            f"{under_way.sending.source.name} has changed since its upload began: "
            f"part {number} differs from what was sent",
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
    """Yield the bytes of a part. Raises Stopped, SourceChanged, SourceUnreadable."""
    place, size = under_way.place(number), under_way.size(number)
    buffer = memoryview(bytearray(min(PIECE, size)))
    while size:
        under_way.pool.check()
        piece = buffer[: under_way.sending.source.read_into(buffer[:size], place)]
        yield piece
        place, size = place + len(piece), size - len(piece)
