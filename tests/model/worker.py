"""One claim as a transition system.

The system consists of time, the store, the sweeper's work on the reservation, and the worker.
"""

from collections.abc import Iterator

from tests.model.rules import (
    AWAY,
    FAILED_READS,
    OPEN,
    SPOILT,
    UNSPOILT,
    Claim,
    Config,
    File,
    FileStep,
)
from tests.model.small import SmallFile, lost_point, name
from tests.model.transitions import Step


class Worker:
    """The steps of a claim, with one method `from_…` for each point at which a worker can be."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.on = config.rules.__contains__
        self.points = {
            "claimed": self.from_claimed,
            "nothing": self.from_nothing,
            "headed": self.from_headed,
            "sent": self.from_sent,
            "refused": self.from_refused,
            "copied": self.from_copied,
            "hashed": self.from_hashed,
            "doubting": self.from_doubting,
            "blaming": self.from_blaming,
            "counting": self.from_counting,
            "lost": self.from_lost,
            "ending": self.from_ending,
            **SmallFile(config).points,
        }

    def claim_steps(self, file: File, c: Claim) -> Iterator[FileStep]:
        yield from self.time_steps(file, c)
        yield from self.store_steps(file, c)
        yield from self.sweep_steps(file, c)
        if c.pc:
            crashed = c._replace(pc="", val=0, seen=0, verdict=c.verdict if c.flight else 0)
            if c.pc == "sent":
                crashed = crashed._replace(late=c.val)
            if c.pc == "putting":
                crashed = crashed._replace(body=c.val)
            yield Step(f"{name(c)} crashes", False, file, crashed)
            yield from self.points[c.pc](file, c)

    # --- conditions and statements that several steps share

    def over(self, file: File) -> bool:
        return file.clock == 2 or (not self.on("expire-grace") and file.clock == 1)

    def same(self, file: File, etag: int) -> bool:
        return file.incoming != 0 and (file.incoming == etag or self.config.collide != 0)

    def guarded(self, file: File, c: Claim) -> bool:
        """Return whether `state IN (pending, verifying) AND lease = mine` holds."""
        states = OPEN if self.on("pending-too") else ("verifying",)
        if c.inline:
            return file.state in OPEN or not self.on("guards")
        return not self.on("guards") or (
            file.state in states and (c.token == 1 or not self.on("guard-lease"))
        )

    def release(
        self, file: File, c: Claim, what: str, *, state: str = "", good: bool = True
    ) -> FileStep:
        """Return the step that releases the lease, or ends the file without a proof.

        The reservation stays.
        """
        gone = c._replace(pc="", val=0, seen=0, verdict=c.verdict if c.flight else 0)
        if not self.guarded(file, c):
            return Step(f"{what}: 0 rows", good, file, gone)
        return Step(
            what,
            good,
            file._replace(state=state or file.state),
            gone._replace(token=0),
            "" if c.token else "steal",
        )

    def settle(
        self, file: File, c: Claim, what: str, *, state: str = "", good: bool = True
    ) -> FileStep:
        """Return the step of `release` that also deletes the reservation, in the same statement.

        It applies only while nothing can ever be written under the key, and requires that the
        reservation is not doomed.
        """
        if c.doom and self.on("guards"):
            return Step(f"{what}: 0 rows", good, file, c._replace(pc="", val=0, seen=0))
        return self.release(
            file, c._replace(row=0), f"{what}, reservation deleted", state=state, good=good
        )

    def forget(self, c: Claim) -> Claim:
        """Return the claim after its reservation was deleted.

        Releasing the lease is the next step. This applies if no copy request was sent, or if the
        store certainly refused it.
        """
        return c._replace(pc="ending", val=0, seen=0, row=c.row if c.doom else 0)

    # --- time, the store, the sweeper

    def time_steps(self, file: File, c: Claim) -> Iterator[FileStep]:
        if c.until and (c.row or c.token):
            yield Step("the lease expires", True, file, c._replace(until=0))
        if c.pc and c.until != 1 and c.token and file.state in OPEN and c.row and not c.doom:
            yield Step("worker extends its lease", True, file, c._replace(until=1))
        # the one assumption about time: see README.md
        before = (c.pc in ("sent", "putting") or c.late or c.body) and not c.after
        if c.row and c.doom and not c.grace and c.until < 2 and not before:
            yield Step("COPY_GRACE passes after the doom", True, file, c._replace(grace=1))

    def store_steps(self, file: File, c: Claim) -> Iterator[FileStep]:
        if c.late:
            if self.same(file, c.late):
                yield Step(
                    "delayed copy request takes effect",
                    True,
                    file,
                    c._replace(late=0, after=0, obj=file.incoming),
                )
            yield Step(
                "delayed copy request has no effect", True, file, c._replace(late=0, after=0)
            )
        if c.body:
            written = c._replace(body=0, after=0)
            yield Step("delayed PUT takes effect", True, file, written._replace(obj=c.body))
            yield Step("delayed PUT has no effect", True, file, written)
        if c.flight:
            yield from self.commit(
                file, c, c._replace(flight=0, verdict=0), "delayed commit", content=c.flight
            )
            yield Step("delayed commit has no effect", True, file, c._replace(flight=0, verdict=0))

    def sweep_steps(self, file: File, c: Claim) -> Iterator[FileStep]:
        ended = not c.until or (c.until == 1 and not self.on("extend-both"))
        if c.row and not c.doom and ended and not c.chosen and not self.on("doom-rechecks"):
            yield Step(
                "sweeper: chooses the copy, its lease has expired", True, file, c._replace(chosen=1)
            )
        if c.row and not c.doom and (ended or c.chosen or not self.on("doom-ended")):
            held = (c.token or (c.inline and c.pc)) and c.until
            bad = "L  a copy is doomed under its worker's live lease" if held else ""
            yield Step("sweeper: dooms the copy", True, file, c._replace(doom=1), bad=bad)
        if c.row and c.obj and (c.doom or (not self.on("doom-first") and not c.until)):
            yield Step("its object is deleted", True, file, c._replace(obj=0))
        if c.row and c.doom and not c.sweep and (c.grace or not self.on("twice")):
            yield Step(
                "sweeper: deletes the object once more", True, file, c._replace(sweep=1, obj=0)
            )
        if c.sweep:
            yield Step("sweeper: deletes the reservation", True, file, c._replace(sweep=0, row=0))

    # --- the worker

    def from_claimed(self, file: File, c: Claim) -> Iterator[FileStep]:
        if not self.on("expire-looks") and c.val:
            yield self.settle(file, c, "worker: -> expired", state="expired")
        announced = file.state == "verifying"
        if self.config.small and announced:
            yield Step("worker: the file is small", True, file, c._replace(pc="asked", seen=0))
        if file.incoming and not (self.config.small == 2 and announced):
            yield Step(
                "worker: HEAD incoming, sees its ETag",
                True,
                file,
                c._replace(pc="headed", val=file.incoming, seen=0),
            )
        if not file.incoming:
            yield Step("worker: HEAD incoming, not found", True, file, c._replace(pc="nothing"))
        yield Step("worker: HEAD fails, reservation deleted", False, file, self.forget(c))
        if file.spoilt == SPOILT or file.store == AWAY:
            yield Step(
                "worker: HEAD fails because of the object or the store",
                True,
                file,
                self.forget(c)._replace(pc="doubting"),
            )

    def from_nothing(self, file: File, c: Claim) -> Iterator[FileStep]:
        over = c.val if self.on("expire-late") else self.over(file)
        if over:
            yield self.settle(file, c, "worker: -> expired", state="expired")
        elif c.seen and self.on("arrivals"):
            yield self.settle(file, c, "worker: arrivals have changed, due again at once")
        else:
            asleep = self.settle(
                file,
                c,
                "worker: -> pending, due after the next interval of the schedule",
                state="pending",
            )
            missed = c.seen == 2 and file.incoming and self.guarded(file, c) and not c.doom
            yield asleep._replace(
                bad="I2 the arrival of an existing object was missed" if missed else ""
            )

    def from_headed(self, file: File, c: Claim) -> Iterator[FileStep]:
        found = self.settle(
            file,
            c,
            "worker: the file was pending -> verifying, due again at once",
            state="verifying",
        )
        if file.state == "pending" and not file.fails:
            yield found
            return
        # It was pending at the claim, and an arrival was recorded since.
        yield found._replace(good=False)
        yield self.settle(
            file,
            c,
            "worker: HEAD shows another size or type -> rejected",
            state="rejected",
            good=False,
        )
        if c.until == 2 or not self.on("send-deadline"):
            yield Step(
                "worker sends the copy request", True, file, c._replace(pc="sent", after=c.doom)
            )
        yield Step("worker: too late to send, reservation deleted", True, file, self.forget(c))

    def from_sent(self, file: File, c: Claim) -> Iterator[FileStep]:
        if file.spoilt == SPOILT or file.store:
            yield Step(
                "the copy fails because of the object or the store",
                True,
                file,
                c._replace(pc="doubting", val=0, late=c.val),
            )
        elif self.same(file, c.val):
            yield Step(
                "store copies; worker gets the response",
                True,
                file,
                c._replace(pc="copied", val=0, after=0, obj=file.incoming),
            )
            # The second request is answered, while the first is still in progress.
            if not self.on("one-request"):
                again = c._replace(pc="copied", val=0, late=c.val, obj=file.incoming)
                yield Step(
                    "copy request times out and is sent again under the same key; store copies;"
                    " worker gets the response",
                    False,
                    file,
                    again,
                )
        if file.incoming != c.val:
            yield Step(
                "store refuses the copy (412/404)",
                True,
                file,
                c._replace(pc="refused", val=0, after=0),
            )
        yield Step(
            "worker's copy request times out, still in progress",
            False,
            file,
            c._replace(pc="lost", val=0, late=c.val),
        )

    def from_refused(self, file: File, c: Claim) -> Iterator[FileStep]:
        """Yield the steps after a refusal. Nothing was written, and nothing will be."""
        yield Step("worker: reservation deleted", True, file, self.forget(c))
        yield self.settle(
            file, c, "worker: permanently unreadable -> rejected", state="rejected", good=False
        )

    def from_copied(self, file: File, c: Claim) -> Iterator[FileStep]:
        content = c.obj if self.on("hash-copy") else file.incoming
        if content:
            verdict = 0 if self.on("digest-in-commit") else file.declared + 1
            yield Step(
                f"worker hashes: {' AB'[content]}",
                True,
                file,
                c._replace(pc="hashed", val=content, verdict=verdict),
            )
            if file.declared and file.misread < self.config.misreads:
                wrong = c._replace(pc="hashed", val=3, verdict=verdict)
                yield Step(
                    "worker reads its copy wrongly",
                    False,
                    file._replace(misread=file.misread + 1),
                    wrong,
                )
        else:
            yield Step("worker: the object is gone", True, file, c._replace(pc="lost"))

    def from_hashed(self, file: File, c: Claim) -> Iterator[FileStep]:
        done = c._replace(pc="", val=0, verdict=0)
        hit = False
        for step in self.commit(file, c, done, f"{name(c)} commits", content=c.val):
            hit = True
            yield step
            yield Step(
                f"{name(c)} commits, no response: the commit may be in progress",
                False,
                file,
                c._replace(pc=lost_point(c), val=0, flight=c.val),
            )
        if not hit:
            lost = done._replace(pc=lost_point(c))
            yield Step(f"{name(c)}: commit changes 0 rows", True, file, lost)

    def commit(
        self, file: File, c: Claim, done: Claim, who: str, *, content: int
    ) -> Iterator[FileStep]:
        """Yield the step of a commit statement that is executed now.

        Yield nothing if it updates no row.
        """
        if not self.guarded(file, c) or (
            not (c.row and not c.doom) and self.on("commit-undoomed") and self.on("row-first")
        ):
            return
        declared = c.verdict - 1 if c.verdict else file.declared
        others = "unlease" if c.inline else "" if c.token else "steal"
        if c.inline and declared not in (0, content):  # the statement requires that they agree
            return
        if declared in (0, content):
            named = done._replace(token=0, row=0, named=1)
            yield Step(
                f"{who}: ready, reservation gone",
                True,
                file._replace(state="ready", hash=content),
                named,
                others,
            )
            return
        doomed = done._replace(token=0, doom=1, row=c.row if self.on("reject-keeps-row") else 0)
        if self.on("blame-twice") and file.mismatched != content:
            yield Step(
                f"{who}: a mismatch, copy doomed, due again at once",
                True,
                file._replace(mismatched=content),
                doomed,
                others,
            )
        else:
            bad = (
                "I9 rejected, although the declared digest matches"
                if file.declared in (content, c.obj)
                else ""
            )
            yield Step(
                f"{who}: rejected, copy doomed",
                True,
                file._replace(state="rejected"),
                doomed,
                others,
                bad,
            )

    def from_doubting(self, file: File, c: Claim) -> Iterator[FileStep]:
        """Yield the steps that find out whether the source is unreadable.

        They follow a failure other than a missing or a changed object.
        """
        if file.spoilt == SPOILT or file.store == AWAY or not self.on("counts-source"):
            yield Step("worker: the source cannot be read", True, file, c._replace(pc="blaming"))
        if file.spoilt != SPOILT and file.store != AWAY:
            yield Step(
                "worker: the source can be read",
                True,
                file,
                c._replace(pc="lost" if c.row else "ending"),
            )

    def from_blaming(self, file: File, c: Claim) -> Iterator[FileStep]:
        """Yield the steps that doom the reservation and then probe the store.

        If nothing was sent, the reservation has been deleted before.
        """
        if c.row and not c.doom:
            yield Step("worker dooms its copy", True, file, c._replace(doom=1))
        elif file.store == AWAY and self.on("counts-probed"):
            yield Step("worker: the probe fails", True, file, c._replace(pc="ending"))
        else:
            yield Step("worker: the probe succeeds", True, file, c._replace(pc="counting"))

    def from_counting(self, file: File, c: Claim) -> Iterator[FileStep]:
        """Yield the statement that counts the failed read and releases the lease.

        If there were too many failed reads, it rejects the file instead.
        """
        if file.fails + 1 < FAILED_READS:
            counted = file._replace(fails=file.fails + 1) if self.guarded(file, c) else file
            yield self.release(counted, c, "worker: a failed read counts, the lease is released")
            return
        rejected = self.release(
            file, c, "worker: too many failed reads -> rejected (unverifiable)", state="rejected"
        )
        wrong = file.spoilt == UNSPOILT and rejected.file.state == "rejected" and file.state in OPEN
        yield rejected._replace(
            bad="I2 a readable upload is rejected as unverifiable" if wrong else ""
        )

    def from_lost(self, file: File, c: Claim) -> Iterator[FileStep]:
        """Yield the steps after a statement that updated no row, an error or a lost response.

        None of these shows that no commit has succeeded.
        """
        if not self.on("worker-dooms"):
            yield Step("worker deletes its object", True, file, c._replace(pc="ending", obj=0))
        if not self.on("sent-keeps-row"):
            yield Step("worker: reservation deleted", True, file, self.forget(c))
        if c.row:
            yield Step("worker dooms its copy", True, file, c._replace(pc="ending", doom=1))
        else:
            yield Step(
                "worker: nothing to doom, nothing to delete", True, file, c._replace(pc="ending")
            )

    def from_ending(self, file: File, c: Claim) -> Iterator[FileStep]:
        """Yield the steps that release the lease.

        Deleting the object of a doomed copy is a step that worker and sweeper share.
        """
        yield self.release(file, c, "worker: releases the lease")
        if c.row and c.doom:
            yield self.release(
                file, c, "worker: gives up -> rejected (unverifiable)", state="rejected", good=False
            )
