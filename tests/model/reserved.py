"""A vault key that was reserved in advance, as a transition system: one key and two uploads.

A process reserves keys before any upload needs them, and the reservation names no file. Its lease
is never extended. `streamed.py` has the rest of a streamed upload. Here the question is who may
write to a key, and what becomes of a key that no upload uses. The uploads `a` and `b` may belong to
one process or, after a fork, to two. RULES can be removed one by one, as in `rules.py`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.transitions import Step, WithoutClaims

RULES = {
    "answered-first": "a key is in the stock only after the INSERT of its reservation was answered",
    "once": "a key leaves the stock when it is handed out",
    "never-returned": "a key that was handed out is never handed out again, even if its PUT failed",
    "after-the-fork": "a process that forks has no keys yet",
    "forget-unused": "the process deletes only reservations of keys that it never handed out",
    "put-deadline": "a PUT is sent only while the lease is live by the clock of the process",
    "forget-refused": "a reservation whose key was handed out is deleted only if no PUT was sent",
    "commit-undoomed": "the commit INSERTs the files row from a reservation that is not doomed",
    "doom-ended": "the sweeper dooms a reservation only when its lease has expired",
    "doom-decides": "after a failed commit, the process deletes the object only if its doom updated"
    " a row",
}
UPLOADS = ("a", "b")


class Config(NamedTuple):
    rules: frozenset[str] = frozenset(RULES)


class Key(NamedTuple):
    """The key's reservation, its object, and the processes that know the key."""

    asked: int = 0  # an INSERT that no process waits for may still take effect
    begun: int = 0  # the INSERT was sent
    row: int = 0  # the reservation exists
    live: int = 0  # its lease has not expired
    doom: int = 0  # doomed_at is set
    stock: int = 0  # a process may hand the key out
    copied: int = 0  # a forked process may hand it out as well
    a: str = ""  # the point at which the upload is: "", has, putting, stored, lost, over
    b: str = ""
    obj: str = ""  # the upload whose bytes the object has
    late: str = ""  # an upload whose PUT may still take effect, and no process waits for it
    flight: str = ""  # an upload whose commit may still take effect
    file: str = ""  # the upload whose file names the key
    gone: int = 0  # the owner has deleted the file, and the sweeper its object


KeyStep = Step[Key, str]


def move(key: Key, who: str, point: str) -> Key:
    return key._replace(a=point) if who == "a" else key._replace(b=point)


