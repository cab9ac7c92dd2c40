"""The ports of the servers that `assay dev` starts."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from service.embedded.processes import PORTS_TO_TRY, is_free


@contextmanager
def claimed_port(host: str, first: int) -> Iterator[int]:
    """Yield a free port from `first` on that no other starting `assay dev` takes.

    Some seconds pass between the choice of a port and listening on it. Without a claim, two
    processes could choose the same port, and one would use the other's server. On Linux, the claim
    is the name of an abstract socket, which the kernel releases with the process. Elsewhere there
    is no claim.
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
    yield first  # the server reports what is wrong
