"""The number and size of the files to send, counted in the background for the total's bar."""

import os
import threading

from service.cli.client.folders import Source, list_sources
from service.cli.client.reports import Report


def measure_in_background(files: list[str], report: Report, *, recursive: bool) -> None:
    threading.Thread(
        target=measure, args=(files, report), kwargs={"recursive": recursive}, daemon=True
    ).start()


def measure(files: list[str], report: Report, *, recursive: bool) -> None:
    count, size = 0, 0
    for source in list_sources(files, recursive=recursive):
        if isinstance(source, Source):
            count, size = count + 1, size + find_size(source.path)
    report.expect(files=count, size=size)


def find_size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
