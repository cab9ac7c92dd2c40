"""The clock by which a process measures its leases.

A lease expires by the clock of the database, which goes on while this machine is suspended. The
clock of `time.monotonic` does not, so a process would take an expired lease for a live one after
the suspension.
"""

import time
from typing import Final

BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", None)  # only Linux has it


def read_seconds() -> float:
    """Return the seconds since the start of the machine, including the time of a suspension.

    Where there is no such clock, return `time.monotonic()`.
    """
    return time.monotonic() if BOOT_CLOCK is None else time.clock_gettime(BOOT_CLOCK)
