"""What a command says when it cannot go on, and the exit status that goes with it."""

import errno

import asyncpg

from service.database import UNREACHABLE, SchemaError
from service.embedded import EmbeddedError
from service.object_store import StoreError
from service.operations.bootstrap import BootstrapError
from service.settings import SettingsError

FAILED = 1
WRONG_SETTINGS = 2
WRONG_SCHEMA = 3
OURS = frozenset(
    {errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS, errno.EDQUOT}
)
"""An OSError that says nothing of a server."""


def explain(error: Exception) -> tuple[str, int]:
    """The text for people and the status. Raises the error again when it is a fault of ours: its traceback is the best text."""
    if isinstance(error, SettingsError):
        return str(error), WRONG_SETTINGS
    if isinstance(error, SchemaError):
        return str(error), WRONG_SCHEMA
    if isinstance(error, EmbeddedError | BootstrapError):
        return str(error), FAILED
    if isinstance(error, StoreError):
        return f"the object store: {error}", FAILED
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", FAILED
    if isinstance(error, OSError) and error.errno in OURS:
        return f"this machine: {error.strerror}", FAILED
    if isinstance(error, asyncpg.PostgresError) and not isinstance(error, UNREACHABLE):
        return f"the database refuses: {error}", FAILED
    if isinstance(error, UNREACHABLE):
        return (
            f"the database is away ({type(error).__name__}: {error}): is ASSAY_DATABASE_URL right, and is it running?",
            FAILED,
        )
    raise error
