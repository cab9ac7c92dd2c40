"""What goes wrong in the command line alone."""


class CommandError(Exception):
    """Says what is wrong and what to do; printed as it is."""
