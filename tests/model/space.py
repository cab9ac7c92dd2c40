"""The states of a model as numbers.

A state is one int, and each step of a file or of a claim is computed only once.
"""

from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

from tests.model.transitions import C, F, Model, Step

BITS = 20  # the bits of a claim's number inside a state
NONE = 0  # the number of "no claim"
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


class Move(NamedTuple):
    """A step with its file and its claim as numbers."""

    what: str
    good: bool
    file: int
    claim: int
    others: str
    bad: str


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

    def steps(self, state: int) -> Iterator[tuple[str, bool, int, str]]:
        """Yield what happens and the next state, for every step from this state.

        Also yield whether the step belongs to the undisturbed run, and the broken invariant or an
        empty string.
        """
        file, claims = state >> self.shift, self.numbers(state)
        may = self.claimable.get(state & self.low)
        if may is None:
            may = len(claims) < self.model.claims and self.model.claimable(self.parts(state)[1])
            self.claimable[state & self.low] = may
        for move in self.moves_of_file(file, may):
            yield self.follow(file, move, claims)
        for i, claim in enumerate(claims):
            others = claims[:i] + claims[i + 1 :]
            for move in self.moves_of_claim(file, claim):
                what, good, after, bad = self.follow(file, move, others)
                yield f"#{i} {what}", good, after, bad

    def follow(self, file: int, move: Move, others: list[int]) -> tuple[str, bool, int, str]:
        bad, after = move.bad, []
        for claim in others:
            left = claim
            if move.others:
                left, broken = self.touched(move.others, left)
                bad = bad or broken
            if move.others or move.file != file:
                left, broken = self.rest(move.file, left)
                bad = bad or broken
            if left:
                after.append(left)
        left, broken = self.rest(move.file, move.claim)
        if left:
            after.append(left)
        after.sort()
        state = self.forget(move.file) << self.shift
        for slot, claim in enumerate(after):
            state |= claim << BITS * slot
        return move.what, move.good, state, bad or broken

    def moves_of_file(self, file: int, may: bool) -> list[Move]:
        moves = self.file_moves.get((file, may))
        if moves is None:
            value = self.files.values[file]
            moves = self.file_moves[file, may] = [
                self.move(value, s) for s in self.model.file_steps(value, may)
            ]
        return moves

    def moves_of_claim(self, file: int, claim: int) -> list[Move]:
        moves = self.claim_moves.get((file, claim))
        if moves is None:
            value, thing = self.files.values[file], self.things.values[claim]
            assert thing is not None
            moves = self.claim_moves[file, claim] = [
                self.move(value, s) for s in self.model.claim_steps(value, thing)
            ]
        return moves

    def move(self, before: F, step: Step[F, C]) -> Move:
        bad = step.bad or self.model.file_breaks(before, step.file)
        return Move(
            step.what,
            step.good,
            self.files.of(step.file),
            self.things.of(step.claim),
            step.others,
            bad,
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
