"""The two embedded servers of `assay dev` and the tests: PostgreSQL, and a store that speaks S3.

Read `folder` (the data folder and its permissions) first, then `processes` (how a server starts,
stops, and ends with its parent), then `postgres` and `store`. All functions block, so call them
from a thread if there is an event loop.
"""

from service.embedded.errors import EmbeddedError
from service.embedded.folder import prepare_folder
from service.embedded.postgres import Postgres, start_postgres
from service.embedded.store import RootCredentials, Store, Webhook, start_store

__all__ = [
    "EmbeddedError",
    "Postgres",
    "RootCredentials",
    "Store",
    "Webhook",
    "prepare_folder",
    "start_postgres",
    "start_store",
]
