"""The search of the models.

With all rules, no invariant breaks and no file gets stuck. Without any one of the rules, an
invariant breaks or a file gets stuck.
"""

import pytest

from tests.model import backing_off, damaged, multipart, reserved, restored, rules, streamed
from tests.model.backing_off import BackingOff
from tests.model.damaged import DamagedFile
from tests.model.explore import Found, search
from tests.model.multipart import MultipartUpload
from tests.model.protocol import WayOfAFile
from tests.model.reserved import ReservedKey
from tests.model.restored import Restored
from tests.model.streamed import StreamedUpload

# Without one of these no invariant breaks, but a file may never become final.
HARMLESS = frozenset({"due-by-itself", "pending-too"})


BOUNDS = [
    rules.Config(puts=2),
    rules.Config(puts=2, digests=0, collide=1),
    rules.Config(puts=1, vanish=1),
    rules.Config(claims=1, puts=1),
    rules.Config(claims=1, misreads=1),
    rules.Config(claims=1, faults=1),
    rules.Config(puts=1, small=1),
    rules.Config(claims=1, small=1),
    rules.Config(claims=1, puts=1, misreads=1, small=1),
    rules.Config(claims=1, puts=1, faults=1, small=1),
]
FAULTS = {
    "blame-twice": {"misreads": 1},
    "counts-source": {"faults": 1},
    "counts-probed": {"faults": 1},
}
"""The bounds under which a rule about failures of the store is needed."""
OF_SMALL_FILES: dict[str, dict[str, int]] = {
    "blame-twice": {"misreads": 1},
    "commit-undoomed": {},
    "digest-in-commit": {},
    "doom-first": {},
    "guards": {},
    "one-request": {},
    "row-first": {},
    "send-deadline": {},
    "sent-keeps-row": {},
    "twice": {},
    "worker-dooms": {},
}
"""The rules that also the proof of a small file needs, if it is never copied, and their bounds."""


def name(config: rules.Config) -> str:
    return ",".join(f"{key}={value}" for key, value in config._asdict().items() if key != "rules")


