"""Random sequences of steps break no invariant, but do so if a guard of a statement is missing."""

import contextlib
import dataclasses
from types import ModuleType

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from service.queries import claims, completing, files, sweeping, verdicts
from service.settings import Settings
from tests.stateful.machine import WayOfAFile
from tests.support.methods import ONLY_COPIED

STEPS = settings(
    stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


def make_machine(settings_of_the_service: Settings) -> type[WayOfAFile]:
    members = {"settings": settings_of_the_service, "failures": []}
    return type("WayOfAFileHere", (WayOfAFile,), members)


@pytest.mark.slow
@pytest.mark.timeout(600)  # it takes minutes to shrink a failure to its shortest sequence
@pytest.mark.usefixtures("method")
def test_the_invariants_hold_after_every_step(settings_of_the_service: Settings) -> None:
    run_state_machine_as_test(
        make_machine(settings_of_the_service), settings=settings(STEPS, max_examples=25)
    )


@dataclasses.dataclass(frozen=True)
class Guard:
    """A condition in a statement, the text that replaces it, and the failure that then occurs.

    `seed` is that of a sequence that soon finds the failure.
    """

    module: ModuleType
    statement: str
    text: str
    without: str
    story: str
    seed: int = 0


LEASED = (
    "WHERE id = $3 AND lease = $2 AND state IN ('pending', 'verifying')\n"
    "        FOR UPDATE OF files"
)
SWEPT_BEFORE = "coalesce(swept_at + $2::interval <= now(), false)"
UNPROVED_ALONE = "WHERE incoming_key = $1 AND state IN ('pending', 'verifying')"
REJECTED_TOO = """, final_at = NULL, rejection_reason = NULL, rejection_detail = NULL
        WHERE incoming_key = $1 AND state IN ('pending', 'verifying', 'rejected')"""
GUARDS = {
    "a commit requires a reservation that is not doomed": Guard(
        verdicts, "COMMIT", " AND doomed_at IS NULL", "", "NoSuchKey"
    ),
    "a commit requires its lease": Guard(
        verdicts,
        "COMMIT",
        LEASED,
        "WHERE id = $3\n        FOR UPDATE OF files",
        "no row names",
        seed=1,
    ),
    "only reservations with an expired lease are doomed": Guard(
        sweeping, "DOOM_ENDED", " AND lease_until < now()", "", "under a live lease", seed=5
    ),
    "an arrival prevents the return to pending": Guard(
        claims, "RETURN", "arrivals = $4", "$4::integer IS NOT NULL", "was missed", seed=4
    ),
    "an arrival does not change a final file": Guard(
        files, "RECORD_EVENT", UNPROVED_ALONE, REJECTED_TOO, "became", seed=6
    ),
    "the object of a doomed reservation is deleted twice": Guard(
        sweeping, "CLAIM_DOOMED", SWEPT_BEFORE, "$2::interval IS NOT NULL", "no row names", seed=6
    ),
}

INLINE_GUARDS = {
    "an inline commit requires a reservation that is not doomed": Guard(
        completing, "COMMIT", " AND doomed_at IS NULL", "", "NoSuchKey"
    ),
    "an inline commit requires an unproved file": Guard(
        completing, "COMMIT", " AND state IN ('pending', 'verifying')", "", "became", seed=2
    ),
}


@ONLY_COPIED
@pytest.mark.usefixtures("method")
@pytest.mark.one_store
@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
def test_a_missing_guard_is_found(
    guard: Guard, settings_of_the_service: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_found(guard, settings_of_the_service, monkeypatch)


@pytest.mark.one_store
@pytest.mark.parametrize("guard", INLINE_GUARDS.values(), ids=INLINE_GUARDS)
def test_a_missing_guard_of_an_inline_proof_is_found(
    guard: Guard, settings_of_the_service: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_found(guard, settings_of_the_service, monkeypatch)


def check_found(
    guard: Guard, settings_of_the_service: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that random sequences fail as expected if the statement lacks the condition."""
    whole: str = getattr(guard.module, guard.statement)
    crippled = whole.replace(guard.text, guard.without)
    assert crippled != whole
    monkeypatch.setattr(guard.module, guard.statement, crippled)
    found = settings(
        STEPS,
        max_examples=150,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    machine = seed(guard.seed)(make_machine(settings_of_the_service))
    # Hypothesis repeats a failure. On a busy machine the repetition may differ, and Hypothesis then
    # reports that instead of the failure.
    with contextlib.suppress(Exception):
        run_state_machine_as_test(machine, settings=found)
    assert any(guard.story in failure for failure in machine.failures)
