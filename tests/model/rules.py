"""The rules that keep the way of a file safe, the bounds of a search, and what a state consists of.

Every database statement and every store request is one atomic step, everything between two steps can be interrupted. Take a rule away and
explore.py finds the shortest story in which an invariant breaks, or after which the file can come to no end any more.
"""

from typing import NamedTuple

from tests.model.transitions import Step

RULES = {
    "row-first": "the statement that claims writes the reservation down, before anything is written under its key",
    "due-by-itself": "rows are claimed without any arrival, too: pending as well as verifying",
    "pending-too": "a worker's statements accept pending as well as verifying: a claim changes no state",
    "guards": "a worker's statements demand state IN (pending, verifying) AND lease = its own",
    "guard-lease": "... in particular the lease",
    "arrivals": "back to pending only if arrivals is what it was at the claim, else due again at once",
    "expire-looks": "a file expires only after the store said: no such key",
    "expire-late": "... asked by a claim that was made after end + grace: the clock at the UPDATE proves nothing about the look before it",
    "expire-grace": "... and the grace counts: a PUT that began before the end may be accepted after it",
    "send-deadline": "a worker sends the copy only within the first lease period after its claim, extensions not counted",
    "one-request": "at most one copy request is ever sent to a vault key (no retry on the same key)",
    "hash-copy": "what is hashed is the copy, not what lies under the incoming key",
    "sent-keeps-row": "once a copy request was sent, giving up dooms the row; it does not delete it",
    "commit-undoomed": "the commit demands an undoomed reservation",
    "digest-in-commit": "declared and proved are compared inside the commit statement",
    "blame-twice": "a mismatch is a verdict only if the copy before it had the same digest: one read may have been wrong",
    "counts-source": "a failure counts towards `unverifiable` only if a read of the incoming object itself fails",
    "counts-probed": "... and only if a probe of the store succeeds after it",
    "digest-once": "`complete` sets the digest only where there is none",
    "digest-open": "... and only while the file is not final",
    "reject-keeps-row": "the commit of `rejected` dooms the reservation; it goes after the object",
    "worker-dooms": "a worker that lost, or does not know, deletes only if its doom hit a row",
    "doom-first": "nobody deletes a copy before its doom is committed",
    "doom-ended": "the sweeper dooms a copy only when the copy's own lease has ended",
    "doom-rechecks": "... asked in the very statement that dooms: an extension may have come since the sweeper chose the row",
    "extend-both": "an extension moves the lease of the file and of the copy in one statement",
    "twice": "object once more, and row, only when no copy request can take effect any more",
    "delete-files-alone": "the owner's DELETE leaves the reservations to the sweeper",
    "incoming-terminal": "the incoming key is deleted of files in terminal states only",
    "incoming-late": "... and for the last time only when no PUT to it can land any more",
}
OPEN = ("pending", "verifying")


class Config(NamedTuple):
    rules: frozenset[str] = frozenset(RULES)
    workers: int = 2  # workers busy at once; stalled ones count
    claims: int = 2  # claims with something left of them at once; any number one after the other
    puts: int = 2  # PUTs that the store accepts, each with either content
    digests: int = 1  # may a digest be declared (at declare or by `complete`)
    collide: int = 0  # the two contents have the same ETag (MD5 collision, forged on an old store)
    vanish: int = 0  # once, somebody else (lifecycle rule, operator) removes the incoming object
    misreads: int = 0  # copies that are read wrongly, where a declared digest shows it
    faults: int = (
        0  # an object that cannot be read may be sent, the store may be away, the vault may be full
    )


FAILED_READS = 2  # of the source, after which a file is rejected as unverifiable
OUTAGES = (
    FAILED_READS - 1
)  # an outage may end between a failed read and its probe, but not that often
UNSPOILT, SPOILT, REPLACED = range(3)  # File.spoilt
WELL, AWAY, FULL = range(3)  # File.store


class File(NamedTuple):
    """The files row, its incoming key, and time."""

    state: str = "pending"
    hash: int = 0  # content proved
    declared: int = 0  # content whose digest was declared
    incoming: int = 0  # content under the incoming key
    clock: int = 0  # 0 before the end, 1 ended (the store may still accept), 2 end + grace over: no PUT can land
    puts: int = 0
    swept: int = 0  # mark: incoming key deleted for the last time
    purged: int = 0  # mark: vault object of a deleted file deleted
    vanished: int = 0
    misread: int = 0  # copies that were read wrongly
    mismatched: int = (
        0  # content that the last copy was read as, where that was not what was declared
    )
    spoilt: int = (
        0  # no object that cannot be read was sent; one lies under the key; another replaced it
    )
    store: int = 0  # well; away; unable to write into the vault what is larger than a probe
    outages: int = 0  # how often the store went away
    fails: int = 0  # failed reads of the source that count


class Claim(NamedTuple):
    """What one claim left behind: lease token, reservation, vault key, and the worker that made it."""

    token: int = 1  # files.lease is this claim's
    until: int = 2  # lease_until of its reservation, and of the file while `token`: 2 first period, 1 extended beyond it, 0 ended
    row: int = 1  # its reservation exists
    doom: int = 0  # doomed_at is set
    grace: int = 0  # COPY_GRACE has gone by since
    chosen: int = 0  # without doom-rechecks: a sweeper has seen the lease ended
    sweep: int = 0  # a sweeper has deleted the object once more
    late: int = 0  # ETag condition of a copy request that nobody waits for but the store may still carry out
    after: int = 0  # ... and it was sent after the doom, so COPY_GRACE does not bound it
    flight: int = (
        0  # content proved by a commit that nobody waits for but the database may still carry out
    )
    obj: int = 0  # content under its vault key
    named: int = 0  # files.minio_object_name is this claim's key
    pc: str = "claimed"  # where its worker is; "" when there is none (crashed or done)
    val: int = (
        0  # what the worker remembers: end + grace were over at the claim; an ETag; a content
    )
    seen: int = 0  # arrivals since the claim: 0 none, 1 some, 2 one while the object was there and the HEAD had missed it
    verdict: int = 0  # without digest-in-commit: the digest as the worker read it before, plus one


FileStep = Step[File, Claim]
