"""A short run of the HTTP fuzzer, of the same cases each time."""

from tests.e2e.hostile_http.site import Site
from tests.fuzz.http import Fuzzer

CASES = 300
SECONDS = 60.0
"""The run ends with its cases long before, on a machine that is not overloaded."""


def test_no_mutation_gets_past_the_rules(site: Site) -> None:
    site.take_new()
    tally = Fuzzer(site, 9, is_alive=lambda: True).run(iter(range(CASES)), seconds=SECONDS)
    assert not tally.findings, "\n".join(map(str, tally.findings))
    assert tally.cases > 0
    assert tally.statuses[201] > 0
