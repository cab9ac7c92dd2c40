"""A damaged file whose bytes are sent again, as a transition system.

One file is proved under the key `old`. An administrator alters and restores the object that the row
names, at any time. The scrub reads the object and then commits one of two verdicts. Two clients,
`a` and `b`, send the bytes again, each under a fresh key of its own name. `streamed.py` and
`reserved.py` have how a body is written under a reserved key, with late writes. Here the question
is which key the row names, and what becomes of the others. RULES can be removed one by one, as in
`rules.py`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.transitions import Step, WithoutClaims

RULES = {
    "verdict-names-key": "a verdict of the scrub holds only if the row names the key that was read",
    "verdict-of-proved": "a verdict of the scrub changes a file only if it is ready or damaged",
    "commit-undoomed": "the commit needs the reservation of the new key, and that is not doomed",
    "commit-damaged": "the commit needs the file to be damaged",
    "commit-old-key": "the commit needs the row to name the key that the client found in it",
    "commit-same-bytes": "the commit needs bytes of the size and the SHA-256 that were proved",
    "commit-dooms-old": "the commit dooms the key that the row named before",
    "commit-keeps-new": "the commit deletes the reservation of the new key",
    "doom-decides": "after a failed commit, the process deletes the object only if its doom updated"
    " a row",
}
CLIENTS = ("a", "b")


class Config(NamedTuple):
    rules: frozenset[str] = frozenset(RULES)


class Objects(NamedTuple):
    """What is stored under each key: "" for no object, "good" for the proved bytes, or "bad"."""

    old: str = "good"
    a: str = ""
    b: str = ""


class Reservations(NamedTuple):
    """The reservation of each key: "", "live", "ended" (its lease has expired) or "doomed"."""

    old: str = ""
    a: str = ""
    b: str = ""


class Client(NamedTuple):
    """The request of one client."""

    at: str = ""  # "", "reserved", "stored", "lost" (it does not know its commit), "over"
    found: str = ""  # the key that the row named when the request began


class Damaged(NamedTuple):
    """The file's row, the objects, the reservations, and the processes."""

    state: str = "ready"  # or "damaged", or "deleted"
    key: str = "old"
    etag: str = "old"  # the key of the object whose ETag the row has
    purge: int = 0  # the object of the deleted file is not deleted yet
    objects: Objects = Objects()
    reserved: Reservations = Reservations()
    altered: frozenset[str] = frozenset()  # the keys whose object an administrator has changed
    a: Client = Client()
    b: Client = Client()
    flight: str = ""  # a client whose commit may still take effect
    read: str = ""  # the key that the scrub has read
    whole: int = 0  # it has found the proved bytes there


DamagedStep = Step[Damaged, str]


def store(d: Damaged, key: str, content: str) -> Damaged:
    return d._replace(objects=d.objects._replace(**{key: content}))


def reserve(d: Damaged, key: str, reservation: str) -> Damaged:
    return d._replace(reserved=d.reserved._replace(**{key: reservation}))


def move(d: Damaged, who: str, at: str) -> Damaged:
    return change(d, who, getattr(d, who)._replace(at=at))


def change(d: Damaged, who: str, client: Client) -> Damaged:
    return d._replace(a=client) if who == "a" else d._replace(b=client)


