"""The options with which tests and benchmarks start Chromium."""

import os

from tests.support.programs import is_installed, search

SHELL = "chromium-headless-shell"
"""Chromium without windows. It takes half the CPU time of `chromium --headless`."""
NAMES = (SHELL, "chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Options with which Chromium connects only to the servers under test."""


def find_chromium() -> str | None:
    """Return a browser that is installed, after an attempt to install the quickest one."""
    is_installed(SHELL, SHELL)
    return next((str(path) for name in NAMES if (path := search(name))), None)


def can_sandbox() -> bool:
    """Return whether Chromium can use its sandbox. It cannot when it runs as root."""
    return os.geteuid() != 0
