"""A client's multipart upload as a transition system.

An API process begins it, the client sends its parts, an API process assembles it, and a worker
checks the key.

The life of a file (`protocol.py`) covers the object once it is under the incoming key. Here, a
check that finds it is the end. Two API processes may serve requests for the same file at once.
RULES can be removed one by one, as in `rules.py`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.transitions import Step, WithoutClaims

RULES = {
    "id-first": "the URL of a part is signed only for the upload that the row names",
    "id-once": "the id of an upload is recorded in the row only while it has none; the second"
    " process aborts its own upload",
    "lease": "a process that asks the store to assemble has claimed the row, as a worker does, and"
    " a claim respects a live lease",
    "send-deadline": "a process asks the store to assemble only within the first lease period by"
    " its own clock",
    "key-before-lost": "if the store answers that it has no such upload, the process checks the"
    " key before it reports that the upload is lost",
    "lost-under-lease": "the process reports a lost upload only if it still holds its lease,"
    " because another may have assembled, proved and cleaned up",
    "expiry-skips": "a worker claims no row that has a live lease, including the lease of an"
    " assembly",
    "delete-waits": "after DELETE, the abort waits until the lease of a running assembly has ended",
    "abort-final": "the sweeper aborts the upload of a final file when it deletes its incoming key",
    "abort-late": "the sweeper aborts the upload of a final file for the last time only when no"
    " request can still take effect",
}
OPEN = ("pending", "verifying")


class Config(NamedTuple):
    rules: frozenset[str] = frozenset(RULES)


class Api(NamedTuple):
    """An API process that serves `parts` or `complete`, or a worker that checks the key."""

    pc: str = ""  # "" if it serves nothing
    # the upload of its request; for a worker, whether the grace period was over at its claim
    val: int = 0


class Upload(NamedTuple):
    """The files row, the store's multipart uploads and its key, and the processes at work.

    Uploads are numbered from 1, and 0 is none.
    """

    state: str = "pending"
    # 1: the grace period is over; 2: in addition, no earlier request can still take effect
    clock: int = 0
    named: int = 0  # files.upload_id
    # uploads 1 and 2 at the store: 0 none, 1 without parts, 2 with all parts, 3 aborted
    parts: tuple[int, int] = (0, 0)
    obj: int = 0  # the object is under the incoming key
    assembled: int = 0  # it was assembled before the grace period was over
    token: int = 0  # files.lease: 1 and 2 for the API processes, 3 for the worker
    live: int = 0  # lease_until has not passed
    fresh: int = 0  # the process whose first lease period since its claim is not over
    held: int = 0  # after DELETE: the lease of an assembly may still be live
    # A request to assemble this upload that no process waits for. The store may still execute it.
    late: int = 0
    cut: int = 0  # the key was deleted and the upload aborted for the first time
    swept: int = 0  # a mark: the key was deleted and the upload aborted for the last time
    apis: tuple[Api, Api] = (Api(), Api())
    worker: Api = Api()


UploadStep = Step[Upload, str]


class MultipartUpload(WithoutClaims[Upload]):
    """The steps and the invariants of one multipart upload.

    It has no claims in the sense of `protocol.py`.
    """

    claims = 1

    def __init__(self, config: Config) -> None:
        self.on = config.rules.__contains__

    def start(self) -> Upload:
        return Upload()

    def file_steps(self, file: Upload, claimable: bool) -> Iterator[UploadStep]:
        del claimable
        yield from self.time_steps(file)
        yield from self.client_steps(file)
        yield from self.worker_steps(file)
        yield from self.sweep_steps(file)
        for number in (0, 1):
            yield from self.api_steps(file, number)

    def step(self, what: str, file: Upload, *, good: bool = True, bad: str = "") -> UploadStep:
        return Step(what, good, file, None, "", bad)

    # --- time, late requests, the client, the owner

    def time_steps(self, u: Upload) -> Iterator[UploadStep]:
        # the one assumption about time: see README.md
        under_way = any(api.pc == "assembling" for api in u.apis) or u.late
        if not u.clock:
            yield self.step("the grace period ends", u._replace(clock=1))
        if u.clock == 1 and u.cut and not under_way:
            yield self.step(
                "the days after the grace period and the first sweep pass", u._replace(clock=2)
            )
        if u.fresh:
            yield self.step("the first lease period passes", u._replace(fresh=0))
        if u.live and not u.fresh:
            yield self.step("the lease expires", u._replace(live=0))
        if u.held and not u.fresh:
            yield self.step("the lease that DELETE found expires", u._replace(held=0))
        if u.late:
            yield self.step("delayed assembly has no effect", u._replace(late=0))
            if u.parts[u.late - 1] >= 2:
                yield self.step(
                    "delayed assembly takes effect, even after an abort",
                    self.assemble(u, u.late)._replace(late=0),
                )

    def client_steps(self, u: Upload) -> Iterator[UploadStep]:
        """Yield the steps of the client and the owner.

        Parts arrive while their URL is valid, which is until the grace period is over. They belong
        to the upload that the row named when the URL was signed.
        """
        for upload in (1, 2):
            signed = upload == u.named or (not self.on("id-first") and u.parts[upload - 1])
            if signed and u.parts[upload - 1] == 1 and not u.clock:
                yield self.step(
                    f"client sends every part of upload {upload}",
                    self.put(u, upload, 2),
                    good=False,
                )
            if signed and u.parts[upload - 1] == 3 and u.clock < 2:
                yield self.step(
                    f"parts of upload {upload} that were in progress survive its abort",
                    self.put(u, upload, 2),
                    good=False,
                )
        if u.state != "deleted":
            held = int(u.live and u.token in (1, 2))
            gone = u._replace(
                state="deleted", token=0, live=0, fresh=u.fresh if held else 0, held=held
            )
            yield self.step("owner deletes the file", gone, good=False)

    def put(self, u: Upload, upload: int, what: int) -> Upload:
        parts = (what, u.parts[1]) if upload == 1 else (u.parts[0], what)
        return u._replace(parts=parts)

    def assemble(self, u: Upload, upload: int) -> Upload:
        return self.put(u, upload, 0)._replace(obj=1, assembled=int(not u.clock))

    # --- an API process

    def api_steps(self, u: Upload, number: int) -> Iterator[UploadStep]:
        api, me = u.apis[number], number + 1

        if api.pc:
            late = api.val if api.pc == "assembling" else u.late
            yield self.step(
                f"API {me} crashes", self.place(u._replace(late=late), number, Api()), good=False
            )
        points = {
            "": self.begin_serving,
            "begun": self.name,
            "claimed": self.ask_to_assemble,
            "assembling": self.hear,
            "assembled": self.announce,
            "missing": self.tell_lost,
        }
        yield from points[api.pc](u, number)

    def place(self, u: Upload, number: int, api: Api) -> Upload:
        return u._replace(apis=(api, u.apis[1]) if number == 0 else (u.apis[0], api))

    def begin_serving(self, u: Upload, number: int) -> Iterator[UploadStep]:
        me, upload = number + 1, number + 1
        if not u.clock and u.state in OPEN and not u.named and not u.parts[upload - 1]:
            begun = self.place(self.put(u, upload, 1), number, Api("begun", upload))
            yield self.step(
                f"API {me}: parts are asked for; the store begins upload {upload}", begun
            )
        free = not (u.token and u.live) or not self.on("lease")
        if u.clock < 2 and u.state in OPEN and u.named and not u.obj and free:
            claimed = u._replace(token=me, live=1, fresh=me)
            bad = "L  a live lease is ignored" if u.token and u.live and self.on("lease") else ""
            yield self.step(
                f"API {me}: complete; the key has no object; claims the row",
                self.place(claimed, number, Api("claimed")),
                bad=bad,
            )

    def name(self, u: Upload, number: int) -> Iterator[UploadStep]:
        """Yield the step that records the id of the upload.

        If no row was updated, another process was first, or the file is final. The process then
        aborts its own upload, for which no URL was signed, or the store drops it.
        """
        upload = u.apis[number].val
        free = (not u.named or not self.on("id-once")) and u.state in OPEN
        if free:
            yield self.step(
                f"the row names upload {upload}",
                self.place(u._replace(named=upload), number, Api()),
            )
        else:
            yield self.step(
                f"0 rows, API {number + 1} aborts upload {upload}",
                self.place(self.put(u, upload, 0), number, Api()),
            )

    def ask_to_assemble(self, u: Upload, number: int) -> Iterator[UploadStep]:
        me = number + 1
        if u.parts[u.named - 1] == 1:
            yield self.step(
                f"API {me}: parts are missing, releases the lease",
                self.place(self.release(u, me), number, Api()),
            )
        elif u.parts[u.named - 1] in (0, 3):
            yield self.step(
                f"API {me}: the store has no such upload",
                self.place(u, number, Api("missing", u.named)),
            )
        elif u.fresh == me or not self.on("send-deadline"):
            other = u.apis[1 - number]
            bad = "" if u.live or u.held else "M  asked to assemble under a lease that has expired"
            if other.pc == "assembling" and not self.on("lease"):
                bad = "M  asked to assemble while another does, under a live lease"
            yield self.step(
                f"API {me} asks to assemble",
                self.place(u, number, Api("assembling", u.named)),
                bad=bad,
            )
        else:
            yield self.step(
                f"API {me}: too late to ask", self.place(self.release(u, me), number, Api())
            )

    def release(self, u: Upload, me: int) -> Upload:
        return (
            u._replace(token=0, live=0, fresh=0)
            if u.token == me
            else u._replace(fresh=0 if u.fresh == me else u.fresh)
        )

    def hear(self, u: Upload, number: int) -> Iterator[UploadStep]:
        me, upload = number + 1, u.apis[number].val
        if u.parts[upload - 1] == 2:
            took = self.place(self.assemble(u, upload), number, Api("assembled", upload))
            yield self.step(f"store assembles upload {upload}, API {me} gets the response", took)
        else:
            missing = self.place(u, number, Api("missing", upload))
            yield self.step(f"store has no such upload, API {me} gets the response", missing)
        silent = self.place(u._replace(late=upload), number, Api())
        yield self.step(f"no response to API {me} in time", silent, good=False)
        if u.token == me and not u.live and u.state in OPEN:
            yield self.step(f"API {me} extends its lease", u._replace(live=1))

    def announce(self, u: Upload, number: int) -> Iterator[UploadStep]:
        me = number + 1
        if u.token == me and u.state in OPEN:
            recorded = u._replace(state="verifying", token=0, live=0, fresh=0)
            yield self.step(
                f"API {me} records an arrival, releases the lease",
                self.place(recorded, number, Api()),
            )
        else:
            yield self.step(f"API {me}: 0 rows, starts again", self.place(u, number, Api()))

    def tell_lost(self, u: Upload, number: int) -> Iterator[UploadStep]:
        me = number + 1
        if u.obj and self.on("key-before-lost"):
            yield self.step(f"API {me}: the object exists", self.place(u, number, Api("assembled")))
        elif (u.token == me and u.state in OPEN) or not self.on("lost-under-lease"):
            bad = "T  reported as lost, although it was proved" if u.state == "proved" else ""
            bad = bad or ("T  reported as lost, although it is under the key" if u.obj else "")
            yield self.step(
                f"API {me} releases the lease and reports the upload as lost",
                self.place(self.release(u, me), number, Api()),
                bad=bad,
            )
        else:
            yield self.step(f"API {me}: 0 rows, starts again", self.place(u, number, Api()))

    # --- a worker's check, the sweeper

    def worker_steps(self, u: Upload) -> Iterator[UploadStep]:
        w = u.worker
        free = not (u.token and u.live) or not self.on("expiry-skips")
        if not w.pc and u.state in OPEN and free:
            bad = "L  a live lease is ignored" if u.token in (1, 2) and u.live else ""
            yield self.step(
                "worker claims the row",
                u._replace(token=3, live=1, fresh=3, worker=Api("claimed", u.clock)),
                bad=bad,
            )
        if w.pc:
            yield self.step("worker crashes", u._replace(worker=Api()), good=False)
        mine = u.token == 3 and u.state in OPEN
        done = (
            u._replace(worker=Api(), token=0 if u.token == 3 else u.token, live=0, fresh=0)
            if mine
            else u._replace(worker=Api())
        )
        if w.pc == "claimed":
            yield self.step(
                "worker: HEAD", u._replace(worker=Api("there" if u.obj else "nothing", w.val))
            )
        elif w.pc == "there":
            yield self.step(
                "worker proves the object" if mine else "worker: 0 rows",
                done._replace(state="proved") if mine else done,
            )
        elif w.pc == "nothing":
            state = "expired" if w.val else "pending"
            yield self.step(
                f"worker: not found -> {state}" if mine else "worker: 0 rows",
                done._replace(state=state) if mine else done,
            )

    def sweep_steps(self, u: Upload) -> Iterator[UploadStep]:
        """Yield the first sweep of a final file, and the last one."""
        if u.state in OPEN or u.swept or (u.held and self.on("delete-waits")):
            return
        cleared = u._replace(obj=0)
        if u.named and self.on("abort-final"):
            cleared = self.put(cleared, u.named, 3 if u.parts[u.named - 1] else 0)
        bad = (
            "M  aborted while an assembly is in progress under its lease"
            if u.held and any(a.pc == "assembling" for a in u.apis)
            else ""
        )
        cleared = cleared._replace(cut=1)
        if cleared != u:
            yield self.step("sweeper: aborts the upload, deletes the object", cleared, bad=bad)
        if u.clock == 2 or not self.on("abort-late"):
            yield self.step(
                "sweeper: the same for the last time, marks the file",
                cleared._replace(swept=1),
                bad=bad,
            )

    # --- invariants

    def file_breaks(self, before: Upload, after: Upload) -> str:
        if after.state == "expired" and before.state != "expired" and after.obj and after.assembled:
            return "I2 an assembled upload expired"
        if before.state not in OPEN and after.state not in (before.state, "deleted"):
            return "I3 a final state changed"
        if after.swept and (after.obj or 2 in after.parts):
            return "I4 an object or parts that will never be deleted"
        if any(after.parts[n] == 2 and after.named != n + 1 for n in (0, 1)):
            return "I4 parts that no row names"
        return ""

    def settled(self, file: Upload, claims: tuple[str, ...]) -> bool:
        """Return whether the file is final and nothing is left over.

        An upload without parts whose id was in no received response does not count: the store drops
        stale ones.
        """
        busy = claims or file.worker.pc or any(api.pc for api in file.apis) or file.late
        return (
            not busy
            and file.state not in OPEN
            and file.swept == 1
            and not file.obj
            and 2 not in file.parts
        )

    def forget_file(self, file: Upload) -> Upload:
        if file.state not in OPEN:
            file = file._replace(assembled=0)
        if file.clock == 2:
            file = file._replace(cut=1)
        return file
