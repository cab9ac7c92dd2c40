"""The steps of bootstrap, and its error."""

from typing import Literal

import msgspec

Outcome = Literal["created", "corrected", "unchanged", "not available"]


class BootstrapError(Exception):
    """An error whose text says what is wrong and what to do."""


class Step(msgspec.Struct, frozen=True):
    """One requirement of a deployment, and whether it was created or changed."""

    what: str
    outcome: Outcome
