"""Become a server that dies with its parent: `python -I -S launch.py PARENT SIGNAL UID GID PROGRAM ARGUMENT…`.

A program of its own rather than a `preexec_fn`: no Python runs between fork and exec of a process that has threads. It
changes the user itself, because that user may be unable to read the Python that runs this.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def become(parent: int, death_signal: int, *, uid: int, gid: int, command: list[str]) -> None:
    if uid != os.geteuid():
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(
            PR_SET_PDEATHSIG, death_signal
        )  # after the change of user, which clears it
        if os.getppid() != parent:  # it died before we asked to be told
            sys.exit("the process that started this one is gone")
    os.execv(command[0], command)  # noqa: S606  # a server, started without a shell on purpose


if __name__ == "__main__":
    parent, death_signal, uid, gid = (int(word) for word in sys.argv[1:5])
    become(parent, death_signal, uid=uid, gid=gid, command=sys.argv[5:])
