"""The life of one file as a transition system.

The system consists of the file's row, its incoming key, its owner and time, with the invariants.
"""

from collections.abc import Iterator

from tests.model.rules import (
    AWAY,
    FULL,
    OPEN,
    OUTAGES,
    REPLACED,
    SPOILT,
    UNSPOILT,
    WELL,
    Claim,
    Config,
    File,
    FileStep,
)
from tests.model.small import INLINE
from tests.model.transitions import Step
from tests.model.worker import Worker


class WayOfAFile:
    """The steps and the invariants of one file under `config`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.claims = config.claims
        self.on = config.rules.__contains__
        self.worker = Worker(config)
        self.graced = self.on("expire-grace") and self.on("incoming-late")

    def start(self) -> File:
        return File()

    def claimable(self, claims: tuple[Claim, ...]) -> bool:
        busy = sum(c.pc != "" for c in claims)
        return busy < self.config.workers and not any(c.token and c.until for c in claims)

    # --- the client, the owner, time, arrivals, and the sweeper's work on the files row

    def file_steps(self, file: File, claimable: bool) -> Iterator[FileStep]:
        yield from self.outside_steps(file)
        yield from self.digest_steps(file)
        if self.config.faults and file.state in OPEN:
            yield from self.fault_steps(file)
        to = file._replace
        # If the grace period is kept, no step depends on the end alone: one step covers both.
        if file.clock < 2:
            clock = 2 if self.graced else file.clock + 1
            yield Step(
                "the grace period ends" if clock == 2 else "the file's expires_at passes",
                True,
                to(clock=clock),
                None,
            )
        final = file.state not in OPEN
        if file.incoming and (final or not self.on("incoming-terminal")):
            yield Step("the incoming object is deleted", True, to(incoming=0), None)
        late = file.clock == 2 or (not self.on("incoming-late") and file.clock)
        if final and late and not file.swept:
            yield Step(
                "sweeper: deletes the incoming object for the last time, marks the file",
                True,
                to(incoming=0, swept=1),
                None,
            )
        if file.state == "deleted" and file.hash and not file.purged:
            yield Step(
                "sweeper: deletes the vault object of the deleted file, marks it",
                True,
                to(purged=1),
                None,
                "purge",
            )
        if claimable and (
            file.state == "verifying" or (file.state == "pending" and self.on("due-by-itself"))
        ):
            claim = Claim(row=int(self.on("row-first")), val=int(self.worker.over(file)))
            yield Step("worker claims: lease, reservation", True, file, claim, "unlease")
        if self.config.small and claimable and file.state in OPEN:
            yield Step("complete: reads the row, begins to prove it", False, file, INLINE)

    def outside_steps(self, file: File) -> Iterator[FileStep]:
        to = file._replace
        if file.puts < self.config.puts and file.clock < 2:
            # The contents are interchangeable, so the first one is A.
            for content in (1, 2) if file.puts or file.declared else (1,):
                spoilt = REPLACED if file.spoilt else UNSPOILT
                yield Step(
                    f"client PUTs {' AB'[content]}",
                    False,
                    to(incoming=content, puts=file.puts + 1, spoilt=spoilt),
                    None,
                )
        if file.state != "deleted":
            others = "unlease" if self.on("delete-files-alone") else "unrow"
            yield Step("owner deletes the file", False, to(state="deleted"), None, others)
        if self.config.vanish and file.incoming and not file.vanished:
            yield Step("incoming object vanishes", False, to(incoming=0, vanished=1), None)
        if file.state in OPEN:
            yield Step(
                "an arrival (event, forged or not; complete): verifying, arrivals + 1",
                False,
                to(state="verifying"),
                None,
                "arrived" if file.incoming else "announced",
            )

    def fault_steps(self, file: File) -> Iterator[FileStep]:
        """Yield the steps of an owner that sends an unreadable object, and of a failing store."""
        to = file._replace
        if file.puts < self.config.puts and file.clock < 2:
            yield Step(
                "client PUTs an unreadable object",
                False,
                to(incoming=1, puts=file.puts + 1, spoilt=SPOILT),
                None,
            )
        if file.store == WELL and file.outages < OUTAGES:
            yield Step(
                "the store becomes unavailable",
                False,
                to(store=AWAY, outages=file.outages + 1),
                None,
            )
        if file.store == WELL:
            yield Step("the vault is full", False, to(store=FULL), None)
        if file.store != WELL:
            yield Step("the store recovers", True, to(store=WELL), None)

    def digest_steps(self, file: File) -> Iterator[FileStep]:
        """Yield the steps that declare a digest, in the declaration or by `complete`.

        `complete` also increments `arrivals`. A separate step, which can always follow, does that.
        """
        may = (file.state in OPEN or not self.on("digest-open")) and (
            not file.declared or not self.on("digest-once")
        )
        if self.config.digests and may and file.state != "deleted":
            for content in (1, 2) if file.puts or file.declared else (1,):
                if content != file.declared:
                    yield Step(
                        f"owner declares the digest of {' AB'[content]}",
                        False,
                        file._replace(declared=content),
                        None,
                    )

    def claim_steps(self, file: File, claim: Claim) -> Iterator[FileStep]:
        return self.worker.claim_steps(file, claim)

    # --- the effect of a step of the file or of one claim on the other claims

    def touch(self, how: str, claim: Claim) -> Claim:
        if how in ("unlease", "steal"):
            return claim._replace(token=0)
        if how == "unrow":
            return claim._replace(token=0, row=0)
        if how == "purge":
            return claim._replace(obj=0, named=0) if claim.named else claim
        # "announced" and "arrived": only a worker that may still find no object compares arrivals.
        if claim.pc == "claimed":
            return claim._replace(seen=max(claim.seen, 1))
        if claim.pc == "nothing":
            return claim._replace(seen=max(claim.seen, 2 if how == "arrived" else 1))
        return claim

    def touch_breaks(self, how: str, claim: Claim) -> str:
        if how == "steal" and claim.token and claim.until:
            return "L  a live lease is ended by another worker"
        return ""

    # --- removal of what can no longer matter

    def forget_file(self, file: File) -> File:
        if file.state == "deleted" and (file.purged or not file.hash):
            file = file._replace(hash=0, purged=0)
        if file.state not in OPEN and self.on("digest-open"):
            file = file._replace(declared=0)
        if file.state not in OPEN:
            file = file._replace(
                misread=0, mismatched=0, spoilt=UNSPOILT, store=WELL, outages=0, fails=0
            )
        return file

    def forget_claim(self, file: File, claim: Claim) -> Claim | None:
        c = claim
        if not c.row and not c.flight:
            c = c._replace(doom=0, grace=0)
        if not c.row and not c.token and c.pc not in ("claimed", "headed"):
            c = c._replace(until=0)
        if not c.pc and not c.flight:
            c = c._replace(inline=0)
        if not c.until and not c.pc and not c.flight:
            c = c._replace(token=0)
        if c.obj and not c.named and not c.flight and c.pc not in ("copied", "hashed"):
            c = c._replace(obj=1)
        if c.body and not c.named and c.pc not in ("copied", "hashed"):
            c = c._replace(body=1)
        hopeless = (file.puts == self.config.puts or file.clock == 2) and not self.worker.same(
            file, c.late
        )
        if c.late and hopeless:
            c = c._replace(late=0, after=0)
        guarded = self.on("guards") and self.on("commit-undoomed") and self.on("guard-lease")
        unheld = not c.token and not c.inline
        if guarded and c.flight and (unheld or file.state not in OPEN or c.doom or not c.row):
            c = c._replace(flight=0, verdict=0)
        return (
            c
            if any((c.row, c.obj, c.late, c.body, c.flight, c.pc, c.token, c.named, c.sweep))
            else None
        )

    # --- invariants

    def file_breaks(self, before: File, after: File) -> str:
        """Return the invariant that the step breaks, or an empty string."""
        if before.state != after.state and before.state not in OPEN and after.state != "deleted":
            return "I3 a final state changed"
        if after.incoming and after.swept:
            return "I4 an object in incoming will never be deleted"
        if after.state == "expired" and after.puts and not after.vanished:
            return "I2 an accepted upload expired"
        if (after.hash != 0) != (
            after.state == "ready" or (after.state == "deleted" and before.hash != 0)
        ):
            return "I6 hash without proof"
        if after.state == "ready" and after.declared not in (0, after.hash):
            return "I9 ready, though another digest was declared"
        if before.declared and after.declared != before.declared:
            return "I9 a declared digest changed"
        return ""

    def claim_breaks(self, file: File, claim: Claim) -> str:
        """Return the invariant that the claim breaks in its present state, or an empty string."""
        if claim.named and file.state == "ready":
            if not claim.obj:
                return "I5 the object of a ready file is gone"
            if claim.obj != file.hash:
                return "I1 the object of a ready file is not what was hashed"
        held = claim.named and (
            file.state == "ready" or (file.state == "deleted" and not file.purged)
        )
        if claim.obj and not claim.row and not held:
            return "I4 an object in the vault is named by no row"
        return ""

    def settled(self, file: File, claims: tuple[Claim, ...]) -> bool:
        left = [
            c
            for c in claims
            if not (
                file.state == "ready"
                and c == Claim(token=0, until=0, row=0, named=1, obj=file.hash, pc="")
            )
        ]
        purged = file.state != "deleted" or not file.hash
        return (
            file.state not in OPEN and file.swept == 1 and not file.incoming and purged and not left
        )
