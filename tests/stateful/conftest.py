"""The service's fixtures, over every store."""

import pytest

from service.settings import Settings


@pytest.fixture
def settings_of_the_service(settings: Settings) -> Settings:
    """Beside Hypothesis's settings."""
    return settings
