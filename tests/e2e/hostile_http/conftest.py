"""Fixtures: one server over one store, and one owner, for all hostile requests."""

from collections.abc import Callable, Iterator

import pytest

from tests.e2e.conftest import Api
from tests.e2e.hostile_http.site import Site, open_site
from tests.support.servers import store_kinds
from tests.support.stores import StoreUnderTest


@pytest.fixture(scope="session")
def one_api(
    apis: Callable[[StoreUnderTest], Api], running_stores: Callable[[str], StoreUnderTest]
) -> Api:
    """Return the API over the store that starts fastest. No response here depends on the store."""
    return apis(running_stores(store_kinds()[-1]))


@pytest.fixture(scope="session")
def site(one_api: Api) -> Iterator[Site]:
    owner = one_api.new_owner()
    with open_site(one_api.url, one_api.settings, owner=owner.name, key=owner.key) as opened:
        yield opened
