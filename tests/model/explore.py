"""A breadth-first search of the models, which finds the shortest traces first.

python -m tests.model.explore final|ablate|literal
                              [streamed|reserved|multipart|backing_off|restored|damaged]
                              [without=RULE,…] [NAME=VALUE …]
"""

import sys
import time
from array import array
from typing import Any, NamedTuple

from tests.model import backing_off, damaged, multipart, reserved, restored, rules, streamed
from tests.model.backing_off import BackingOff
from tests.model.damaged import DamagedFile
from tests.model.multipart import MultipartUpload
from tests.model.protocol import WayOfAFile
from tests.model.reserved import ReservedKey
from tests.model.restored import Restored
from tests.model.space import BROKEN, Space, describe
from tests.model.streamed import StreamedUpload
from tests.model.transitions import Model

EVERY_RULE = {
    "file": rules.RULES,
    "streamed": streamed.RULES,
    "multipart": multipart.RULES,
    "backing_off": backing_off.RULES,
    "reserved": reserved.RULES,
    "restored": restored.RULES,
    "damaged": damaged.RULES,
}
# The types of files and claims differ from model to model. A search only compares them.
AnyModel = Model[Any, Any]


class Found(NamedTuple):
    """The result of a search."""

    states: int
    edges: int
    broken: dict[str, list[str]]  # invariant: shortest trace
    stuck: int
    complete: bool


def search(model: AnyModel, *, stop: int = 1, liveness: bool = True, limit: int = 0) -> Found:
    """Search all reachable states.

    The search stops when `stop` different invariants are broken or `limit` states are seen.
    """
    space = Space(model)
    order, parent = [space.start()], array("q", [-1])
    index = {order[0]: 0}
    source, target = array("I"), array("I")  # the edges of the undisturbed run
    broken: dict[str, list[str]] = {}
    edges = at = 0
    while at < len(order) and not (limit and at >= limit):
        for move, slot, others in space.steps(order[at]):
            edges += 1
            state = space.follow(move, others)
            if state == BROKEN:
                bad = space.explain(move, others)
                if bad not in broken:
                    broken[bad] = [*trace(space, order, parent, at), describe(move, slot)]
                    if len(broken) >= stop:
                        return Found(len(order), edges, broken, 0, False)
                continue
            number = index.get(state)
            if number is None:
                number = index[state] = len(order)
                order.append(state)
                parent.append(at)
            if move.good and liveness and number != at:
                source.append(at)
                target.append(number)
        at += 1
    complete = at == len(order)
    stuck = unsettled(space, order, source, target) if liveness and complete else []
    if stuck:
        broken["stuck: cannot reach a settled state"] = [
            *trace(space, order, parent, stuck[0]),
            str(space.parts(order[stuck[0]])),
        ]
    return Found(len(order), edges, broken, len(stuck), complete)


def unsettled(
    space: Space[Any, Any], order: list[int], source: "array[int]", target: "array[int]"
) -> list[int]:
    """Return the states from which no undisturbed run leads to a settled state.

    Uses backward reachability over the kept edges.
    """
    count = len(order)
    first = array("Q", bytes(8 * (count + 1)))
    for t in target:
        first[t + 1] += 1
    for k in range(count):
        first[k + 1] += first[k]
    fill, back = array("Q", first), array("I", bytes(4 * len(source)))
    for s, t in zip(source, target, strict=True):
        back[fill[t]] = s
        fill[t] += 1
    seen = bytearray(count)
    todo = [k for k in range(count) if space.model.settled(*space.parts(order[k]))]
    for k in todo:
        seen[k] = 1
    while todo:
        k = todo.pop()
        for edge in range(first[k], first[k + 1]):
            if not seen[back[edge]]:
                seen[back[edge]] = 1
                todo.append(back[edge])
    return [k for k in range(count) if not seen[k]]


def trace(space: Space[Any, Any], order: list[int], parent: "array[int]", at: int) -> list[str]:
    path = []
    while parent[at] >= 0:
        up = parent[at]
        path.append(
            next(
                describe(move, slot)
                for move, slot, others in space.steps(order[up])
                if space.follow(move, others) == order[at]
            )
        )
        at = up
    return path[::-1]


def show(title: str, found: Found, seconds: float) -> None:
    size = (
        f"{found.states:,} states, {found.edges:,} transitions"
        f"{'' if found.complete else ' (not all)'}, {seconds:.0f} s"
    )
    print(
        f"\n== {title}: {size}, {found.stuck:,} stuck, {len(found.broken)} violations", flush=True
    )
    for bad, path in found.broken.items():
        print(f"  {bad}")
        for number, what in enumerate(path, 1):
            print(f"    {number:2}. {what}")


def build(kind: str, names: frozenset[str], bounds: dict[str, int]) -> AnyModel:
    if kind == "streamed":
        return StreamedUpload(streamed.Config(names))
    if kind == "multipart":
        return MultipartUpload(multipart.Config(names))
    if kind == "backing_off":
        return BackingOff(backing_off.Config(names))
    if kind == "reserved":
        return ReservedKey(reserved.Config(names))
    if kind == "damaged":
        return DamagedFile(damaged.Config(names))
    if kind == "restored":
        return Restored(restored.Config(names, **bounds))
    return WayOfAFile(rules.Config(rules=names, **bounds))


def main(arguments: list[str]) -> None:
    mode, *rest = arguments or ["final"]
    kind = next((word for word in rest if word in EVERY_RULE), "file")
    options = dict(option.split("=") for option in rest if "=" in option)
    every = EVERY_RULE[kind]
    without = frozenset(filter(None, options.pop("without", "").split(",")))
    stop, limit = int(options.pop("stop", "1")), int(options.pop("limit", "0"))
    bounds = {name: int(value) for name, value in options.items()}
    if mode == "ablate":
        runs = {
            f"without {rule} ({meaning})": frozenset(every) - without - {rule}
            for rule, meaning in every.items()
        }
    elif mode == "literal":
        runs = {"none of the rules": frozenset()}
        stop, limit = max(stop, 99), limit or 500_000
    else:
        runs = {
            f"all rules without {sorted(without)}" if without else "all rules": frozenset(every)
            - without
        }
    for title, names in runs.items():
        began = time.monotonic()
        show(
            f"{kind} {bounds}, {title}",
            search(build(kind, names, bounds), stop=stop, limit=limit),
            time.monotonic() - began,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
