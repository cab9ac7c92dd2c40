"""What goes wrong with an embedded server."""


class EmbeddedError(Exception):
    """An embedded server can't be had; the message says what is wrong and what to do about it."""
