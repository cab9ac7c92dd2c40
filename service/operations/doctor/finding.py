"""The finding of a check."""

from typing import Literal

import msgspec

Status = Literal["ok", "warning", "failed", "skipped"]


class Finding(msgspec.Struct, frozen=True):
    """A finding.

    `what` describes it, and `advice` says what to do. `advice` is empty if there is nothing to do.
    """

    name: str
    status: Status
    what: str
    advice: str = ""


def ok(name: str, what: str) -> Finding:
    return Finding(name, "ok", what)


def warning(name: str, what: str, advice: str) -> Finding:
    return Finding(name, "warning", what, advice)


def failed(name: str, what: str, advice: str) -> Finding:
    return Finding(name, "failed", what, advice)


def skipped(name: str, what: str) -> Finding:
    return Finding(name, "skipped", what)
