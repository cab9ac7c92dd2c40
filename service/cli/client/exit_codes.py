"""The outcomes of a command, with text and exit status. docs/command-line.md lists the numbers.

Ending
├── Failed         1  an error on this machine, or a request that the server refused as invalid
├── WrongUse       2  an option, an address or a settings file is wrong
├── NotAllowed     4  there is no key, or the server refused it
├── NotFound       5
├── Rejected       6  the bytes are not those that were declared or requested
├── Away           7  the server or the store is unavailable
├── SomeFailed     8  some of several files failed
└── Interrupted  130  by Ctrl-C; the text says how to continue
"""

import contextlib
import sys
from collections.abc import Iterator

from service.cli.client.display import show
from service.cli.errors import CommandError
from service.cli.standard_streams import OutputLost


class Ending(CommandError):
    """The end of a command, with a text that says what is wrong and what to do.

    The class sets the exit status. Status 3 is reserved for the operator's commands.
    """


class Failed(Ending):
    """An error on this machine, or a request that the server refused as invalid."""


class WrongUse(Ending):
    status = 2


class NotAllowed(Ending):
    status = 4


class NotFound(Ending):
    status = 5


class Rejected(Ending):
    status = 6


class Away(Ending):
    status = 7


class SomeFailed(Ending):
    status = 8


class Interrupted(Ending):
    status = 130


class Outcomes:
    """The outcomes of several files. The failure of each was reported when it happened."""

    def __init__(self) -> None:
        self.done = 0
        self.failed: list[type[Ending]] = []

    def end(self, noun: str = "files") -> None:
        """Raise the Ending that all failures share, or SomeFailed. Return if there were none."""
        if not self.failed:
            return
        total = self.done + len(self.failed)
        summary = f"{len(self.failed):,} of {total:,} {noun} failed" if total > 1 else ""
        if self.done == 0 and len(set(self.failed)) == 1:
            raise self.failed[0](summary)
        raise SomeFailed(summary)


def explain(error: Exception) -> Ending:
    """Return the Ending for an error of the client.

    An unforeseen error becomes an Ending too, because one odd file must not end the work on the
    others. With PYTHONDEVMODE=1, such an error is raised again, for its traceback. OutputLost is
    always raised again.
    """
    # This import takes half of the time of all imports, and `--help` does not need it.
    from assay import errors

    kinds: list[tuple[tuple[type[Exception], ...], type[Ending]]] = [
        ((errors.Unauthorized, errors.Forbidden), NotAllowed),
        ((errors.NotFound, errors.Gone, errors.LinkEnded), NotFound),
        ((errors.Rejected, errors.DigestMismatch, errors.FileChanged), Rejected),
        ((errors.ServerUnavailable, errors.NotFinal), Away),
        ((errors.AssayError,), Failed),
    ]
    if isinstance(error, Ending):
        return error
    if isinstance(error, OSError):
        return Failed(show(f"{error.filename}: {error.strerror}" if error.filename else str(error)))
    for classes, ending in kinds:
        if isinstance(error, classes):
            return ending(show(str(error)))
    if isinstance(error, UnicodeError):
        return Failed("a name cannot be expressed in this locale; set LC_ALL=C.UTF-8, for example")
    if isinstance(error, OutputLost) or sys.flags.dev_mode:
        raise error
    return Failed(show(f"unexpected error, please report it: {type(error).__name__}: {error}"))


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Convert an exception of the block to an Ending, and raise it."""
    try:
        yield
    except Exception as error:
        ending = explain(error)
        if ending is error:
            raise
        raise ending from error
