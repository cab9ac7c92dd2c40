"""Debian's Chromium: found, or installed where that is possible."""

import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL_SECONDS = 600
QUIET = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""It asks nobody but the servers under test."""


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def install_chromium() -> str | None:
    """As root on Debian; elsewhere, and where its packages are not to be had, None."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return None
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"]):
        subprocess.run(command, env=environ, capture_output=True, timeout=INSTALL_SECONDS, check=False)
    return find_chromium()


def can_sandbox() -> bool:
    """Chromium refuses its sandbox to root."""
    return os.geteuid() != 0


def is_needed() -> bool:
    """Where CI runs, a test that is skipped has failed."""
    return bool(os.environ.get("CI"))
