"""A launcher that becomes a server which ends with its parent.

    python -I -S launch.py PARENT SIGNAL UID GID PROGRAM ARGUMENT…

It is a separate program and not a `preexec_fn`, so that no Python runs between fork and exec of a
process that has threads. It changes the user itself, because the new user may be unable to read the
Python that runs the launcher.
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
        )  # after the change of user, which clears the signal
        if os.getppid() != parent:  # the parent died before the signal was set
            sys.exit("the process that started this one has exited")
    os.execv(command[0], command)  # noqa: S606  # deliberately without a shell


if __name__ == "__main__":
    parent, death_signal, uid, gid = (int(word) for word in sys.argv[1:5])
    become(parent, death_signal, uid=uid, gid=gid, command=sys.argv[5:])
