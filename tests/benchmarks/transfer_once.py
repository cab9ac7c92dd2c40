"""The process of transfers.py: one transfer by the client, and how much memory that took at most.

The kernel's own `ru_maxrss` would count what the parent had when it forked.
"""

import os
import sys

from assay import Client
from tests.benchmarks.processes import read_peak_bytes


def transfer(what: str, first: str, second: str) -> None:
    """`put FILE single|parts` or `get ID FILE`."""
    with Client() as client:
        file = client.upload(first, multipart=second == "parts", wait=False) if what == "put" else client.download(first, second)
    print(read_peak_bytes(os.getpid()) / 1024**2, file.id)


if __name__ == "__main__":
    transfer(*sys.argv[1:])
