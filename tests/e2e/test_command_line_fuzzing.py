"""A short run of the command fuzzer, with the same cases each time."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Api
from tests.e2e.hostile_http.site import open_site
from tests.fuzz.command import CommandFuzzer

pytestmark = [pytest.mark.one_store, pytest.mark.slow]

SECONDS = 40.0
"""The time limit of the run, which has as many cases as fit."""


def test_the_commands_follow_the_rules_for_odd_cases(api: Api, tmp_path: Path) -> None:
    owner = api.new_owner()
    with open_site(api.url, api.settings, owner=owner.name, key=owner.key) as site:
        tally = CommandFuzzer(site, 3, tmp_path).run(iter([0]), seconds=SECONDS)
    assert not tally.findings, "\n".join(map(str, tally.findings))
    assert tally.cases > 0
    assert tally.statuses[0] > 0
