"""Cursors and times of the list of files."""

from datetime import UTC, datetime, timedelta, timezone

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
    moment = datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))
    assert pagination.check_time(moment, field="created_after") == datetime(
        2026, 1, 31, 10, tzinfo=UTC
    )
    assert pagination.check_time(None, field="created_after") is None
    for bad in (
        datetime(2026, 1, 31),  # noqa: DTZ001  # a time that must be refused
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))),
    ):
        with pytest.raises(InvalidRequest, match=r"^created_after"):
            pagination.check_time(bad, field="created_after")
