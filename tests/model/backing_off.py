"""A worker that backs off, as a transition system: one poisoned file, one healthy file, one store.

`protocol.py` has the life of each file. Here a claim is one step: a claim of the healthy file makes
it `ready` while the store is available, and a claim of the poisoned file always fails. The question
is when a worker stops claiming altogether. RULES can be removed one by one, as in `rules.py`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.model.transitions import Step, WithoutClaims

RULES = {
    "probe-decides": "consecutive failures cause a probe, and only a failed probe stops the claims",
    "probe-again": "a worker that has stopped claiming probes the store again by itself",
}
PROBE_AFTER = 2  # consecutive failures


class Config(NamedTuple):
    rules: frozenset[str] = frozenset(RULES)


class Worker(NamedTuple):
    """The worker's memory, the healthy file and the store."""

    away: int = 0  # the store is unavailable
    # the store was unavailable at some moment since the worker's last success or probe
    outage: int = 0
    ready: int = 0  # the healthy file is proved
    failures: int = 0  # consecutive failures
    doing: str = "claims"  # or "probes", or "waits"


WorkerStep = Step[Worker, str]


class BackingOff(WithoutClaims[Worker]):
    """Steps and invariants of one worker beside a poisoned file."""

    claims = 1

    def __init__(self, config: Config) -> None:
        self.on = config.rules.__contains__

    def start(self) -> Worker:
        return Worker()

    def file_steps(self, file: Worker, claimable: bool) -> Iterator[WorkerStep]:
        del claimable
        if not file.away:
            yield self.step(
                "the store becomes unavailable", file._replace(away=1, outage=1), good=False
            )
        else:
            yield self.step("the store recovers", file._replace(away=0))
        yield from getattr(self, f"from_{file.doing}")(file)

    def step(self, what: str, after: Worker, *, good: bool = True, bad: str = "") -> WorkerStep:
        return Step(what, good, after, None, "", bad)

    def from_claims(self, w: Worker) -> Iterator[WorkerStep]:
        yield self.fail(w, "worker claims the poisoned file: a failure")
        if not w.ready and w.away:
            yield self.fail(w, "worker claims the healthy file: a failure")
        if not w.ready and not w.away:
            proved = w._replace(ready=1, failures=0, outage=0)
            yield self.step("worker claims the healthy file: ready", proved)

    def fail(self, w: Worker, what: str) -> WorkerStep:
        failures = min(w.failures + 1, PROBE_AFTER)
        failed = w._replace(failures=failures)
        if failures < PROBE_AFTER:
            return self.step(what, failed)
        if self.on("probe-decides"):
            return self.step(f"{what}, a probe is due", failed._replace(doing="probes"))
        bad = "" if w.outage else "W  a worker stops claiming although the store was available"
        return self.step(
            f"{what}, the worker stops claiming", failed._replace(doing="waits"), bad=bad
        )

    def from_probes(self, w: Worker) -> Iterator[WorkerStep]:
        if w.away:
            yield self.step("the probe fails: the worker stops claiming", w._replace(doing="waits"))
        else:
            well = w._replace(doing="claims", failures=0, outage=0)
            yield self.step("the probe succeeds: the worker continues claiming", well)

    def from_waits(self, w: Worker) -> Iterator[WorkerStep]:
        if self.on("probe-again"):
            yield self.step("the wait is over: a probe is due", w._replace(doing="probes"))

    # --- the methods that explore.py calls

    def forget_file(self, file: Worker) -> Worker:
        return file

    def file_breaks(self, before: Worker, after: Worker) -> str:
        del before, after
        return ""

    def claim_breaks(self, file: Worker, claim: str) -> str:
        del file, claim
        return ""

    def settled(self, file: Worker, claims: tuple[str, ...]) -> bool:
        """Return whether the healthy file is proved and the worker claims."""
        del claims
        return bool(file.ready) and file.doing == "claims" and not file.away
