"""The error of an embedded server."""


class EmbeddedError(Exception):
    """A failure to run an embedded server. The text says what is wrong and what to do."""
