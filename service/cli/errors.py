"""What goes wrong in the command line alone."""

from typing import ClassVar


class CommandError(Exception):
    """Says what is wrong and what to do; printed as it is. `status` is the exit status."""

    status: ClassVar[int] = 1
