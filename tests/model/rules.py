"""The rules that keep the life of a file safe, the bounds of a search, and the parts of a state.

Every database statement and every store request is one atomic step. Any other step may come between
two of them. Without one of the rules, `explore.py` finds the shortest trace in which an invariant
breaks, or after which the file can never become final.
"""

from typing import NamedTuple

from tests.model.transitions import Step

RULES = {
    "row-first": "the statement that claims inserts the reservation, before anything is written"
    " under its key",
    "due-by-itself": "rows become due without any arrival, in pending as well as in verifying",
    "pending-too": "a worker's statements accept pending as well as verifying, because a claim"
    " changes no state",
    "guards": "a worker's statements require state IN (pending, verifying) AND lease = its own",
    "guard-lease": "a worker's statements require its own lease in particular",
    "arrivals": "a file goes back to pending only if arrivals is what it was at the claim;"
    " otherwise it is due again at once",
    "expire-looks": "a file expires only after the store has answered that there is no such key",
    "expire-late": "the check that finds no object belongs to a claim made after the grace period:"
    " the clock at the UPDATE shows nothing about the check before it",
    "expire-grace": "a file expires only after its grace period: a PUT that began before the end"
    " may be accepted after it",
    "send-deadline": "a worker sends the copy request only within the first lease period after its"
    " claim; extensions do not count",
    "one-request": "at most one copy request or PUT is ever sent to a vault key (no retry on the"
    " same key)",
    "hash-copy": "the worker hashes the copy, not the object under the incoming key",
    "sent-keeps-row": "once a copy request was sent, giving up dooms the reservation and does not"
    " delete it",
    "commit-undoomed": "the commit requires a reservation that is not doomed",
    "digest-in-commit": "the declared and the proved digest are compared inside the commit"
    " statement",
    "blame-twice": "a mismatch is a verdict only if the previous copy had the same digest, because"
    " one read may have been wrong",
    "counts-source": "a failure counts towards `unverifiable` only if a read of the incoming"
    " object itself fails",
    "counts-probed": "a failure counts towards `unverifiable` only if a probe of the store"
    " succeeds after it",
    "digest-once": "`complete` sets the digest only if there is none",
    "digest-open": "`complete` sets the digest only while the file is not final",
    "reject-keeps-row": "the commit of `rejected` dooms the reservation, which is deleted after"
    " the object",
    "worker-dooms": "a worker whose commit failed, or had no response, deletes the object only if"
    " its doom updated a row",
    "doom-first": "no process deletes a copy before its doom is committed",
    "doom-ended": "the sweeper dooms a copy only when the copy's own lease has expired",
    "doom-rechecks": "the statement that dooms checks the lease itself, because an extension may"
    " have come since the sweeper chose the row",
    "extend-both": "an extension moves the lease of the file and of the copy in one statement",
    "twice": "the object is deleted once more, and then the reservation, only when no copy request"
    " can still take effect",
    "delete-files-alone": "the owner's DELETE leaves the reservations to the sweeper",
    "incoming-terminal": "the incoming object is deleted only for files in final states",
    "incoming-late": "the incoming object is deleted for the last time only when no PUT to its key"
    " can still take effect",
}
OPEN = ("pending", "verifying")


class Config(NamedTuple):
    rules: frozenset[str] = frozenset(RULES)
    workers: int = 2  # workers busy at once; stalled ones count
    claims: int = 2  # claims that exist at once; any number may follow one another
    puts: int = 2  # PUTs that the store accepts, each with either content
    digests: int = 1  # 1 if a digest may be declared, in the declaration or by `complete`
    # 1 if the two contents have the same ETag (MD5 collision, forged on an old store)
    collide: int = 0
    vanish: int = 0  # 1 if a lifecycle rule or an operator may remove the incoming object once
    misreads: int = 0  # copies that may be read wrongly, if a declared digest shows it
    # 1 if an unreadable object may be sent, the store may be unavailable, the vault may be full
    faults: int = 0
    # 1 if the file is small: a worker may read it and PUT its bytes, and `complete` may do so as
    # well. 2 if a worker never copies it.
    small: int = 0


FAILED_READS = 2  # failed reads of the source, after which a file is rejected as unverifiable
# An outage may end between a failed read and its probe, but only that often.
OUTAGES = FAILED_READS - 1
UNSPOILT, SPOILT, REPLACED = range(3)  # values of File.spoilt
WELL, AWAY, FULL = range(3)  # values of File.store


class File(NamedTuple):
    """The files row, its incoming key, and time."""

    state: str = "pending"
    hash: int = 0  # the content that was proved
    declared: int = 0  # the content whose digest was declared
    incoming: int = 0  # the content under the incoming key
    # 0 before the end, 1 after it (the store may still accept a PUT), 2 after the grace period (no
    # PUT can still take effect)
    clock: int = 0
    puts: int = 0
    swept: int = 0  # a mark: the incoming key was deleted for the last time
    purged: int = 0  # a mark: the vault object of the deleted file was deleted
    vanished: int = 0
    misread: int = 0  # the number of copies that were read wrongly
    # the content that was read from the last copy, if it differed from what was declared
    mismatched: int = 0
    # 0 no unreadable object was sent, 1 one is under the key, 2 another object replaced it
    spoilt: int = 0
    store: int = 0  # 0 well, 1 unavailable, 2 unable to write into the vault more than a probe
    outages: int = 0  # the number of times that the store became unavailable
    fails: int = 0  # failed reads of the source that count


class Claim(NamedTuple):
    """The lease token, the reservation and the vault key of a claim, and its worker."""

    token: int = 1  # files.lease is the token of this claim
    # lease_until of its reservation, and of the file while `token`: 2 first period, 1 extended
    # beyond it, 0 ended
    until: int = 2
    row: int = 1  # its reservation exists
    doom: int = 0  # doomed_at is set
    grace: int = 0  # COPY_GRACE has passed since the doom
    chosen: int = 0  # without doom-rechecks: a sweeper has seen that the lease has expired
    sweep: int = 0  # a sweeper has deleted the object once more
    # ETag condition of a copy request that no process waits for. The store may still execute it.
    late: int = 0
    after: int = 0  # that request was sent after the doom, so COPY_GRACE does not bound it
    # the content of a PUT that no process waits for. The store may still execute it.
    body: int = 0
    # Content proved by a commit that no process waits for. The database may still execute it.
    flight: int = 0
    obj: int = 0  # the content under its vault key
    named: int = 0  # files.minio_object_name is the key of this claim
    pc: str = "claimed"  # the point at which its worker is; "" if it has none (crashed or done)
    # The worker remembers whether the grace period was over at the claim, or an ETag, or a content.
    val: int = 0
    # arrivals since the claim: 0 none, 1 some, 2 one while the object existed and the HEAD had
    # missed it
    seen: int = 0
    verdict: int = 0  # without digest-in-commit: the digest that the worker read earlier, plus one
    # 1 if it is no claim, but a `complete` that proves the file itself: its reservation names no
    # file, and its lease is that of the reservation alone
    inline: int = 0


FileStep = Step[File, Claim]
