"""Cursors and times of the list of files."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.files import pagination
from service.model import Sha256, State, make_id
from service.problems import InvalidCursor, InvalidRequest
from service.queries.listing import Filters

ALL = Filters(states=pagination.SHOWN_STATES)


def test_a_cursor_leads_back_to_its_id() -> None:
    last = make_id()
    assert pagination.read_cursor(pagination.make_cursor(last, "ann", ALL), "ann", ALL) == last


def test_a_cursor_works_with_every_kind_of_filter() -> None:
    filters = Filters(
        states=(State.READY,),
        hash=Sha256(b"x" * 32),
        filename="a*",
        content_type="a/b",
        created_after=datetime(2026, 1, 31, tzinfo=UTC),
    )
    last = make_id()
    assert (
        pagination.read_cursor(pagination.make_cursor(last, "ann", filters), "ann", filters) == last
    )


def test_a_cursor_of_another_owner_or_of_other_filters_is_refused() -> None:
    cursor = pagination.make_cursor(make_id(), "ann", ALL)
    with pytest.raises(InvalidCursor):
        pagination.read_cursor(cursor, "bob", ALL)
    with pytest.raises(InvalidCursor):
        pagination.read_cursor(cursor, "ann", Filters(states=(State.READY,)))


@given(
    st.one_of(
        st.text(max_size=60),
        st.binary(min_size=32, max_size=32).map(lambda raw: raw.hex()),
        st.from_regex(r"[A-Za-z0-9_-]{43}\Z"),
    )
)
def test_an_invalid_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        pagination.read_cursor(cursor, "ann", ALL)


def test_deleted_and_expired_files_are_shown_on_request_only() -> None:
    assert set(State) - set(pagination.SHOWN_STATES) == {State.DELETED, State.EXPIRED}


def test_a_time_needs_an_offset_and_must_be_representable_in_utc() -> None:
    assert pagination.parse_time("2026-01-31T12:00:00+02:00", field="created_after") == datetime(
        2026, 1, 31, 10, tzinfo=UTC
    )
    assert pagination.parse_time(None, field="created_after") is None
    for bad in ("2026-01-31T00:00:00", "0001-01-01T00:00:00+05:00"):
        with pytest.raises(InvalidRequest, match=r"^created_after"):
            pagination.parse_time(bad, field="created_after")


@pytest.mark.parametrize("text", ["2026", "-1", "1764000000", "1e10", "", "2026-01-31", "now"])
def test_a_time_in_another_form_than_rfc_3339_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^created_after: .*such as 2026-01-31T12:00:00Z"):
        pagination.parse_time(text, field="created_after")
