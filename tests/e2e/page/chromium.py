"""The options with which tests and benchmarks start Chromium."""

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
SHELL = "chromium-headless-shell"
"""Chromium without windows. It takes half the CPU time of `chromium --headless`."""
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
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def can_sandbox() -> bool:
    """Return whether Chromium can use its sandbox. It cannot when it runs as root."""
    return os.geteuid() != 0
