"""The states of a model as numbers.

A state is one int, and each step of a file or of a claim is computed only once.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from tests.model.transitions import C, F, Model, Step

BITS = 20  # the bits of a claim's number inside a state
NONE = 0  # the number of "no claim"
BROKEN = -1  # instead of a number: an invariant is broken
MASK = (1 << BITS) - 1

T = TypeVar("T", bound=Hashable)


class Numbers(Generic[T]):
    """A numbering of values, in which equal values have the same number."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self.index: dict[T, int] = {}

    def of(self, value: T) -> int:
        number = self.index.get(value)
        if number is None:
            number = self.index[value] = len(self.values)
            self.values.append(value)
        return number


@dataclass(slots=True, eq=False)
class Move:
    """A step of the file or of one claim, with numbers for what it leads to."""

    what: str
    good: bool
    file: int  # the file, with all that the step left
    state: int  # the next state, without claims
    claim: int  # what remains of the step's own claim in the next state
    others: str
    alone: bool  # the step cannot change or break another claim
    bad: str
    left: dict[int, int]  # what remains of other claims after the step, or BROKEN


class Space(Generic[F, C]):
    """The states of a model. Each is the number of a file and the sorted numbers of its claims."""

    def __init__(self, model: Model[F, C]) -> None:
        self.model = model
        self.files: Numbers[F] = Numbers()
        self.things: Numbers[C | None] = Numbers()
        self.things.of(None)
        self.shift = BITS * model.claims
        self.low = (1 << self.shift) - 1
        self.file_moves: dict[tuple[int, bool], list[Move]] = {}
        self.claim_moves: dict[tuple[int, int], list[Move]] = {}
        self.rests: dict[tuple[int, int], tuple[int, str]] = {}
        self.touches: dict[tuple[str, int], tuple[int, str]] = {}
        self.forgets: dict[int, int] = {}
        self.claimable: dict[int, bool] = {}

    def start(self) -> int:
        return self.files.of(self.model.start()) << self.shift

    def parts(self, state: int) -> tuple[F, tuple[C, ...]]:
        claims = [self.things.values[n] for n in self.numbers(state)]
        return self.files.values[state >> self.shift], tuple(c for c in claims if c is not None)

    def numbers(self, state: int) -> list[int]:
        low = state & self.low
        claims = []
        while low:
            claims.append(low & MASK)
            low >>= BITS
        return claims

    def steps(self, state: int) -> Iterator[tuple[Move, int, list[int]]]:
        """Yield every step from this state.

        Each has the position of the claim whose step it is, or -1 for the file, and the other
        claims.
        """
        file, claims = state >> self.shift, self.numbers(state)
        may = self.claimable.get(state & self.low)
        if may is None:
            may = len(claims) < self.model.claims and self.model.claimable(self.parts(state)[1])
            self.claimable[state & self.low] = may
        for move in self.moves_of_file(file, may):
            yield move, -1, claims
        for slot, claim in enumerate(claims):
            others = claims[:slot] + claims[slot + 1 :]
            for move in self.moves_of_claim(file, claim):
                yield move, slot, others

    def follow(self, move: Move, others: list[int]) -> int:
        """Return the state after the step, or BROKEN."""
        if move.bad:
            return BROKEN
        if not move.alone and others:
            others = [self.leave(move, claim) for claim in others]
            if BROKEN in others:
                return BROKEN
        if not others:
            return move.state | move.claim
        if len(others) == 1:
            return move.state | pack_two(move.claim, others[0])
        return move.state | pack([move.claim, *others])

    def leave(self, move: Move, claim: int) -> int:
        """Return what remains of another claim after the step, or BROKEN."""
        left = move.left.get(claim)
        if left is None:
            left, bad = self.change(move, claim)
            left = move.left[claim] = BROKEN if bad else left
        return left

    def change(self, move: Move, claim: int) -> tuple[int, str]:
        """Return what remains of another claim after the step, and the broken invariant."""
        left, bad = self.touched(move.others, claim) if move.others else (claim, "")
        left, broken = self.rest(move.file, left)
        return left, bad or broken

    def explain(self, move: Move, others: list[int]) -> str:
        """Return the invariant that the step breaks."""
        return move.bad or next(bad for claim in others if (bad := self.change(move, claim)[1]))

    def moves_of_file(self, file: int, may: bool) -> list[Move]:
        moves = self.file_moves.get((file, may))
        if moves is None:
            value = self.files.values[file]
            moves = self.file_moves[file, may] = [
                self.move(file, s) for s in self.model.file_steps(value, may)
            ]
        return moves

    def moves_of_claim(self, file: int, claim: int) -> list[Move]:
        moves = self.claim_moves.get((file, claim))
        if moves is None:
            value, thing = self.files.values[file], self.things.values[claim]
            assert thing is not None
            moves = self.claim_moves[file, claim] = [
                self.move(file, s) for s in self.model.claim_steps(value, thing)
            ]
        return moves

    def move(self, file: int, step: Step[F, C]) -> Move:
        bad = step.bad or self.model.file_breaks(self.files.values[file], step.file)
        after = self.files.of(step.file)
        left, broken = self.rest(after, self.things.of(step.claim))
        return Move(
            step.what,
            step.good,
            after,
            self.forget(after) << self.shift,
            left,
            step.others,
            not step.others and after == file,
            bad or broken,
            {},
        )

    def touched(self, how: str, claim: int) -> tuple[int, str]:
        done = self.touches.get((how, claim))
        if done is None:
            thing = self.things.values[claim]
            assert thing is not None
            done = self.things.of(self.model.touch(how, thing)), self.model.touch_breaks(how, thing)
            self.touches[how, claim] = done
        return done

    def rest(self, file: int, claim: int) -> tuple[int, str]:
        """Return what remains of a claim beside a file, and the invariant that it breaks there."""
        if claim == NONE:
            return NONE, ""
        done = self.rests.get((file, claim))
        if done is None:
            value, thing = self.files.values[file], self.things.values[claim]
            assert thing is not None
            done = (
                self.things.of(self.model.forget_claim(value, thing)),
                self.model.claim_breaks(value, thing),
            )
            self.rests[file, claim] = done
        return done

    def forget(self, file: int) -> int:
        kept = self.forgets.get(file)
        if kept is None:
            kept = self.forgets[file] = self.files.of(
                self.model.forget_file(self.files.values[file])
            )
        return kept


def pack_two(one: int, other: int) -> int:
    """Return the same as `pack([one, other])`. Most states have two claims, and this is faster."""
    low, high = (one, other) if one < other else (other, one)
    return low | high << BITS if low else high


def pack(claims: list[int]) -> int:
    """Return the claims as one number. Each may be NONE."""
    packed = 0
    for number in sorted(claims, reverse=True):
        packed = packed << BITS | number if number else packed
    return packed


def describe(move: Move, slot: int) -> str:
    return move.what if slot < 0 else f"#{slot} {move.what}"
