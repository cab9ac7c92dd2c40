"""Ports of the servers behind `assay dev`."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from service.embedded.processes import PORTS_TO_TRY, is_free


@contextmanager
def claimed_port(host: str, first: int) -> Iterator[int]:
    """A free port from `first` on that no other `assay dev` takes which starts at this moment.

    Between choosing a port and listening there lie seconds in which both would find it free; then one of them would take the other's
    server for its own. On Linux the claim is an abstract socket's name, which the kernel forgets with us; elsewhere there is none.
    """
    for port in range(first, first + PORTS_TO_TRY):
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                if sys.platform == "linux":
                    claim.bind(f"\0assay-dev-{port}")
            except OSError:
                continue
            if is_free(host, port):
                yield port
                return
    yield first  # let the server say what is wrong
