"""PostgreSQL: the pool of connections, the schema, and the notifications between processes."""

from service.database.pool import UNREACHABLE, Connection, close, connect, open_pool
from service.database.schema import (
    SchemaError,
    check_version,
    expected_version,
    find_migrations,
    migrate,
    read_version,
)

__all__ = [
    "UNREACHABLE",
    "Connection",
    "SchemaError",
    "check_version",
    "close",
    "connect",
    "expected_version",
    "find_migrations",
    "migrate",
    "open_pool",
    "read_version",
]
