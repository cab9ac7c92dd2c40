"""What explore.py searches: a thing (here called file) and the claims on it, each an immutable tuple, and the steps between them."""

from collections.abc import Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

F = TypeVar("F")
C = TypeVar("C")


class Step(NamedTuple, Generic[F, C]):
    """One atomic statement, request or turn of fate. A step of a claim replaces that claim, a step of the file may add one."""

    what: str
    good: bool  # belongs to the undisturbed run of the system: time, workers and sweepers that go on, requests that are answered
    file: F
    claim: (
        C | None
    )  # None: no claim is added (a step of the file), or the claim is left as it is (never yielded by one)
    others: str = ""  # what happens to all other claims: a word that Model.touch knows
    bad: str = ""  # the invariant that this very step breaks


class Model(Protocol[F, C]):
    """A protocol with its invariants, under one set of rules and bounds."""

    claims: int  # claims with something left of them at once

    def start(self) -> F: ...
    def file_steps(self, file: F, claimable: bool) -> Iterator[Step[F, C]]: ...
    def claim_steps(self, file: F, claim: C) -> Iterator[Step[F, C]]: ...
    def claimable(self, claims: tuple[C, ...]) -> bool: ...
    def touch(self, how: str, claim: C) -> C: ...
    def touch_breaks(self, how: str, claim: C) -> str: ...
    def forget_file(self, file: F) -> F:
        """The file without what can make no difference any more."""

    def forget_claim(self, file: F, claim: C) -> C | None:
        """The claim without what can make no difference any more; None when nothing is left of it."""

    def file_breaks(self, before: F, after: F) -> str: ...
    def claim_breaks(self, file: F, claim: C) -> str: ...
    def settled(self, file: F, claims: tuple[C, ...]) -> bool:
        """Nothing left to do, nothing left over: what every run must be able to come to without outside help."""


class WithoutClaims(Generic[F]):
    """What a model says of claims that has none."""

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
