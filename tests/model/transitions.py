"""The models that `explore.py` searches.

A model has an object (here called file), the claims on it, and the steps between their states.
The file and each claim are immutable tuples.
"""

from collections.abc import Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

F = TypeVar("F")
C = TypeVar("C")


class Step(NamedTuple, Generic[F, C]):
    """One atomic statement, request or external event.

    A step of a claim replaces that claim, and a step of the file may add one.
    """

    what: str
    # The step belongs to the undisturbed run of the system: time passes, workers and sweepers go
    # on, requests are answered.
    good: bool
    file: F
    # None if a step of the file adds no claim. A step of a claim always has one.
    claim: C | None
    others: str = ""  # the effect on all other claims: a word that Model.touch accepts
    bad: str = ""  # the invariant that this step itself breaks


class Model(Protocol[F, C]):
    """A protocol with its invariants, under one set of rules and bounds."""

    claims: int  # claims that exist at once

    def start(self) -> F: ...
    def file_steps(self, file: F, claimable: bool) -> Iterator[Step[F, C]]: ...
    def claim_steps(self, file: F, claim: C) -> Iterator[Step[F, C]]: ...
    def claimable(self, claims: tuple[C, ...]) -> bool: ...
    def touch(self, how: str, claim: C) -> C: ...
    def touch_breaks(self, how: str, claim: C) -> str: ...
    def forget_file(self, file: F) -> F:
        """Return the file without what can no longer matter."""

    def forget_claim(self, file: F, claim: C) -> C | None:
        """Return the claim without what can no longer matter, or None if nothing remains."""

    def file_breaks(self, before: F, after: F) -> str: ...
    def claim_breaks(self, file: F, claim: C) -> str: ...
    def settled(self, file: F, claims: tuple[C, ...]) -> bool:
        """Return whether nothing is left to do and nothing is left over.

        Every run must be able to reach such a state without outside help.
        """


class WithoutClaims(Generic[F]):
    """The claim methods of a model that has no claims."""

    def claim_steps(self, file: F, claim: str) -> Iterator[Step[F, str]]:
        raise NotImplementedError

    def claimable(self, claims: tuple[str, ...]) -> bool:
        del claims
        return False

    def touch(self, how: str, claim: str) -> str:
        raise NotImplementedError

    def touch_breaks(self, how: str, claim: str) -> str:
        raise NotImplementedError

    def forget_claim(self, file: F, claim: str) -> str | None:
        raise NotImplementedError

    def claim_breaks(self, file: F, claim: str) -> str:
        raise NotImplementedError