def describe(found: Found) -> str:
    stories = [
        f"{bad}\n" + "\n".join(f"  {number}. {what}" for number, what in enumerate(path, 1))
        for bad, path in found.broken.items()
    ]
    return "\n".join(
        [f"{found.states:,} states, {found.edges:,} transitions, {found.stuck:,} stuck", *stories]
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("config", BOUNDS, ids=name)
def test_no_invariant_breaks_and_every_file_becomes_final(config: rules.Config) -> None:
    found = search(WayOfAFile(config))
    print(f"model of a file, {name(config)}: {describe(found)}")  # noqa: T201  # shown by -s
    assert found.complete
    assert not found.broken, describe(found)


@pytest.mark.parametrize("rule", sorted(rules.RULES.keys() - HARMLESS))
def test_a_file_needs_the_rule(rule: str) -> None:
    bounds = {"claims": 1, "puts": 1, **FAULTS[rule]} if rule in FAULTS else {}
    found = search(WayOfAFile(rules.Config(rules=frozenset(rules.RULES) - {rule}, **bounds)))
    assert found.broken, f"nothing breaks without {rule}: {describe(found)}"


@pytest.mark.parametrize("rule", OF_SMALL_FILES)
def test_a_small_file_needs_the_rule(rule: str) -> None:
    bounds = {"claims": 1, "puts": 1, "small": 2, **OF_SMALL_FILES[rule]}
    found = search(WayOfAFile(rules.Config(rules=frozenset(rules.RULES) - {rule}, **bounds)))
    assert found.broken, f"nothing breaks without {rule}: {describe(found)}"
    assert not found.stuck, describe(found)


@pytest.mark.parametrize("rule", sorted(HARMLESS))
def test_a_file_without_arrivals_gets_stuck_without_the_rule(rule: str) -> None:
    found = search(
        WayOfAFile(rules.Config(rules=frozenset(rules.RULES) - {rule}, claims=1, puts=1))
    )
    assert found.stuck, f"nothing gets stuck without {rule}: {describe(found)}"


def test_no_invariant_breaks_and_every_streamed_upload_ends() -> None:
    found = search(StreamedUpload(streamed.Config()))
    print(f"model of a streamed upload: {describe(found)}")  # noqa: T201  # shown by -s
    assert found.complete
    assert not found.broken, describe(found)


@pytest.mark.parametrize("rule", streamed.RULES)
def test_a_streamed_upload_needs_the_rule(rule: str) -> None:
    found = search(StreamedUpload(streamed.Config(frozenset(streamed.RULES) - {rule})))
    assert found.broken, f"nothing breaks without {rule}: {describe(found)}"


def test_no_invariant_breaks_and_every_multipart_upload_ends() -> None:
    found = search(MultipartUpload(multipart.Config()))
    print(f"model of a multipart upload: {describe(found)}")  # noqa: T201  # shown by -s
    assert found.complete
    assert not found.broken, describe(found)


@pytest.mark.parametrize("rule", multipart.RULES)
def test_a_multipart_upload_needs_the_rule(rule: str) -> None:
    found = search(MultipartUpload(multipart.Config(frozenset(multipart.RULES) - {rule})))
    assert found.broken, f"nothing breaks without {rule}: {describe(found)}"


def test_a_poisoned_file_does_not_keep_a_worker_from_a_healthy_one() -> None:
    found = search(BackingOff(backing_off.Config()))
    print(f"model of a worker that backs off: {describe(found)}")  # noqa: T201  # shown by -s
    assert found.complete
    assert not found.broken, describe(found)


@pytest.mark.parametrize("rule", backing_off.RULES)
def test_a_worker_that_backs_off_needs_the_rule(rule: str) -> None:
    found = search(BackingOff(backing_off.Config(frozenset(backing_off.RULES) - {rule})))
    assert found.broken, f"nothing breaks without {rule}: {describe(found)}"


def test_no_invariant_breaks_and_every_reserved_key_ends() -> None:
    found = search(ReservedKey(reserved.Config()))
    print(f"model of a reserved key: {describe(found)}")  # noqa: T201  # shown by -s
    assert found.complete
    assert not found.broken, describe(found)


@pytest.mark.parametrize("rule", reserved.RULES)
def test_a_reserved_key_needs_the_rule(rule: str) -> None:
    found = search(ReservedKey(reserved.Config(frozenset(reserved.RULES) - {rule})))
    assert found.broken, f"nothing breaks without {rule}: {describe(found)}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_invariant_breaks_after_a_database_is_restored() -> None:
    found = search(Restored(restored.Config()))
    print(f"model of a restored database: {describe(found)}")  # noqa: T201  # shown by -s
    assert found.complete
    assert not found.broken, describe(found)


@pytest.mark.parametrize("rule", restored.RULES)
def test_a_restored_database_needs_the_rule(rule: str) -> None:
    raises = 2 if rule in ("one-raiser", "stop-if-ahead") else 1
    found = search(Restored(restored.Config(frozenset(restored.RULES) - {rule}, raises=raises)))
    assert found.broken, f"nothing breaks without {rule}: {describe(found)}"


def test_no_invariant_breaks_when_a_damaged_file_is_sent_again() -> None:
    found = search(DamagedFile(damaged.Config()))
    print(f"model of a damaged file: {describe(found)}")  # noqa: T201  # shown by -s
    assert found.complete
    assert not found.broken, describe(found)


@pytest.mark.parametrize("rule", damaged.RULES)
def test_a_damaged_file_needs_the_rule(rule: str) -> None:
    found = search(DamagedFile(damaged.Config(frozenset(damaged.RULES) - {rule})))
    assert found.broken, f"nothing breaks without {rule}: {describe(found)}"