class DamagedFile(WithoutClaims[Damaged]):
    """The steps and the invariants of one file that is damaged and sent again."""

    claims = 1

    def __init__(self, config: Config) -> None:
        self.on = config.rules.__contains__

    def start(self) -> Damaged:
        return Damaged()

    def file_steps(self, file: Damaged, claimable: bool) -> Iterator[DamagedStep]:
        del claimable
        yield from self.administrator_steps(file)
        yield from self.scrub_steps(file)
        yield from self.sweep_steps(file)
        for who in CLIENTS:
            at = getattr(file, who).at
            yield from getattr(self, f"from_{at or 'waiting'}")(file, who)
            if at in ("reserved", "stored", "lost"):
                over = move(file, who, "over")
                yield self.step(f"the process of {who} crashes", over, good=False)
        if file.flight:
            yield self.step("the delayed commit has no effect", file._replace(flight=""))
            if self.commits(file, file.flight):
                done = self.committed(file, file.flight)._replace(flight="")
                yield self.step("the delayed commit takes effect", done)

    def step(self, what: str, after: Damaged, *, good: bool = True) -> DamagedStep:
        return Step(what, good, after, None, "", "")

    # --- the administrator and the owner

    def administrator_steps(self, d: Damaged) -> Iterator[DamagedStep]:
        if d.state != "deleted":
            altered = d._replace(altered=d.altered | {d.key})
            for content, what in (("bad", "alters"), ("", "removes"), ("good", "restores")):
                if getattr(d.objects, d.key) != content:
                    changed = store(altered, d.key, content)
                    yield self.step(f"the administrator {what} {d.key}", changed, good=False)
            deleted = d._replace(state="deleted", purge=1)
            yield self.step("the owner deletes the file", deleted, good=False)

    # --- the scrub

    def scrub_steps(self, d: Damaged) -> Iterator[DamagedStep]:
        if not d.read and d.state != "deleted":
            whole = int(getattr(d.objects, d.key) == "good")
            what = "whole" if whole else "damaged"
            read = d._replace(read=d.key, whole=whole)
            yield self.step(f"the scrub reads {d.key}: it is {what}", read)
        if d.read:
            yield self.step("the scrub commits its verdict", self.judged(d))

    def judged(self, d: Damaged) -> Damaged:
        after = d._replace(read="", whole=0)
        if d.key != d.read and self.on("verdict-names-key"):
            return after
        if d.state == "deleted" and self.on("verdict-of-proved"):
            return after
        if d.whole:
            return after._replace(state="ready", etag=d.read)
        return after._replace(state="damaged")

    # --- a request that sends the bytes again

    def from_waiting(self, d: Damaged, who: str) -> Iterator[DamagedStep]:
        if d.state == "damaged":
            begun = change(reserve(d, who, "live"), who, Client("reserved", d.key))
            yield self.step(f"{who} reads the row and reserves a key", begun)

    def from_reserved(self, d: Damaged, who: str) -> Iterator[DamagedStep]:
        yield self.step(f"{who} stores the bytes", store(move(d, who, "stored"), who, "good"))
        if not self.on("commit-same-bytes"):
            other = store(move(d, who, "stored"), who, "bad")
            yield self.step(f"{who} stores other bytes", other, good=False)

    def from_stored(self, d: Damaged, who: str) -> Iterator[DamagedStep]:
        if not self.commits(d, who):
            yield self.step(f"the commit of {who} updates 0 rows", move(d, who, "lost"))
            return
        yield self.step(f"{who} commits", self.committed(move(d, who, "over"), who))
        if not d.flight:
            lost = move(d, who, "lost")._replace(flight=who)
            yield self.step(f"no response to the commit of {who}", lost, good=False)

    def from_lost(self, d: Damaged, who: str) -> Iterator[DamagedStep]:
        over = move(d, who, "over")
        if getattr(d.reserved, who) in ("live", "ended"):
            yield self.step(f"{who} dooms its reservation", reserve(over, who, "doomed"))
        else:
            yield self.step(f"{who} finds nothing to doom", over)
        if not self.on("doom-decides"):
            yield self.step(f"{who} deletes its object", store(over, who, ""))

    def from_over(self, d: Damaged, who: str) -> Iterator[DamagedStep]:
        del d, who
        return iter(())

    def commits(self, d: Damaged, who: str) -> bool:
        undoomed = getattr(d.reserved, who) in ("live", "ended")
        names = d.key == getattr(d, who).found
        return (
            (undoomed or not self.on("commit-undoomed"))
            and (d.state == "damaged" or not self.on("commit-damaged"))
            and (names or not self.on("commit-old-key"))
        )

    def committed(self, d: Damaged, who: str) -> Damaged:
        """Run the one statement of the commit. It dooms the key that the client found in the row,
        which `commit-old-key` makes the key that the row names.
        """
        after = d._replace(state="ready", key=who, etag=who)
        if self.on("commit-keeps-new"):
            after = reserve(after, who, "")
        found = getattr(d, who).found
        return reserve(after, found, "doomed") if self.on("commit-dooms-old") else after

    # --- the sweeper

    def sweep_steps(self, d: Damaged) -> Iterator[DamagedStep]:
        for key in ("old", *CLIENTS):
            reservation, content = getattr(d.reserved, key), getattr(d.objects, key)
            if reservation == "live":
                yield self.step(f"the lease of {key} expires", reserve(d, key, "ended"))
            if reservation == "ended":
                yield self.step(f"the sweeper dooms {key}", reserve(d, key, "doomed"))
            if reservation == "doomed" and content:
                yield self.step(f"the object of the doomed key {key} is deleted", store(d, key, ""))
            # streamed.py has the two deletions, and why no write takes effect after the second one.
            writing = key != "old" and getattr(d, key).at == "reserved"
            if reservation == "doomed" and not content and not writing:
                forgotten = reserve(d, key, "")
                yield self.step(f"the sweeper deletes the reservation of {key}", forgotten)
        if d.purge:
            purged = store(d._replace(purge=0), d.key, "")
            yield self.step("the sweeper deletes the object of the deleted file", purged)

    # --- the methods that explore.py calls

    def forget_file(self, file: Damaged) -> Damaged:
        return file

    def file_breaks(self, before: Damaged, after: Damaged) -> str:
        content, is_altered = getattr(after.objects, after.key), after.key in after.altered
        if before.state == "deleted" != after.state:
            return "I3 a deleted file is ready or damaged again"
        if after.state == "ready" and content != "good" and not is_altered:
            return "I5 the object of a ready file is missing or wrong, and nothing altered it"
        if after.state == "ready" and after.etag != after.key:
            return "I1 a ready file has the ETag of another object"
        if before.state == "ready" and after.state == "damaged" and not is_altered:
            return "W  a file is damaged although nothing altered its object"
        if getattr(after.reserved, after.key):
            return "D  a reserved or doomed key is named by a row"
        named = {after.key} if after.state != "deleted" or after.purge else set()
        for key in ("old", *CLIENTS):
            is_named = key in named or getattr(after.reserved, key)
            if getattr(after.objects, key) and not is_named:
                return "I4 an object in the vault is named by no row"
        return ""

    def claim_breaks(self, file: Damaged, claim: str) -> str:
        del file, claim
        return ""

    def settled(self, file: Damaged, claims: tuple[str, ...]) -> bool:
        """Return whether no request is in progress and nothing is left over."""
        del claims
        waits = {file.a.at, file.b.at} - {"", "over"}
        return not (waits or any(file.reserved) or file.flight or file.read or file.purge)
