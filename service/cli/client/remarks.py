"""The warnings that the Python client logs, as remarks of a command."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from service.cli.client.display import show
from service.cli.client.reports import Report


class Remarks(logging.Handler):
    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report.note(show(record.getMessage()))


@contextmanager
def note_warnings(report: Report) -> Iterator[None]:
    """Print each warning of the client as one line while the block runs."""
    logger, remarks = logging.getLogger("assay"), Remarks(report)
    logger.addHandler(remarks)
    try:
        yield
    finally:
        logger.removeHandler(remarks)
