"""Programs of Debian's that tests run beside the servers: found, or installed where that may be done.

1. On the PATH or where Debian puts what only root runs: it is taken.
2. Not there, and we are root on a Debian: `apt-get` installs the package, once for all test processes of this machine.
3. That failed, or is not ours to do: the tests that need it are skipped, saying so; with CI set they fail.
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
"""Not on everybody's PATH."""
INSTALL_SECONDS: Final = 200
LOCK: Final = Path(tempfile.gettempdir()) / f"assay-tests-apt-{os.getuid()}"


def find_program(name: str, package: str) -> Path:
    """Where it is, if need be after `apt-get install PACKAGE`. Skips the test that asks where it is not to be had; fails it in CI."""
    found = search(name)
    if found is None and is_root_on_debian():
        why = install(name, package)
        found = search(name)
    else:
        why = "only root on a Debian can install it"
    if found is not None:
        return found
    answer = f"there is no {name} here (Debian's {package}): {why}"
    if os.environ.get("CI"):
        pytest.fail(answer)
    pytest.skip(answer)


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
    """What apt-get said last; it is tried once."""
    with LOCK.open("w") as lock:
        fcntl.flock(
            lock, fcntl.LOCK_EX
        )  # several test processes at once: the others wait, and find it installed
        if search(name):
            return "installed"
        said = run_apt("install", "--yes", "--no-install-recommends", package)
        if search(name) is None:  # a list of packages that is old or empty
            run_apt("update")
            said = run_apt("install", "--yes", "--no-install-recommends", package)
        return said


def run_apt(*arguments: str) -> str:
    """Its last line. RUNLEVEL: a server that is installed is not started."""
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
