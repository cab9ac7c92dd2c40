"""Ids, digests, ranges of names, and the schedule of checks."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.model import Sha256, make_id
from service.queries.listing import Filters, follow_prefix
from service.worker.verification import next_look

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


def test_an_id_is_a_uuid_of_version_7_with_its_time() -> None:
    made = make_id()
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    at = datetime.fromtimestamp((made.int >> 80) / 1000, UTC)
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)


def test_later_ids_are_greater() -> None:
    ids = [make_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert [made.int >> 80 for made in ids] == sorted(made.int >> 80 for made in ids)


@given(st.binary(min_size=32, max_size=32))
def test_a_digest_is_case_insensitive(digest: bytes) -> None:
    assert Sha256.parse(digest.hex().upper()) == Sha256(digest)
    assert str(Sha256(digest)) == digest.hex()


@pytest.mark.parametrize(
    "text", ["", "ab", "g" * 64, "0" * 63, "0" * 65, "0x" + "0" * 62, "٠" * 64]
)
def test_an_invalid_digest_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        Sha256.parse(text)


@given(NAMES, NAMES)
def test_a_prefix_matches_a_range_of_names(prefix: str, name: str) -> None:
    assert (prefix <= name < follow_prefix(prefix)) == name.startswith(prefix)
    assert prefix <= prefix + name < follow_prefix(prefix)


@pytest.mark.parametrize("prefix", ["", "a", "a" * 300])
@pytest.mark.parametrize("length", [1, 2, 62])
def test_a_prefix_may_end_with_the_last_character(prefix: str, length: int) -> None:
    first = prefix + "\U0010ffff" * length
    end = follow_prefix(first)
    longest = "\U0010ffff" * 63
    assert (first <= longest < end) == longest.startswith(first)
    assert all(first <= first + name < end for name in ("", "a", "\U0010ffff"))


def test_a_prefix_that_is_longer_than_every_name_matches_nothing() -> None:
    first, end = Filters(states=(), filename="\U0010ffff" * 1200 + "*").filename_range
    assert first is not None
    assert end is not None
    assert not first <= "\U0010ffff" * 63 < end


def test_a_complete_name_matches_only_itself() -> None:
    first, end = Filters(states=(), filename="a").filename_range
    assert first is not None
    assert end is not None
    assert first <= "a" < end
    assert not first <= "a " < end


def test_intervals_without_an_arrival_report_grow_to_ten_minutes() -> None:
    looks = [next_look(attempts) for attempts in range(20)]
    assert looks == sorted(looks)
    assert (looks[0], looks[-1]) == (timedelta(minutes=1), timedelta(minutes=10))
