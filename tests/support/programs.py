"""Programs of Debian that tests run beside the servers. They are found or, if permitted, installed.

1. The program is on the PATH, or in a folder for root's programs: this one is used.
2. It is missing, and the tests run as root on Debian: `apt-get` installs the package. It does
   so once for all test processes of the machine.
3. It is missing and cannot be installed: the tests that need it are skipped with the reason.
   If CI is set, they fail.
"""

import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import pytest

FOLDERS: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Folders that are not on every user's PATH."""
INSTALL_SECONDS: Final = 200
LOCK: Final = Path(tempfile.gettempdir()) / f"assay-tests-apt-{os.getuid()}"


def find_program(name: str, package: str) -> Path:
    """Return the program's path, after `apt-get install PACKAGE` if necessary.

    Skips the calling test if the program is not available, or fails it if CI is set.
    """
    found = find_or_install(name, package)
    if found is not None:
        return found
    why = install(name, package) if is_root_on_debian() else "only root on a Debian can install it"
    answer = f"there is no {name} here (Debian's {package}): {why}"
    if os.environ.get("CI"):
        pytest.fail(answer)
    pytest.skip(answer)


def find_or_install(name: str, package: str) -> Path | None:
    """Return the program's path, after `apt-get install PACKAGE` if necessary and possible."""
    if search(name) is None and is_root_on_debian():
        install(name, package)
    return search(name)


def search(name: str) -> Path | None:
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *FOLDERS]))
    return Path(found) if found else None


def is_root_on_debian() -> bool:
    return (
        os.geteuid() == 0
        and shutil.which("apt-get") is not None
        and Path("/etc/debian_version").exists()
    )


@functools.cache
def install(name: str, package: str) -> str:
    """Return the last line that `apt-get` printed. It is tried once per process."""
    with LOCK.open("w") as lock:
        # Other test processes wait here, and then find the program installed.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if search(name):
            return "installed"
        said = run_apt("install", "--yes", "--no-install-recommends", package)
        if search(name) is None:  # the package lists may be old or empty
            run_apt("update")
            said = run_apt("install", "--yes", "--no-install-recommends", package)
        return said


def run_apt(*arguments: str) -> str:
    """Run `apt-get` and return the last line of its output.

    RUNLEVEL=1 keeps the packages from starting the servers that they install.
    """
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=60", *arguments]
    try:
        ran = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{' '.join(command)} did not end within {INSTALL_SECONDS} s"
    return (ran.stdout.strip().splitlines() or [""])[-1]
