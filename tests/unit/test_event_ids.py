"""Event ids: encrypted positions, each bound to an owner."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.events.event_ids import EventIds
from service.queries.history import Position

IDS = EventIds(bytes(range(64)))
POSITIONS = st.builds(
    Position, st.integers(min_value=0, max_value=2**64 - 1), st.integers(0, 2**63 - 1)
)
FIRST = Position(1412, 86)


@given(position=POSITIONS, owner=st.text(min_size=1, max_size=20))
def test_an_id_names_its_position_for_its_owner_alone(position: Position, owner: str) -> None:
    for text in (
        IDS.name_event(position, owner=owner),
        IDS.name_position(position, owner=owner),
    ):
        assert IDS.find_position(text, owner=owner) == position
        assert IDS.find_position(text, owner=owner + "x") is None


@given(text=st.text())
def test_any_other_text_is_not_an_id(text: str) -> None:
    assert IDS.find_position(text, owner="ann") is None


def test_an_event_has_one_id_and_a_position_many() -> None:
    assert len({IDS.name_event(FIRST, owner="ann") for _ in range(9)}) == 1
    assert len({IDS.name_position(FIRST, owner="ann") for _ in range(9)}) == 9


@pytest.mark.parametrize(
    "other",
    [
        EventIds(bytes(range(64))[::-1]).name_event(FIRST, owner="ann"),
        IDS.name_event(FIRST._replace(sequence=87), owner="ann"),
        IDS.name_event(FIRST, owner="bob"),
    ],
    ids=["of another database", "of the next event", "of another owner"],
)
def test_ids_of_other_events_have_nothing_in_common(other: str) -> None:
    one = IDS.name_event(FIRST, owner="ann")
    same = sum(left == right for left, right in zip(one, other, strict=True))
    assert same < 12  # of 75 characters, about one is equal by chance


def test_an_id_under_another_key_is_unknown() -> None:
    text = EventIds(bytes(range(1, 65))).name_event(FIRST, owner="ann")
    assert IDS.find_position(text, owner="ann") is None
