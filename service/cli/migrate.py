"""`assay migrate`."""

import os

from service import database
from service.settings import DatabaseSettings, read_settings


async def migrate() -> None:
    """Bring the database's schema to the newest version. Safe when two deployments do it at once."""
    settings = read_settings(os.environ, DatabaseSettings)
    await database.migrate(settings)
    print(f"the schema is at {database.expected_version()}")
