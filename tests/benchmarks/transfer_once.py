"""The process of transfers.py: one transfer by the client, and how much memory that took at most.

The kernel's own `ru_maxrss` would count what the parent had when it forked.
"""

import os
import sys
from typing import cast

from assay import Client
from assay.sendings import Hash
from tests.support.processes import read_peak_bytes


def transfer(what: str, first: str, second: str) -> None:
    """`put FILE single`, `put FILE auto|parts|none` (in parts, with these digests) or `get ID FILE`."""
    with Client() as client:
        if what == "get":
            file = client.download(first, second)
        elif second == "single":
            file = client.upload(first, multipart=False, wait=False)
        else:
            file = client.upload(first, multipart=True, hash=cast("Hash", second), wait=False)
    print(read_peak_bytes(os.getpid()) / 1024**2, file.id)


if __name__ == "__main__":
    transfer(*sys.argv[1:])
