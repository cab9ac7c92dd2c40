"""What a check found."""

from typing import Literal

import msgspec

Status = Literal["ok", "warning", "failed", "skipped"]


class Finding(msgspec.Struct, frozen=True):
    """`what` says what is so, `advice` what to do about it (empty when all is well, or when there is nothing to look at)."""

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
