"""Each case of the table, directly over the server."""

import pytest

from tests.e2e.hostile_http.cases import CASES, Case
from tests.e2e.hostile_http.site import Site, run_case


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_rule(site: Site, case: Case) -> None:
    run_case(site, case)
