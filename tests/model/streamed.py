"""`POST /files/upload` as a transition system.

The API writes to the vault itself, and no row in `files` exists before the commit.

The model has one upload, because two uploads never share a reservation or a vault key. They may
share an Idempotency-Key. The other upload is one atomic step, its commit, because nothing else of
it concerns this one. RULES can be removed one by one, as in `rules.py`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.transitions import Step, WithoutClaims

RULES = {
    "row-first": "the reservation is inserted before anything is sent to the vault",
    "id-first": "the id of the multipart upload is recorded in the reservation before the first"
    " part is sent",
    "record-undoomed": "the id is recorded only in a reservation that is not doomed; otherwise the"
    " API stops",
    "put-deadline": "a body that fits one PUT is sent only while the lease is live by the API's"
    " own clock, because nothing else fences a PUT",
    "one-request": "a PUT or CompleteMultipartUpload is sent once (no retry on the same key)",
    "answered": "the commit is sent only after the store's response",
    "commit-undoomed": "the commit INSERTs the files row from a reservation that is not doomed",
    "key-in-commit": "the commit INSERTs the Idempotency-Key with the files row, and neither if the"
    " key exists, because another request may commit after a look for the key",
    "worker-dooms": "an API process whose commit failed, or got no response, deletes the object"
    " if its doom updated a row",
    "sent-keeps-row": "giving up (client disconnected, wrong digest, store error) dooms the"
    " reservation and does not delete it",
    "doom-first": "no process deletes an object before the doom of its reservation is committed",
    "doom-ended": "the sweeper dooms a copy only when its lease has expired",
    "recheck": "the statement that dooms checks the lease itself, because an extension may have"
    " come since the sweeper chose the row",
    "grace-from-deletion": "COPY_GRACE counts from the first deletion, not from the doom, because"
    " only the abort fences parts",
    "twice": "the object is deleted and the multipart upload aborted once more, and then the"
    " reservation is deleted, only when no request can still take effect",
}
SENDING = ("creating", "parting", "completing", "putting")


class Config(NamedTuple):
    rules: frozenset[str] = frozenset(RULES)


class Upload(NamedTuple):
    """The reservation, the files row, the objects in the store, and the API process."""

    pc: str = "begun"  # the point at which the API process is; "" if it is done or crashed
    row: int = 0  # the reservation exists
    live: int = 0  # its lease_until has not passed
    id: int = 0  # it names the multipart upload
    doom: int = 0  # doomed_at is set
    cut: int = 0  # object deleted and multipart upload aborted for the first time
    grace: int = 0  # COPY_GRACE has passed since then
    sweep: int = 0  # deleted and aborted once more
    chosen: int = 0  # without recheck: a sweeper saw that the lease had expired
    parts: int = 0  # multipart upload at the store: 1 empty, 2 with parts
    obj: int = 0  # the object exists
    late: str = ""  # a request that no process waits for, but the store may still execute
    after: int = 0  # it (or the current one) was sent after 1 the doom, 2 the first deletion
    flight: int = 0  # a commit that no process waits for, but the database may still execute
    file: str = ""  # the files row: none, ready, deleted
    purged: int = 0  # a mark: the vault object of the deleted file was deleted
    rival: int = 0  # another request has committed a file with the same Idempotency-Key


UploadStep = Step[Upload, str]


class StreamedUpload(WithoutClaims[Upload]):
    """The steps and the invariants of one streamed upload. It has no claims."""

    claims = 1

    def __init__(self, config: Config) -> None:
        self.on = config.rules.__contains__
        self.points = {
            "begun": self.from_begun,
            "reading": self.from_reading,
            "creating": self.from_creating,
            "created": self.from_created,
            "sending": self.from_sending,
            "parting": self.from_parting,
            "completing": self.from_completing,
            "putting": self.from_putting,
            "stored": self.from_stored,
            "looked": self.from_looked,
            "lost": self.from_lost,
        }

    def start(self) -> Upload:
        return Upload()

    def file_steps(self, file: Upload, claimable: bool) -> Iterator[UploadStep]:
        del claimable
        yield from self.time_steps(file)
        yield from self.late_steps(file)
        yield from self.sweep_steps(file)
        if file.pc:
            late = {
                "creating": "create",
                "parting": "part",
                "completing": "complete",
                "putting": "put",
            }.get(file.pc, file.late)
            yield self.step("API process crashes", file._replace(pc="", late=late), good=False)
            yield from self.points[file.pc](file)

    def step(self, what: str, file: Upload, *, good: bool = True, bad: str = "") -> UploadStep:
        return Step(what, good, file, None, "", bad)

    # --- time, the owner, late requests, the sweeper

    def time_steps(self, u: Upload) -> Iterator[UploadStep]:
        if u.row and u.live:
            yield self.step("the lease expires", u._replace(live=0))
        if u.row and u.pc and not u.live and not u.doom:
            yield self.step("API extends its lease", u._replace(live=1))
        since = u.cut if self.on("grace-from-deletion") else u.doom
        # the one assumption about time: see README.md
        bounded = u.after < (2 if self.on("grace-from-deletion") else 1)
        under_way = (u.late or u.pc in SENDING) and bounded
        if u.row and since and not u.grace and not under_way:
            yield self.step("COPY_GRACE passes", u._replace(grace=1))
        if not u.file and not u.rival:
            yield self.step(
                "another request with the same key commits", u._replace(rival=1), good=False
            )
        if u.file == "ready":
            yield self.step("owner deletes the file", u._replace(file="deleted"), good=False)
        if u.file == "deleted" and not u.purged:
            yield self.step(
                "sweeper: deletes the vault object of the deleted file, marks it",
                u._replace(obj=0, purged=1),
            )

    def late_steps(self, u: Upload) -> Iterator[UploadStep]:
        if u.late:
            yield self.step(f"delayed {u.late} has no effect", u._replace(late="", after=0))
            took = self.taken(u, u.late)
            if took is not None:
                bad = (
                    "I5 the object of a ready file is written again"
                    if u.file == "ready" and u.late in ("put", "complete")
                    else ""
                )
                yield self.step(
                    f"delayed {u.late} takes effect", took._replace(late="", after=0), bad=bad
                )
        if u.flight:
            yield self.step("delayed commit has no effect", u._replace(flight=0))
            if self.commits(u):
                yield self.step(
                    "delayed commit: ready, reservation gone",
                    u._replace(flight=0, row=0, file="ready"),
                )

    def taken(self, u: Upload, request: str) -> Upload | None:
        """Return the upload after the store has executed a request.

        Return None if the store refuses the request (NoSuchUpload).

        A request that was already being executed when the upload was aborted may survive the abort
        (S3 documents this for parts).
        """
        if request == "create":
            return u._replace(parts=max(u.parts, 1))
        if request == "put":
            return u._replace(obj=1)
        if not u.parts and not (u.cut and u.after < 2):
            return None
        return u._replace(parts=2) if request == "part" else u._replace(parts=0, obj=1)

    def sweep_steps(self, u: Upload) -> Iterator[UploadStep]:
        if not self.on("recheck") and u.row and not u.doom and not u.live and not u.chosen:
            yield self.step(
                "sweeper: chooses the copy, its lease has expired", u._replace(chosen=1)
            )
        if u.row and not u.doom and (not u.live or u.chosen or not self.on("doom-ended")):
            bad = "L  a copy is doomed under its live lease" if u.live and u.pc else ""
            yield self.step("sweeper: dooms the copy", u._replace(doom=1, chosen=0), bad=bad)
        swept = u._replace(obj=0, parts=0 if u.id else u.parts)
        if u.row and not u.cut and (u.doom or (not self.on("doom-first") and not u.live)):
            yield self.step("object deleted, multipart upload aborted", swept._replace(cut=u.doom))
        if u.row and u.doom and u.cut and not u.sweep and (u.grace or not self.on("twice")):
            yield self.step("sweeper: deletes and aborts once more", swept._replace(sweep=1))
        if u.sweep:
            yield self.step("sweeper: deletes the reservation", u._replace(row=0, sweep=0))

    def commits(self, u: Upload) -> bool:
        if u.rival and self.on("key-in-commit"):
            return False
        return not self.on("commit-undoomed") or bool(u.row and not u.doom)

    # --- the API process

    def from_begun(self, u: Upload) -> Iterator[UploadStep]:
        yield self.step("API inserts the reservation", u._replace(pc="reading", row=1, live=1))
        if not self.on("row-first"):
            yield self.step("API begins without a reservation", u._replace(pc="reading"))

    def from_reading(self, u: Upload) -> Iterator[UploadStep]:
        yield self.step(
            "client disconnects, or the form is malformed", u._replace(pc="lost"), good=False
        )
        after = u.doom + u.cut
        if u.live or not self.on("put-deadline") or not self.on("row-first"):
            yield self.step(
                "API sends a PUT of the whole body", u._replace(pc="putting", after=after)
            )
        else:
            yield self.step("too late for a PUT", u._replace(pc="lost"))
        yield self.step("API asks for a multipart upload", u._replace(pc="creating", after=after))

    def from_creating(self, u: Upload) -> Iterator[UploadStep]:
        yield self.step(
            "store begins a multipart upload, API gets its id",
            u._replace(pc="created", parts=1, after=0),
        )
        yield self.step("no response in time", u._replace(pc="lost", late="create"), good=False)

    def from_created(self, u: Upload) -> Iterator[UploadStep]:
        if not self.on("id-first"):
            yield self.step("API continues without recording the id", u._replace(pc="sending"))
        if u.row and not (u.doom and self.on("record-undoomed")):
            yield self.step(
                "API records the multipart upload's id in the reservation",
                u._replace(pc="sending", id=1),
            )
        else:
            yield self.step(
                "API records the id: 0 rows, aborts the empty upload",
                u._replace(pc="lost", parts=0),
            )

    def from_sending(self, u: Upload) -> Iterator[UploadStep]:
        yield self.step(
            "client disconnects or is too slow, or the body is too large",
            u._replace(pc="lost"),
            good=False,
        )
        after = u.doom + u.cut
        yield self.step("API sends a part", u._replace(pc="parting", after=after))
        if u.parts == 2:
            yield self.step("API asks to complete", u._replace(pc="completing", after=after))

    def from_parting(self, u: Upload) -> Iterator[UploadStep]:
        yield from self.answered(u, "part", "sending")

    def from_completing(self, u: Upload) -> Iterator[UploadStep]:
        yield from self.answered(u, "complete", "stored")

    def from_putting(self, u: Upload) -> Iterator[UploadStep]:
        yield from self.answered(u, "put", "stored")
        # The second request is answered, while the first is still in progress.
        if not self.on("one-request"):
            again = u._replace(pc="stored", obj=1, late="put")
            yield self.step("no response to the PUT, sent again; answered", again, good=False)

    def answered(self, u: Upload, request: str, then: str) -> Iterator[UploadStep]:
        took = self.taken(u, request)
        if took is None:
            yield self.step(
                f"store refuses the {request} (NoSuchUpload)", u._replace(pc="lost", after=0)
            )
        else:
            yield self.step(
                f"store executes the {request}, API gets the response",
                took._replace(pc=then, after=0),
            )
        yield self.step(
            f"no response to the {request} in time", u._replace(pc="lost", late=request), good=False
        )
        if not self.on("answered") and then == "stored":
            yield self.step(
                f"no response to the {request}, API continues",
                u._replace(pc=then, late=request),
                good=False,
            )

    def from_stored(self, u: Upload) -> Iterator[UploadStep]:
        yield self.step(
            "the digest or the length differs from the declared one: 422 or 400",
            u._replace(pc="lost"),
            good=False,
        )
        if self.on("key-in-commit"):
            yield from self.from_looked(u)
        elif not u.rival:
            yield self.step("API looks for the key: none", u._replace(pc="looked"))
        else:
            yield self.step("API looks for the key: it exists", u._replace(pc="lost"))

    def from_looked(self, u: Upload) -> Iterator[UploadStep]:
        if self.commits(u):
            yield self.step(
                "API commits: files row ready, reservation gone",
                u._replace(pc="", row=0, file="ready"),
            )
            yield self.step(
                "API commits, no response: the commit may be in progress",
                u._replace(pc="lost", flight=1),
                good=False,
            )
        else:
            yield self.step("API's commit changes 0 rows", u._replace(pc="lost"))

    def from_lost(self, u: Upload) -> Iterator[UploadStep]:
        """Yield the steps after a statement that updated no row, an error or a lost response.

        None of these shows that no commit has succeeded.
        """
        if not self.on("worker-dooms"):
            yield self.step("API deletes its object", u._replace(pc="", obj=0))
        if not self.on("sent-keeps-row"):
            yield self.step(
                "API deletes its object and its reservation",
                u._replace(pc="", obj=0 if u.row else u.obj, row=0),
            )
        if u.row:
            yield self.step("API dooms its copy", u._replace(pc="", doom=1))
        else:
            yield self.step("API: nothing to doom, nothing to delete", u._replace(pc=""))

    # --- invariants

    def file_breaks(self, before: Upload, after: Upload) -> str:
        if after.file == "ready" and not after.obj:
            return "I5 the object of a ready file is gone"
        if (
            after.obj
            and not after.row
            and not (after.file == "ready" or (after.file == "deleted" and not after.purged))
        ):
            return "I4 an object in the vault is named by no row"
        if after.parts == 2 and not (after.row and after.id):
            return "I4 parts in the vault are named by no row"
        if after.file and after.rival:
            return "K  two files were committed with one Idempotency-Key"
        if before.file == "deleted" and after.file != "deleted":
            return "I3 a final state changed"
        return ""

    def settled(self, file: Upload, claims: tuple[str, ...]) -> bool:
        """Return whether the upload has ended and nothing is left over.

        An empty multipart upload whose id was in no received response does not count: the store
        drops stale ones.
        """
        over = not (claims or file.pc or file.row or file.late or file.flight) and file.parts < 2
        return over and (
            not file.obj if file.file == "" else file.file == "ready" or file.purged == 1
        )

    def forget_file(self, file: Upload) -> Upload:
        u = file
        if not u.row:
            u = u._replace(live=0, id=0, doom=0, cut=0, grace=0, sweep=0, chosen=0)
            if self.on("commit-undoomed"):
                u = u._replace(flight=0)
        return u
