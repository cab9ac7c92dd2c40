"""A short run of the HTTP fuzzer, with the same cases each time."""

from tests.e2e.hostile_http.site import Site
from tests.fuzz.http import Fuzzer

CASES = 300
SECONDS = 60.0
"""The time limit of the run. On a machine that is not overloaded, the run ends long before it."""


def test_the_server_follows_the_rules_for_mutated_requests(site: Site) -> None:
    site.take_new()
    tally = Fuzzer(site, 9, is_alive=lambda: True).run(iter(range(CASES)), seconds=SECONDS)
    assert not tally.findings, "\n".join(map(str, tally.findings))
    assert tally.cases > 0
    assert tally.statuses[201] > 0
