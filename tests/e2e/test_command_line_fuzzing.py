"""A short run of the command fuzzer, with the same cases each time."""

import itertools
from pathlib import Path

import pytest

from tests.e2e.conftest import Api
from tests.e2e.hostile_http.site import open_site
from tests.fuzz.command import CommandFuzzer

pytestmark = [pytest.mark.one_store, pytest.mark.slow]

SECONDS = 40.0
"""The time limit of a round, which has as many cases as fit."""


@pytest.mark.timeout(600)  # on a busy machine, few cases fit into a round
def test_the_commands_follow_the_rules_for_odd_cases(api: Api, tmp_path: Path) -> None:
    owner = api.new_owner()
    with open_site(api.url, api.settings, owner=owner.name, key=owner.key) as site:
        fuzzer = CommandFuzzer(site, 3, tmp_path)
        rounds = itertools.count()
        while 0 not in fuzzer.tally.statuses:  # until a command has succeeded
            fuzzer.run(iter([next(rounds)]), seconds=SECONDS)
            assert not fuzzer.tally.findings, "\n".join(map(str, fuzzer.tally.findings))
