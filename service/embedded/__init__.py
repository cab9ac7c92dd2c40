"""The two servers that `assay dev` and the tests bring along: PostgreSQL, and a store that speaks S3.

Read `folder` (where things lie and who may read them), `processes` (how a server starts, stops and dies with us), then
`postgres` and `store`. Everything here is blocking: call it from a thread where there is an event loop.
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
