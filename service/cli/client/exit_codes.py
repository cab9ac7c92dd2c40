"""How a command can end: what is said, and the exit status. docs/command-line.md lists the numbers.

Ending
├── Failed         1  something here: the disk is full, a name is not safe, a file is in the way
├── WrongUse       2  an option, an address, a file of settings
├── NotAllowed     4  no key, or one that the server refuses
├── NotFound       5
├── Rejected       6  the bytes are not those that were declared or asked for
├── Away           7  the server or the store does not answer
├── SomeFailed     8  of several
└── Interrupted  130  by Ctrl-C; says how to go on
"""

import contextlib
from collections.abc import Iterator

from service.cli.client.display import show
from service.cli.errors import CommandError


class Ending(CommandError):
    """Says what is wrong and what to do; the class fixes the exit status. 3 is left to the operator's commands."""


class Failed(Ending):
    """Something on this machine."""


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
    """Of several files: how each one ended. What went wrong with one was said when it did."""

    def __init__(self) -> None:
        self.done = 0
        self.failed: list[type[Ending]] = []

    def end(self, noun: str = "files") -> None:
        """Raises the Ending that they have in common, or SomeFailed."""
        if not self.failed:
            return
        total = self.done + len(self.failed)
        summary = f"{len(self.failed):,} of {total:,} {noun} failed" if total > 1 else ""
        if self.done == 0 and len(set(self.failed)) == 1:
            raise self.failed[0](summary)
        raise SomeFailed(summary)


def explain(error: Exception) -> Ending:
    """What the client raised, as an ending.

    Raises the error again when nobody reads our output any more, and when it is a fault of ours: its traceback is the best text.
    """
    from assay import errors  # half of what this command line imports; `--help` needs none of it

    kinds: list[tuple[tuple[type[Exception], ...], type[Ending]]] = [
        ((errors.Unauthorized, errors.Forbidden), NotAllowed),
        ((errors.NotFound, errors.Gone, errors.LinkEnded), NotFound),
        ((errors.Rejected, errors.DigestMismatch, errors.FileChanged), Rejected),
        ((errors.ServerUnavailable, errors.NotFinal), Away),
        ((errors.AssayError,), Failed),
    ]
    if isinstance(error, Ending):
        return error
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return Failed(show(f"{error.filename}: {error.strerror}" if error.filename else str(error)))
    for classes, ending in kinds:
        if isinstance(error, classes):
            return ending(show(str(error)))
    raise error


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """What is raised inside ends the command. Raises Ending."""
    try:
        yield
    except Exception as error:
        ending = explain(error)
        if ending is error:
            raise
        raise ending from error
