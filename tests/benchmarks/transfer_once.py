"""The process of transfers.py: one transfer by the client, and how much memory that took at most."""

import resource
import sys

from assay import Client


def transfer(what: str, first: str, second: str) -> None:
    """`put FILE single|parts` or `get ID FILE`."""
    with Client() as client:
        file = client.upload(first, multipart=second == "parts", wait=False) if what == "put" else client.download(first, second)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file.id)


if __name__ == "__main__":
    transfer(*sys.argv[1:])
