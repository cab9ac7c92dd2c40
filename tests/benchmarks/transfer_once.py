"""The process that transfers.py starts: one transfer by the client, and its peak of memory.

It does not read `ru_maxrss`, which includes the memory of the parent at the time of the fork.
"""

import os
import sys
from typing import cast

from assay import Client
from assay.sendings import Hash
from tests.support.processes import read_peak_bytes


def transfer(what: str, first: str, second: str) -> None:
    """Transfer one file and print the peak of memory in MiB, and the file's id.

    The arguments are `put FILE single`, `put FILE auto|parts|none` (in parts, with these digests)
    or `get ID FILE`.
    """
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