class ReservedKey(WithoutClaims[Key]):
    """The steps and the invariants of one reserved key."""

    claims = 1

    def __init__(self, config: Config) -> None:
        self.on = config.rules.__contains__

    def start(self) -> Key:
        return Key()

    def file_steps(self, file: Key, claimable: bool) -> Iterator[KeyStep]:
        del claimable
        yield from self.reserve_steps(file)
        yield from self.sweep_steps(file)
        yield from self.late_steps(file)
        for who in UPLOADS:
            point = getattr(file, who)
            yield from getattr(self, f"from_{point or 'waiting'}")(file, who)
            if point in ("has", "putting", "stored", "lost"):
                late = who if point == "putting" else file.late
                if not (file.late and point == "putting"):
                    over = move(file, who, "over")._replace(late=late)
                    yield self.step(f"the process of {who} crashes", over, good=False)

    def step(self, what: str, after: Key, *, good: bool = True, bad: str = "") -> KeyStep:
        return Step(what, good, after, None, "", bad)

    # --- the stock

    def reserve_steps(self, k: Key) -> Iterator[KeyStep]:
        if not k.begun:
            reserved = k._replace(begun=1, row=1, live=1, stock=1)
            yield self.step("the process reserves the key", reserved)
            lost = k._replace(begun=1, asked=1, stock=0 if self.on("answered-first") else 1)
            yield self.step("no response to the INSERT", lost, good=False)
        if k.asked:
            yield self.step("the delayed INSERT has no effect", k._replace(asked=0))
            yield self.step("the delayed INSERT takes effect", k._replace(asked=0, row=1, live=1))
        if k.row and k.live:
            yield self.step("the lease expires", k._replace(live=0))
        if k.stock and not self.on("after-the-fork") and not k.copied and not k.a:
            yield self.step("the process forks", k._replace(copied=1))
        if k.stock or k.copied:
            yield self.step("the processes crash", k._replace(stock=0, copied=0), good=False)
            dropped = k._replace(stock=0, copied=0, row=k.row and k.doom)
            yield self.step("the key is too old, or its process stops: it is forgotten", dropped)
        if not self.on("forget-unused") and not k.stock:
            forgotten = k._replace(row=k.row and k.doom)
            yield self.step("the process stops and forgets every key that it reserved", forgotten)

    def from_waiting(self, k: Key, who: str) -> Iterator[KeyStep]:
        if k.stock or (k.copied and who == "b"):
            taken = move(k, who, "has")
            if self.on("once") and not (k.copied and who == "b"):
                taken = taken._replace(stock=0)
            yield self.step(f"{who} takes the key", taken)

    # --- an upload that has the key

    def from_has(self, k: Key, who: str) -> Iterator[KeyStep]:
        if k.live or k.asked or not self.on("put-deadline"):
            yield self.step(f"{who} sends its PUT", move(k, who, "putting"))
        else:
            forgotten = move(k, who, "over")._replace(row=k.row and k.doom)
            yield self.step(f"{who} is too late for a PUT; reservation deleted", forgotten)

    def from_putting(self, k: Key, who: str) -> Iterator[KeyStep]:
        yield self.step(f"the PUT of {who} is answered", move(k, who, "stored")._replace(obj=who))
        if not k.late:
            lost = move(k, who, "lost")._replace(late=who)
            yield self.step(f"no response to the PUT of {who}", lost, good=False)
            if not self.on("never-returned"):
                returned = move(k, who, "over")._replace(late=who, stock=1)
                yield self.step(f"no response; {who} returns the key", returned, good=False)
            if not self.on("forget-refused"):
                forgotten = move(k, who, "over")._replace(late=who, row=0)
                yield self.step(
                    f"no response to the PUT of {who}; reservation deleted", forgotten, good=False
                )

    def from_stored(self, k: Key, who: str) -> Iterator[KeyStep]:
        if self.commits(k):
            yield self.step(f"{who} commits", self.committed(move(k, who, "over"), who))
            lost = move(k, who, "lost")._replace(flight=who)
            if not k.flight:
                yield self.step(f"no response to the commit of {who}", lost, good=False)
        else:
            yield self.step(f"the commit of {who} updates 0 rows", move(k, who, "lost"))

    def from_lost(self, k: Key, who: str) -> Iterator[KeyStep]:
        over = move(k, who, "over")
        if k.row and not k.doom:
            yield self.step(f"{who} dooms the reservation", over._replace(doom=1))
        else:
            yield self.step(f"{who} finds nothing to doom", over)
        if not self.on("doom-decides"):
            yield self.step(f"{who} deletes the object", over._replace(obj=""))

    def from_over(self, k: Key, who: str) -> Iterator[KeyStep]:
        del k, who
        return iter(())

    def commits(self, k: Key) -> bool:
        return bool(k.row and not k.doom) if self.on("commit-undoomed") else not k.file

    def committed(self, k: Key, who: str) -> Key:
        return k._replace(row=0, live=0, doom=0, file=who)

    # --- requests that no process waits for, the sweeper, the owner

    def late_steps(self, k: Key) -> Iterator[KeyStep]:
        if k.late:
            yield self.step(f"the delayed PUT of {k.late} has no effect", k._replace(late=""))
            yield self.step(
                f"the delayed PUT of {k.late} takes effect", k._replace(late="", obj=k.late)
            )
        if k.flight:
            yield self.step("the delayed commit has no effect", k._replace(flight=""))
            if self.commits(k):
                done = self.committed(k, k.flight)._replace(flight="")
                yield self.step("the delayed commit takes effect", done)

    def sweep_steps(self, k: Key) -> Iterator[KeyStep]:
        if k.row and not k.doom and (not k.live or not self.on("doom-ended")):
            bad = "L  a reservation is doomed under its live lease" if k.live else ""
            yield self.step("the sweeper dooms the reservation", k._replace(doom=1), bad=bad)
        # streamed.py has the two deletions, and why no request takes effect after the second one.
        writing = k.late or "putting" in (k.a, k.b) or (k.live and "has" in (k.a, k.b))
        if k.row and k.doom and k.obj:
            yield self.step("the object of the doomed key is deleted", k._replace(obj=""))
        if k.row and k.doom and not k.obj and not writing:
            yield self.step("the sweeper deletes the reservation", k._replace(row=0, doom=0))
        if k.file and not k.gone:
            yield self.step("the owner deletes the file", k._replace(gone=1, obj=""), good=False)

    # --- the methods that explore.py calls

    def forget_file(self, file: Key) -> Key:
        return file if file.row else file._replace(live=0, doom=0)

    def file_breaks(self, before: Key, after: Key) -> str:
        del before
        if after.file and not after.gone and after.obj != after.file:
            return "I5 the object of a ready file is gone, or has other bytes"
        if after.file and after.gone and after.obj:
            return "I4 an object in the vault is named by no row"
        if after.obj and not after.row and not after.file:
            return "I4 an object in the vault is named by no row"
        return ""

    def claim_breaks(self, file: Key, claim: str) -> str:
        del file, claim
        return ""

    def settled(self, file: Key, claims: tuple[str, ...]) -> bool:
        """Return whether no upload can use the key and nothing is left over."""
        del claims
        used = file.stock or file.copied or file.asked or not file.begun
        waits = {file.a, file.b} - {"", "over"}
        return not (used or waits or file.row or file.late or file.flight)
