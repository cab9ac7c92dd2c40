"""The error of a command."""

from typing import ClassVar


class CommandError(Exception):
    """An error whose text says what is wrong and what to do.

    It is printed as it is. `status` is the exit status.
    """

    status: ClassVar[int] = 1
