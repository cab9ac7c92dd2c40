"""The fixtures of the service, over every store."""

import pytest

from service.settings import Settings


@pytest.fixture
def settings_of_the_service(settings: Settings) -> Settings:
    """Return the service's settings, by a name that differs from Hypothesis's `settings`."""
    return settings
