"""The proof of a small file as a transition system: GET, PUT under a vault key, commit.

A worker does this under its claim. `complete` does it without a claim, under a key that was
reserved in advance and names no file (`Claim.inline`).
"""

from collections.abc import Iterator

from tests.model.rules import AWAY, FULL, OPEN, SPOILT, WELL, Claim, Config, File, FileStep
from tests.model.transitions import Step

INLINE = Claim(token=0, until=2, row=0, inline=1, pc="asked")
"""A `complete` that has read the row, and has no vault key yet."""


class SmallFile:
    """The steps of a worker and of `complete` with a small file, by the points that they reach."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.on = config.rules.__contains__
        self.points = {
            "asked": self.from_asked,
            "read": self.from_read,
            "doubtful": self.from_doubtful,
            "blames": self.from_blames,
            "agrees": self.from_agrees,
            "keyed": self.from_keyed,
            "putting": self.from_putting,
            "quitting": self.from_quitting,
        }

    # --- the read

    def from_asked(self, file: File, c: Claim) -> Iterator[FileStep]:
        """Yield the GET of the incoming object. A worker has compared size and type by now."""
        who = name(c)
        if file.incoming and file.spoilt != SPOILT and file.store != AWAY:
            read = c._replace(pc="read", val=file.incoming, seen=0)
            yield Step(f"{who}: GET incoming, reads {' AB'[file.incoming]}", True, file, read)
            if file.declared and file.misread < self.config.misreads:
                misread = file._replace(misread=file.misread + 1)
                yield Step(f"{who} reads it wrongly", False, misread, read._replace(val=3))
        else:
            yield Step(f"{who}: GET incoming fails", True, file, self.leave(c))
        yield Step(f"{who}: the read ends early", False, file, self.leave(c))

    def from_read(self, file: File, c: Claim) -> Iterator[FileStep]:
        """Yield the comparison with the digest that is known now."""
        who = name(c)
        if file.declared in (0, c.val):
            yield Step(f"{who}: nothing differs", True, file, c._replace(pc="agrees"))
            if not c.inline:  # the digest came after the claim
                yield Step(f"{who}: no digest is known", False, file, c._replace(pc="agrees"))
        elif self.on("blame-twice"):
            yield Step(f"{who}: the digest differs", True, file, c._replace(pc="doubtful"))
        else:
            yield Step(f"{who}: the digest differs", True, file, c._replace(pc="blames"))

    def from_doubtful(self, file: File, c: Claim) -> Iterator[FileStep]:
        """Yield the second read. Only the same difference again is a verdict."""
        again = bool(file.incoming == c.val and file.spoilt != SPOILT and file.store != AWAY)
        if again:
            yield Step(f"{name(c)} reads the same again", True, file, c._replace(pc="blames"))
        else:
            yield Step(f"{name(c)} reads something else", True, file, self.leave(c))
        if again:
            yield Step(f"{name(c)}: the second read fails", False, file, self.leave(c))

    def from_blames(self, file: File, c: Claim) -> Iterator[FileStep]:
        """Yield the statement that rejects. Nothing was written under a key.

        The statement of `complete` has no lease. It requires an unproved state, and that the known
        digest still differs.
        """
        gone = c._replace(pc="", val=0, row=c.row if c.doom else 0)
        allowed = file.state in OPEN or not self.on("guards")
        if not c.inline:
            held = bool(c.token) or not self.on("guard-lease") or not self.on("guards")
            allowed = allowed and held and not (c.doom and self.on("guards"))
        if not allowed or file.declared in (0, c.val):
            yield Step(f"{name(c)}: rejection updates 0 rows", True, file, self.leave(c))
            return
        others = "unlease" if c.inline else "" if c.token else "steal"
        wrong = c.val == 3 or file.declared == c.val
        yield Step(
            f"{name(c)}: rejected",
            True,
            file._replace(state="rejected"),
            gone._replace(token=0),
            others,
            "I9 rejected, although the declared digest matches" if wrong else "",
        )

    # --- the write

    def from_agrees(self, file: File, c: Claim) -> Iterator[FileStep]:
        if not c.inline:
            yield from self.from_keyed(file, c)
            return
        taken = c._replace(pc="keyed", row=int(self.on("row-first")), until=2)
        yield Step("complete takes a reserved key", True, file, taken)
        yield Step("complete: no key can be reserved", False, file, self.leave(c))

    def from_keyed(self, file: File, c: Claim) -> Iterator[FileStep]:
        if c.until == 2 or not self.on("send-deadline"):
            sent = c._replace(pc="putting", after=c.doom)
            yield Step(f"{name(c)} sends a PUT of {' AB?'[c.val]}", True, file, sent)
        yield Step(f"{name(c)}: too late to send", True, file, self.leave(c))

    def from_putting(self, file: File, c: Claim) -> Iterator[FileStep]:
        lost = c._replace(pc=lost_point(c), val=0, body=c.val)
        stored = c._replace(pc="hashed", after=0, obj=c.val)
        if file.store == WELL:
            yield Step("the store stores the body and answers", True, file, stored)
        if file.store in (AWAY, FULL):
            yield Step("the PUT fails because of the store", True, file, lost)
        yield Step("no response to the PUT", False, file, lost)
        refused = c._replace(after=0)
        yield Step("the store refuses the PUT", False, file, self.leave(refused))
        if not self.on("one-request"):
            again = stored._replace(body=c.val)
            yield Step("no response to the PUT, sent again; answered", False, file, again)

    def leave(self, c: Claim) -> Claim:
        """Return the claim after it ended before anything was written.

        A worker deletes its reservation, and then releases the lease. `complete` deletes a
        reservation that it has taken, and leaves an arrival.
        """
        row = c.row if c.doom else 0
        return c._replace(pc="" if c.inline else "ending", val=0, seen=0, row=row)

    def from_quitting(self, file: File, c: Claim) -> Iterator[FileStep]:
        """Yield the steps of `complete` after a write or a commit without a certain result."""
        gone = c._replace(pc="", val=0)
        if not self.on("worker-dooms"):
            yield Step("complete deletes its object", True, file, gone._replace(obj=0))
        if not self.on("sent-keeps-row"):
            yield Step("complete deletes its reservation", True, file, gone._replace(row=0))
        if c.row:
            yield Step("complete dooms its reservation", True, file, gone._replace(doom=1))
        else:
            yield Step("complete: nothing to doom, nothing to delete", True, file, gone)


def name(c: Claim) -> str:
    return "complete" if c.inline else "worker"


def lost_point(c: Claim) -> str:
    return "quitting" if c.inline else "lost"
