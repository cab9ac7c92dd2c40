"""A restored database as a transition system: one file, two vault keys, the marker.

The database may fall back to an earlier state of itself at any step. The store does not. A restore
by dump, by archived log or by failover gives the database another identity. A restored copy of its
disk does not, and is older than the last raise of the marker (see README.md, "Assumptions"). The
steps that delete or give up are guarded by the marker, and `assay reconcile` makes the database
agree with the vault again. RULES can be removed one by one, as in `rules.py`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.transitions import Step, WithoutClaims

RULES = {
    "check-counter": "the guard compares the counter in the row with that in the vault's marker",
    "check-identity": "the guard compares the identity in the row with that of the database",
    "row-first": "a raise commits the row before it writes the marker",
    "stop-if-ahead": "a raise happens only while the guard allows work",
    "look-again": "a check that finds the vault ahead reads the row once more",
    "one-raiser": "a raise begins only when the previous one has ended",
    "sweeper-checks": "the sweeper dooms and deletes only while the guard allows work",
    "claims-check": "a worker claims, and a file expires, only while the guard allows work",
    "orphans-check": "the scrub of orphans dooms only while the guard allows work",
    "orphans-look-again": "the scrub of orphans dooms a key only if no row names it any more",
    "reservations-first": "reconcile commits the objects of old reservations before the marker",
    "objects-first": "reconcile adopts the objects that no row names before the marker",
    "rows-first": "reconcile marks rows without an object before the marker",
    "reserve-found": "reconcile adopts an object only if its key can be reserved",
    "one-transaction": "reconcile reserves the key of a found object with the commit, not before",
    "hash-first": "reconcile commits an object only if its bytes are as declared",
}
KEYS = (1, 2)
ADOPTING = ("adopting", "hashing")
OPEN = ("pending", "verifying")
NOT_LOOKING, AHEAD = -1, -2
GOOD, OTHER = 1, 2
"""The bytes of an object: those that were declared, or others."""


class Config(NamedTuple):
    rules: frozenset[str] = frozenset(RULES)
    restores: int = 1
    raises: int = 1


class Base(NamedTuple):
    """What the database holds, and what a restore brings back."""

    state: str = ""  # of the file; empty if it has no row
    named: int = 0  # the vault key that the row names
    r1: str = ""  # the reservation of key 1: "", live, ended, doomed
    r2: str = ""
    counter: int = 0
    identity: int = 0  # as the row of the marker has it


class World(NamedTuple):
    db: Base = Base()
    backup: Base | None = None
    identity: int = 0  # of the database itself
    restores: int = 0
    incoming: int = 0
    o1: int = 0  # the bytes under key 1
    o2: int = 0
    w1: str = ""  # the process that has key 1: "", claimed, copied, adopting, hashing
    w2: str = ""
    marker: int = 0  # the counter in the vault
    raised: int = 0  # the highest counter that ever was in the vault
    raising: tuple[int, ...] = ()  # counters that are being written to the vault
    looked: int = NOT_LOOKING  # the counter that a check has read in the row, or AHEAD
    proved: int = 0  # the key under which the owner was told that the file is ready
    orphan: int = 0  # the key that the scrub has found unnamed
    step: str = ""  # of reconcile: "", reservations, rows, objects, marking
    lost: int = 0  # the row of the file was lost: it is adopted as recorded


WorldStep = Step[World, str]


class Restored(WithoutClaims[World]):
    """The steps and the invariants of one file whose database may be restored."""

    claims = 1

    def __init__(self, config: Config) -> None:
        self.config = config
        self.on = config.rules.__contains__

    def start(self) -> World:
        return World()

    def allows(self, w: World) -> bool:
        """Return whether the guard allows work."""
        behind = w.db.counter < w.marker and self.on("check-counter")
        changed = w.db.identity != w.identity and self.on("check-identity")
        return not (behind or changed)

    def file_steps(self, file: World, claimable: bool) -> Iterator[WorldStep]:
        del claimable
        yield from self.owner_steps(file)
        yield from self.marker_steps(file)
        yield from self.check_steps(file)
        yield from self.restore_steps(file)
        yield from self.file_sweeps(file)
        yield from self.reconcile_steps(file)
        for key in KEYS:
            yield from self.claim(file, key)
            yield from self.work(file, key)
            yield from self.sweep(file, key)
            yield from self.adopt(file, key)

    def go(self, what: str, after: World, *, good: bool = True) -> WorldStep:
        return Step(what, good, after, None)

    # --- the owner

    def owner_steps(self, w: World) -> Iterator[WorldStep]:
        if not w.db.state and not w.lost and not w.restores:
            declared = change(w, state="pending")._replace(incoming=GOOD)
            yield self.go("the owner declares the file and sends its bytes", declared)
        if w.db.state == "pending" and w.incoming == GOOD and not w.restores:
            sent = w._replace(incoming=OTHER)
            yield self.go("another PUT brings other bytes", sent, good=False)
        if w.db.state in ("pending", "ready", "damaged", "rejected"):
            deleted = change(w, state="deleted")._replace(proved=0)
            yield self.go("the owner deletes the file", deleted, good=False)

    # --- a worker

    def claim(self, w: World, key: int) -> Iterator[WorldStep]:
        free = not any(reservation(w, k) == "live" or worker(w, k) for k in KEYS)
        unused = is_unused(w, key)
        allowed = self.allows(w) or not self.on("claims-check")
        if w.db.state == "pending" and free and unused and allowed and w.incoming:
            yield self.go(f"a worker claims the file with key {key}", hold(w, key, "claimed"))
        if w.db.state == "pending" and free and allowed and not w.incoming and key == 1:
            yield self.go("the file expires", change(w, state="expired"))

    def work(self, w: World, key: int) -> Iterator[WorldStep]:
        at = worker(w, key)
        if at == "claimed" and w.incoming:
            copied = put_object(move(w, key, "copied"), key, w.incoming)
            yield self.go(f"the worker copies the object to key {key}", copied)
        if at == "copied":
            yield self.go(f"the worker commits key {key}", commit(w, key, check=True))
        if at in ("claimed", "copied"):
            yield self.go(f"the process that has key {key} crashes", move(w, key, ""), good=False)
        if at == "claimed" and not w.incoming:
            yield self.go(f"the worker finds no object for key {key}", move(w, key, ""))
        # Without a restore, `worker.py` has the expiry under a running worker.
        if reservation(w, key) == "live" and not (at and w.restores == 0):
            yield self.go(f"the lease of key {key} ends", reserve(w, key, "ended"))

    # --- the sweeper

    def sweep(self, w: World, key: int) -> Iterator[WorldStep]:
        allowed = self.allows(w) or not self.on("sweeper-checks")
        if reservation(w, key) == "ended" and allowed:
            yield self.go(f"the sweeper dooms key {key}", reserve(w, key, "doomed"))
        if reservation(w, key) == "doomed" and allowed:
            if content(w, key):
                yield self.go(f"the sweeper deletes object {key}", put_object(w, key, 0))
            elif worker(w, key) not in ("claimed", "hashing"):
                yield self.go(f"the sweeper deletes reservation {key}", reserve(w, key, ""))
        allowed = self.allows(w) or not self.on("orphans-check")
        named = reservation(w, key) or w.db.named == key
        # The runbook says to delete orphans only when all lost rows were taken back.
        spared = w.lost and not w.db.state and content(w, key) == GOOD
        if not w.orphan and content(w, key) and not named and not spared:
            yield self.go(f"the scrub finds that no row names object {key}", w._replace(orphan=key))
        if w.orphan == key and allowed:
            found = w._replace(orphan=0)
            if named and self.on("orphans-look-again"):
                yield self.go(f"a row names object {key} now", found)
            else:
                yield self.go(f"the scrub dooms key {key}", reserve(found, key, "doomed"))

    def file_sweeps(self, w: World) -> Iterator[WorldStep]:
        if not (self.allows(w) or not self.on("sweeper-checks")):
            return
        if w.incoming and w.db.state not in ("", *OPEN):
            yield self.go("the sweeper deletes the incoming object", w._replace(incoming=0))
        if w.db.state == "deleted" and w.db.named:
            purged = change(put_object(w, w.db.named, 0), named=0)
            yield self.go("the sweeper deletes the object of the deleted file", purged)

    # --- the marker

    def marker_steps(self, w: World) -> Iterator[WorldStep]:
        may = self.allows(w) or not self.on("stop-if-ahead")
        free = not w.raising or (len(w.raising) < 2 and not self.on("one-raiser"))
        if may and free and max(w.marker, w.db.counter) < self.config.raises:
            counter = w.db.counter + 1
            begun = w._replace(raising=(*w.raising, counter))
            if self.on("row-first"):
                yield self.go("a raise commits the row", change(begun, counter=counter))
            else:
                yield self.go("a raise writes the marker", reached(begun, counter))
        for counter in w.raising:
            rest = tuple(other for other in w.raising if other != counter)
            ended = w._replace(raising=rest)
            if self.on("row-first"):
                yield self.go(f"the marker gets {counter}", reached(ended, counter))
            else:
                yield self.go("the raise commits the row", change(ended, counter=counter))
            yield self.go("the process that raises crashes", ended, good=False)

    def check_steps(self, w: World) -> Iterator[WorldStep]:
        """Yield the reads of a check before any restore, which must not stop work."""
        if w.restores or w.looked == AHEAD:
            return
        if w.looked == NOT_LOOKING:
            yield self.go("a check reads the row", w._replace(looked=w.db.counter), good=False)
            return
        row = max(w.looked, w.db.counter) if self.on("look-again") else w.looked
        judged = w._replace(looked=AHEAD if row < w.marker else NOT_LOOKING)
        yield self.go("the check reads the marker", judged)

    # --- restores

    def restore_steps(self, w: World) -> Iterator[WorldStep]:
        if w.restores == self.config.restores:
            return
        if w.db != w.backup:
            yield self.go("a backup of the database", w._replace(backup=w.db), good=False)
        if w.backup is None:
            return
        yield self.go("the backup is deleted", w._replace(backup=None))
        restored = w._replace(
            db=w.backup,
            restores=w.restores + 1,
            raising=(),
            looked=NOT_LOOKING,
            step="",
            lost=int(not w.backup.state and (w.lost or bool(w.db.state))),
        )
        for key in KEYS:
            gone = worker(w, key) in ADOPTING
            restored = move(restored, key, "") if gone else restored
        yield self.go(
            "the database is restored", restored._replace(identity=w.restores + 1), good=False
        )
        if w.backup.counter < w.raised:
            yield self.go("a copy of the database's disk is restored", restored, good=False)

    # --- reconcile

    def reconcile_steps(self, w: World) -> Iterator[WorldStep]:
        if not w.restores:
            return
        if w.step:
            stopped = w._replace(step="")
            for key in KEYS:
                stopped = move(stopped, key, "") if worker(w, key) in ADOPTING else stopped
            yield self.go("reconcile is interrupted", stopped, good=False)
        else:
            yield self.go("reconcile begins", w._replace(step="reservations"))
        if w.step == "reservations":
            old = [
                k
                for k in KEYS
                if worker(w, k) in ADOPTING
                or (reservation(w, k) in ("live", "ended") and content(w, k))
            ]
            if not (old and self.on("reservations-first")):
                yield self.go("reconcile has seen the reservations", w._replace(step="rows"))
        if w.step == "rows":
            missing = w.db.state == "ready" and not content(w, w.db.named)
            if missing:
                yield self.go("reconcile marks the file as damaged", change(w, state="damaged"))
            if not missing or not self.on("rows-first"):
                yield self.go("reconcile has seen the rows", w._replace(step="objects"))
        if w.step == "objects":
            unnamed = [k for k in KEYS if self.adoptable(w, k) or worker(w, k) in ADOPTING]
            if not (unnamed and self.on("objects-first")):
                yield self.go("reconcile has seen the objects", w._replace(step="marking"))
            if w.lost and not w.db.state and not any(worker(w, k) in ADOPTING for k in KEYS):
                reported = w._replace(step="marking")
                yield self.go("reconcile was told to adopt no lost file", reported, good=False)
        if w.step == "marking":
            counter = max(w.db.counter, w.marker)
            marked = change(w, counter=counter, identity=w.identity)
            yield self.go("reconcile sets the marker", reached(marked, counter)._replace(step=""))

    def adoptable(self, w: World, key: int) -> bool:
        """Return whether reconcile commits this object that no row names."""
        hashes = content(w, key) == GOOD or (content(w, key) and not self.on("hash-first"))
        unnamed = not reservation(w, key) and w.db.named != key and not worker(w, key)
        return bool(hashes and unnamed and self.wanted(w))

    def wanted(self, w: World) -> bool:
        """Return whether the file is unproved, or its row is lost."""
        return w.db.state == "pending" or (not w.db.state and bool(w.lost))

    def adopt(self, w: World, key: int) -> Iterator[WorldStep]:
        if w.step == "reservations" and reservation(w, key) == "ended" and content(w, key):
            if content(w, key) == GOOD or not self.on("hash-first"):
                taken = hold(w, key, "adopting") if self.wanted(w) else None
                yield self.go(
                    f"reconcile takes reservation {key}", taken or reserve(w, key, "doomed")
                )
            else:
                yield self.go(f"reconcile dooms key {key}", reserve(w, key, "doomed"))
        if w.step == "objects" and self.adoptable(w, key):
            if self.on("one-transaction"):
                yield self.go(f"reconcile hashes object {key}", move(w, key, "hashing"))
            else:
                yield self.go(f"reconcile reserves key {key}", hold(w, key, "adopting"))
        if worker(w, key) == "hashing" and reservation(w, key) and self.on("reserve-found"):
            yield self.go(f"reconcile finds key {key} reserved", move(w, key, ""))
        elif worker(w, key) in ADOPTING:
            reserved = worker(w, key) == "adopting"
            after = commit(w, key, check=self.on("hash-first"), reserved=reserved)
            yield self.go(f"reconcile commits key {key}", after)

    # --- the methods that explore.py calls

    def forget_file(self, file: World) -> World:
        """Forget a backup that cannot be restored any more, and which key has which number.

        Both keys are random, so that two states are the same if one has the keys of the other
        exchanged. In a trace, key 1 can thus become key 2 between two steps.
        """
        if file.restores == self.config.restores:
            file = file._replace(backup=None)
        return exchange_keys(file) if describe_key(file, 1) < describe_key(file, 2) else file

    def file_breaks(self, before: World, after: World) -> str:
        del before
        held = after.proved and content(after, after.proved) == GOOD
        again = after.db.state == "pending" and after.incoming == GOOD
        if after.proved and not held and not again:
            return "I5 the bytes of a file that was ready are gone"
        if after.db.state == "expired" and after.proved:
            return "I2 an accepted upload expired"
        if after.db.state == "ready" and content(after, after.db.named) == OTHER:
            return "I1 the object of a ready file is not what was hashed"
        agrees = after.db.identity == after.identity and after.db.counter >= after.marker
        if agrees and after.db.state == "ready" and not content(after, after.db.named):
            return "I5 the object of a ready file is gone"
        if after.looked == AHEAD:
            return "work is stopped, and no database was restored"
        return ""

    def claim_breaks(self, file: World, claim: str) -> str:
        del file, claim
        return ""

    def settled(self, file: World, claims: tuple[str, ...]) -> bool:
        """Return whether the guard allows work and nothing is left over."""
        del claims
        left = [k for k in KEYS if reservation(file, k) or worker(file, k)]
        unnamed = [k for k in KEYS if content(file, k) and file.db.named != k]
        agrees = file.db.counter >= file.marker and file.db.identity == file.identity
        ended = file.db.state not in OPEN and not file.raising and not file.step
        told = not file.proved or file.db.state == "ready"
        return agrees and ended and told and not left and not unnamed


def reservation(w: World, key: int) -> str:
    return w.db.r1 if key == 1 else w.db.r2


def content(w: World, key: int) -> int:
    return {0: 0, 1: w.o1, 2: w.o2}[key]


def worker(w: World, key: int) -> str:
    return w.w1 if key == 1 else w.w2


def describe_key(w: World, key: int) -> tuple[object, ...]:
    """Return all that the state says about one key."""
    named = [base.named == key for base in (w.db, w.backup or Base())]
    reserved = [base.r1 if key == 1 else base.r2 for base in (w.db, w.backup or Base())]
    return (*named, *reserved, content(w, key), worker(w, key), w.proved == key, w.orphan == key)


def exchange_keys(w: World) -> World:
    """Return the same state, in which key 1 is called key 2 and key 2 is called key 1."""
    other = (0, 2, 1)
    return w._replace(
        db=exchange_rows(w.db),
        backup=w.backup and exchange_rows(w.backup),
        o1=w.o2,
        o2=w.o1,
        w1=w.w2,
        w2=w.w1,
        proved=other[w.proved],
        orphan=other[w.orphan],
    )


def exchange_rows(base: Base) -> Base:
    return base._replace(named=(0, 2, 1)[base.named], r1=base.r2, r2=base.r1)


def reached(w: World, counter: int) -> World:
    """Return the world in which the marker in the vault has the counter."""
    return w._replace(marker=counter, raised=max(w.raised, counter))


def is_unused(w: World, key: int) -> bool:
    """Return whether no row, object or process has the key: it then stands for a new random one."""
    named = any(
        base.named == key or (base.r1 if key == 1 else base.r2)
        for base in (w.db, w.backup or Base())
    )
    return not (named or content(w, key) or worker(w, key) or key in (w.proved, w.orphan))


def change(w: World, **fields: object) -> World:
    return w._replace(db=w.db._replace(**fields))  # type: ignore[arg-type]  # names of the fields


def reserve(w: World, key: int, how: str) -> World:
    return change(w, r1=how) if key == 1 else change(w, r2=how)


def move(w: World, key: int, at: str) -> World:
    return w._replace(w1=at) if key == 1 else w._replace(w2=at)


def put_object(w: World, key: int, value: int) -> World:
    return w._replace(o1=value) if key == 1 else w._replace(o2=value)


def hold(w: World, key: int, at: str) -> World:
    """Return the world in which a process has a live reservation of the key."""
    return reserve(move(w, key, at), key, "live")


def commit(w: World, key: int, *, check: bool, reserved: bool = True) -> World:
    """Return the world after the statement that commits the key, which may update no row."""
    w = move(w, key, "")
    if reserved and reservation(w, key) not in ("live", "ended"):
        return w
    if w.db.state != "pending" and not (w.lost and not w.db.state):
        return reserve(w, key, "doomed") if reserved else w
    if check and content(w, key) != GOOD:
        return change(reserve(w, key, "doomed"), state="rejected")
    ready = change(reserve(w, key, "") if reserved else w, state="ready", named=key)
    return ready._replace(proved=key, lost=0)
