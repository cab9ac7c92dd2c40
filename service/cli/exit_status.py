"""The text and the exit status of a command of the server that fails."""

import errno

import asyncpg

from service.database import UNREACHABLE, SchemaError
from service.embedded import EmbeddedError
from service.object_store import StoreError
from service.operations.steps import BootstrapError
from service.settings import SettingsError

FAILED = 1
WRONG_SETTINGS = 2
WRONG_SCHEMA = 3
OURS = frozenset(
    {errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS, errno.EDQUOT}
)
"""The errors of this machine, which do not concern a server."""


def explain(error: Exception) -> tuple[str, int]:
    """Return the text to print and the exit status.

    Raises the error again if it is unexpected, because the traceback is then the most useful text.
    """
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
        return f"the database returned an error: {error}", FAILED
    if isinstance(error, UNREACHABLE):
        return (
            (
                f"the database is unavailable ({type(error).__name__}: {error});"
                " check that it runs and that ASSAY_DATABASE_URL is correct"
            ),
            FAILED,
        )
    raise error
