"""Tests that send each case of the table directly to the server."""

import pytest

from tests.e2e.hostile_http.cases import CASES, Case
from tests.e2e.hostile_http.site import Site, run_case


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_server_follows_the_rule(site: Site, case: Case) -> None:
    run_case(site, case)
