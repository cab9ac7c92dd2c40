"""Mutations of requests: of bytes, fields, numbers, line ends and segments.

Each mutation is a function of a seed. Mutations apply to templates with placeholders, so that a
case is the same in every run, regardless of the run's key and files.
"""

import itertools
import random
import re
from collections.abc import Callable, Sequence
from typing import Final

NUMBER: Final = re.compile(rb"[0-9]+|(?<=\n)[0-9A-Fa-f]{1,8}(?=[\r;])")
PIECES: Final = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\x00", b" ", b"\t", b":", b";", b",",
    b"0\r\n\r\n", b"5\r\nhello\r\n", b"chunked", b"gzip", b"Transfer-Encoding: chunked\r\n",
    b"\x0b", b"\xff", b"%00", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n",
    b"Connection: close\r\n", b"HTTP/1.0\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n",
    b"Host: h\r\n", b" chunked", b"HTTP/1.1\r\n",
    b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n",
)  # fmt: skip
NUMBERS: Final = (
    b"0", b"1", b"-1", b"+5", b"0x5", b"00005", b"5, 5", b"5 ", b"", b"ffffffff",
    b"10000000000000000", b"99999999999999999999", b"1e3", b"5;a", b"\xd9\xa5",
)  # fmt: skip
MOST_SEGMENTS: Final = 8

Mutation = Callable[[random.Random, bytes], bytes]


def flip_bytes(dice: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4))):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def insert_piece(dice: random.Random, data: bytes) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.choice(PIECES) + data[at:]


def insert_line(dice: random.Random, data: bytes) -> bytes:
    """Insert a piece at the beginning of a line, where it can be a field line."""
    starts = [found.end() for found in re.finditer(rb"\r\n", data)] or [0]
    at = dice.choice(starts)
    return data[:at] + dice.choice(PIECES) + data[at:]


def remove_bytes(dice: random.Random, data: bytes) -> bytes:
    at, count = dice.randrange(len(data)), dice.choice((1, 1, 2, 8, 40))
    return data[:at] + data[at + count :]


def cut_end(dice: random.Random, data: bytes) -> bytes:
    return data[: dice.randrange(len(data))]


def change_number(dice: random.Random, data: bytes) -> bytes:
    found = list(NUMBER.finditer(data))
    if not found:
        return data
    number = dice.choice(found)
    return data[: number.start()] + other_number(dice, number[0]) + data[number.end() :]


def other_number(dice: random.Random, text: bytes) -> bytes:
    if dice.random() < 0.5 or not text.isdigit():
        return dice.choice(NUMBERS)
    return b"%d" % max(0, int(text) + dice.choice((-2, -1, 1, 2, 5, int(text))))


def change_lines(dice: random.Random, data: bytes) -> bytes:
    """Delete, repeat, exchange or move lines."""
    lines = data.split(b"\r\n")
    one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    match dice.randrange(4):
        case 0:
            del lines[one]
        case 1:
            lines.insert(other, lines[one])
        case 2:
            lines[one], lines[other] = lines[other], lines[one]
        case _:
            lines.insert(other, lines.pop(one))
    return b"\r\n".join(lines)


def change_line_end(dice: random.Random, data: bytes) -> bytes:
    ends = [found.start() for found in re.finditer(rb"\r\n", data)]
    if not ends:
        return data
    at = dice.choice(ends)
    return data[:at] + dice.choice((b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\r\n ")) + data[at + 2 :]


MUTATIONS: Final[Sequence[Mutation]] = (
    flip_bytes,
    insert_piece,
    insert_line,
    remove_bytes,
    cut_end,
    change_number,
    change_number,
    change_lines,
    change_lines,
    change_line_end,
)


def mutate(dice: random.Random, seeds: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Return the segments of a new case, which consists of one to three mutated seeds."""
    count = dice.choice((1, 1, 1, 2, 3))
    data = b"".join(b"".join(dice.choice(seeds)) for _ in range(count))
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3))):
        data = dice.choice(MUTATIONS)(dice, data) or b"\r\n"
    return cut_segments(dice, data)


def cut_segments(dice: random.Random, data: bytes) -> list[bytes]:
    """Cut the data into segments, preferably near line ends, where parsers keep state."""
    ends = [found.end() for found in re.finditer(rb"\r\n|\n", data)]
    wanted = dice.choice((0, 0, 1, 1, 2, MOST_SEGMENTS - 1))
    cuts: set[int] = set()
    for _ in range(wanted):
        near = dice.choice(ends) + dice.choice((-1, 0, 1)) if ends and dice.random() < 0.6 else 0
        cuts.add(near if 0 < near < len(data) else dice.randrange(len(data)))
    edges = [0, *sorted(cuts - {0}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]
