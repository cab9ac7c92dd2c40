"""`assay migrate`: upgrades the database's schema."""

import os

from service import database
from service.settings import DatabaseSettings, read_settings


async def migrate() -> None:
    """Upgrade the database's schema to the newest version.

    Several deployments may do this at once.
    """
    settings = read_settings(os.environ, DatabaseSettings)
    await database.migrate(settings)
    print(f"the schema is at {database.expected_version()}")
