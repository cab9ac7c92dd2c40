"""Small file systems for servers of a test, which can be full.

A process holds a mount namespace with a tmpfs, and servers enter that namespace. It ends with the
test, and the file system with it.
"""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HOLD = 'mount -t tmpfs -o "size=$1,mode=0711" tmpfs "$2" && echo mounted && exec cat'
BLOCK_BYTES = 4096
WRITE_BYTES = 256 * BLOCK_BYTES
END_SECONDS = 20


class SmallDisk:
    """A file system that is mounted at `folder`, for those processes alone that enter it."""

    def __init__(self, folder: Path, holder: int) -> None:
        self.folder = folder
        self.holder = holder

    @property
    def reached(self) -> Path:
        """Return a path by which the test reaches the folder."""
        return Path(f"/proc/{self.holder}/root") / self.folder.relative_to("/")

    @property
    def ballast(self) -> Path:
        return self.reached / "ballast"

    def enter(self) -> list[str]:
        """Return the beginning of a command that runs inside."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return [find("nsenter"), "--target", str(self.holder), "--mount", *user, "--"]

    def fill(self) -> None:
        """Take all space that is left."""
        with self.ballast.open("ab", buffering=0) as stream:
            for size in (WRITE_BYTES, BLOCK_BYTES):
                while write(stream.fileno(), size):
                    pass

    def free(self) -> None:
        """Give back the space that `fill` has taken."""
        self.ballast.unlink()


def write(descriptor: int, size: int) -> bool:
    """Write some bytes, and return False if there is no space."""
    try:
        return os.write(descriptor, bytes(size)) > 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False


def find(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.fail(f"a small file system needs `{program}` of util-linux on the PATH")
    return found


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a file system of that size at the new folder.

    Fails the test if the system does not allow it, because nothing else fills a disk.
    """
    folder.mkdir(mode=0o711)
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = [find("unshare"), *user, "--mount", "sh", "-c", HOLD, "sh", size, str(folder)]
    holder = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stderr is not None
    try:
        if holder.stdout.readline() != "mounted\n":
            pytest.fail(
                "this system allows no small file system by `unshare` and `mount -t tmpfs`, which"
                f" the tests of a full disk need: {holder.stderr.read().strip()}"
            )
        yield SmallDisk(folder, holder.pid)
    finally:
        holder.communicate(timeout=END_SECONDS)
