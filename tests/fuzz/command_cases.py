"""The cases of the command fuzzer: files, arguments, standard streams and an environment.

Hypothesis draws them. A case is a function of the seed and its number, except for the ids of files,
which the server chooses. Arguments name them by placeholders.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from hypothesis import strategies as st

ID: Final = b"\0id%d"
"""The placeholder for the id of a file of this run. No argument can contain a NUL."""
FILE_NAMES: Final = (
    b"a", b"a.txt", b"b.tar.gz", b"c d", "é ü.txt".encode(), b"caf\xe9", b"-", b"--", b"-r",
    b"--name", b".hidden", b"new\nline", b"\x1b[2J", b"back\\slash", b"CON", b"a*", b"*", b"~",
    b"0198f1c2-0000-7000-8000-000000000000", b"d41d8cd98f00b204e9800998ecf8427e", b"ab" * 32,
    b"n" * 255, "\u202egpj.exe".encode(), "😀".encode() * 63, b"%41%zz", b"a?b=c&d#e", b"\xff\xfe",
)  # fmt: skip
FOLDERS: Final = (b"f", b"f/g", b"f/.git", b"f/caf\xe9", b"f/" + b"d/" * 300 + b"e", b"f/x" * 40)
SIZES: Final = (0, 1, 5, 4096, 65_536, 65_537, 1_048_576, 3_000_000)
LARGE: Final = 33 * 1024**2
"""The size of a file that is sent in parts, with a journal."""
MODES: Final = (0o644, 0o600, 0o755, 0o400, 0o000, 0o666)
TIMES: Final = (
    0,
    1,
    -1,
    1_700_000_000,
    -(2**31),
    2**31,
    9_223_372_037,
    15_032_385_535,
    2**34,
    2**40,
)
SPECIAL: Final = (
    b"/proc/version", b"/proc/self/mem", b"/dev/null", b"/proc/self/fd/0", b".",
    b"/nowhere/at/all", b"/dev/stdin", b"f", b"link", b"loop", b"gone", b"/sys/kernel/profiling",
    b"/etc/shadow/x", b"",
)  # fmt: skip
"""Paths whose bytes end, and no folder outside of the case's own, which is `.`."""
NUMBERS: Final = (
    b"0", b"1", b"2", b"3", b"1000", b"-1", b"257", b"1e9", b"0x10", b"9" * 30, b"9" * 5000, b"",
    b"1.5", "٣".encode(), b"nan", b" 1",
)  # fmt: skip
SPANS: Final = (
    b"1s",
    b"5s",
    b"1h",
    b"7d",
    b"8d",
    b"0",
    b"-1h",
    b"999999999d",
    b"soon",
    b"",
    b"\xff",
)
MOMENTS: Final = (
    b"2h", b"2026-01-31", b"0001-01-01", b"9999-12-31T23:59:59-23:59", b"999999999d", b"now",
    b"2026-13-01", b"2026-01-31T12:00:00Z", b"\xe9", b"-1", b"",
)  # fmt: skip
TEXTS: Final = (
    b"text/plain", b"a=b", b"=", b"a", b"path=x", b"image/png; q=1", b"..", b"a/b", b"C:x",
    b"a\tb", b"x" * 5000, b"=?utf-8?q?x?=", b"\xed\xa0\x80",
)  # fmt: skip


class Stream(Enum):
    """The state in which a standard stream is passed to the command."""

    PLAIN = "plain"
    CLOSED = "closed"
    FULL = "full"
    """The device on which no byte can be written. For standard input, it is an endless source,
    so that it is not used there."""
    SLOW = "slow"
    """A non-blocking pipe, whose other end is not ready at first."""
    ENDED = "ended"
    """A pipe whose other end is closed."""


@dataclass(frozen=True)
class LocalFile:
    """A file of the case's folder. `seed` and `size` determine its bytes."""

    path: bytes
    size: int
    mode: int
    seconds: int
    seed: int

    def content(self) -> bytes:
        block = hashlib.sha256(b"%d" % self.seed).digest() * 1024
        return (block * (self.size // len(block) + 1))[: self.size]


@dataclass(frozen=True)
class Case:
    """One call of the command."""

    files: Sequence[LocalFile]
    arguments: Sequence[bytes]
    given: bytes
    streams: tuple[Stream, Stream, Stream]
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def command(self) -> bytes:
        return self.arguments[0] if self.arguments else b""

    @property
    def needs_interpreter(self) -> bool:
        """Return whether the case concerns what Python does when it starts and ends."""
        names = ("PYTHON", "LC_", "LANG")
        return (
            Stream.CLOSED in self.streams
            or Stream.FULL in self.streams
            or any(name.startswith(names) for name in self.environ)
        )

    @property
    def shape(self) -> tuple[object, ...]:
        """Return what two cases of one kind have in common."""
        options = [word for word in self.arguments if word.startswith(b"-")]
        return (self.command, *sorted(options), *self.streams)

    def has(self, *options: bytes) -> bool:
        return any(option in self.arguments for option in options)


names = st.one_of(
    st.sampled_from(FILE_NAMES),
    st.binary(min_size=1, max_size=40).map(lambda raw: raw.translate(None, b"/\0") or b"x"),
    st.text(min_size=1, max_size=20)
    .map(lambda text: text.encode("utf-8", "surrogatepass").translate(None, b"/\0") or b"x")
).filter(lambda name: name not in (b".", b".."))  # fmt: skip
sizes = st.one_of(*[st.sampled_from(SIZES)] * 9, st.sampled_from((*SIZES, LARGE)))
folders = st.one_of(st.just(b""), st.just(b""), st.sampled_from(FOLDERS))
local_files = st.builds(
    lambda folder, name, size, mode, seconds, seed: LocalFile(
        folder + b"/" + name if folder else name, size, mode, seconds, seed
    ),
    folders,
    names,
    sizes,
    st.sampled_from(MODES),
    st.sampled_from(TIMES),
    st.integers(0, 50),
)
ids = st.integers(0, 5).map(lambda number: ID % number)
anything = st.one_of(names, st.sampled_from(TEXTS), st.sampled_from(NUMBERS))


def mostly(good: Sequence[bytes], bad: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Draw a valid value nine times in ten, because an invalid one ends the command at once."""
    return st.integers(0, 9).flatmap(lambda dice: st.sampled_from(bad if dice == 7 else good))


def option(name: bytes, values: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Draw an option with its value, in one argument or in two."""
    return st.builds(
        lambda value, joined: [name + b"=" + value] if joined else [name, value],
        values,
        st.booleans(),
    )


def flags(*given: bytes) -> list[st.SearchStrategy[list[bytes]]]:
    return [st.just([flag]) for flag in given]


AWAY: Final = [b"--url", b"http://127.0.0.1:1", b"--retry-for", b"1s"]
SERVER_OPTIONS: Final = [
    st.just(AWAY),
    option(b"--url", st.sampled_from((b"http://\xe9", b"ftp://a", b"", b"/"))),
    option(
        b"--key-file", st.sampled_from((b"/dev/null", b"/nowhere", b".", b"", b"/proc/version"))
    ),
    option(b"--retry-for", st.sampled_from(SPANS)),
]
"""One option of this list is drawn seldom, because most of them end the command at once."""
OPTIONS: Final[Mapping[bytes, Sequence[st.SearchStrategy[list[bytes]]]]] = {
    b"put": [
        *flags(b"-r", b"--force", b"--json", b"--quiet"),
        option(b"--type", mostly((b"text/plain", b"image/png; q=1"), TEXTS)),
        option(b"--meta", mostly((b"a=b", b"x=\xc3\xa9"), TEXTS)),
        option(b"--jobs", mostly((b"1", b"3"), NUMBERS)),
    ],
    b"get": [
        *flags(b"-r", b"--force", b"--by-name", b"--hidden", b"--json", b"-q"),
        option(b"-o", st.sampled_from((b"-", b"out/", b"out", b"a", b"/dev/null", b"a/b/c/"))),
        option(
            b"-o", st.one_of(names, st.sampled_from((b"/dev/full", b"/proc/x/y", b"", b"link")))
        ),
        option(b"--jobs", mostly((b"1", b"3"), NUMBERS)),
    ],
    b"ls": [
        *flags(b"--json", b"--sha256"),
        option(b"--state", mostly((b"ready", b"deleted", b"rejected"), (b"x", b"\xe9", b""))),
        option(b"--name", names),
        option(b"--type", mostly((b"text/plain", b"image/png; q=1"), TEXTS)),
        option(b"--hash", st.sampled_from((b"ab" * 32, b"zz", b"\xff"))),
        option(b"--since", mostly((b"2h", b"2026-01-31"), MOMENTS)),
        option(b"--before", mostly((b"2h", b"2026-01-31"), MOMENTS)),
        option(b"--limit", mostly((b"1", b"3"), NUMBERS)),
    ],
    b"info": flags(b"--json"),
    b"rm": flags(b"--json", b"--quiet"),
    b"share": [*flags(b"--json", b"--inline"), option(b"--expires", mostly((b"5s", b"1h"), SPANS))],
    b"login": [],
}
SINGLE: Final = [
    option(b"--name", names),
    option(b"--sha256", mostly((b"ab" * 32,), (b"zz", b"", b"\xff"))),
]
"""The options of `put` that apply to one file."""
WORDS: Final[Mapping[bytes, tuple[int, int]]] = {
    b"put": (1, 4), b"get": (0, 4), b"ls": (0, 0), b"info": (1, 3), b"rm": (1, 2), b"share": (1, 1),
    b"login": (0, 1), b"nope": (0, 2),
}  # fmt: skip
"""How many arguments that are no options a command gets."""
WEIGHTED: Final = (
    *[b"put"] * 8,
    *[b"get"] * 6,
    b"ls",
    b"info",
    b"rm",
    b"share",
    b"login",
    b"nope",
    b"",
)
ENVIRONMENTS: Final[Sequence[Mapping[str, str]]] = (
    {}, {}, {}, {"PYTHONUNBUFFERED": "1"}, {"HOME": ""}, {"HOME": "/dev/null"}, {"HOME": "/proc"},
    {"HOME": "x"}, {"LANG": "xx_YY"}, {"LC_ALL": "C"}, {"COLUMNS": "0", "TERM": "dumb"},
    {"COLUMNS": "99999999999"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"},
    {"XDG_STATE_HOME": "/proc/x"}, {"XDG_CONFIG_HOME": "/dev/null"}, {"TZ": "Nowhere"},
    {"PATH": ""},
)  # fmt: skip


def choose(draw: st.DrawFn, *weighted: tuple[int, st.SearchStrategy[bytes]]) -> bytes:
    """Draw from one of the strategies, by their weights, which add up to ten."""
    dice = draw(st.integers(0, 9))
    for weight, strategy in weighted:
        dice -= weight
        if dice < 0:
            return draw(strategy)
    raise ValueError("the weights do not add up to ten")


@st.composite
def free_words(draw: st.DrawFn, command: bytes, files: Sequence[LocalFile]) -> bytes:
    """Draw an argument that is no option."""
    if command == b"put":
        local = st.sampled_from([file.path for file in files] or [b"a"])
        folders = st.sampled_from((b"f", b"f/", b".", b"./f"))
        special = st.sampled_from((*SPECIAL, b"-", b"-"))
        return choose(draw, (6, local), (1, folders), (2, special), (1, names))
    if command == b"get":
        patterns = st.sampled_from((b"a*", b"*", b".*", b"f", b"f/g", b"f/.git", b""))
        return choose(draw, (6, st.sampled_from(FILE_NAMES)), (2, ids), (1, patterns), (1, names))
    if command == b"login":
        return draw(st.sampled_from((b"http://127.0.0.1:1", b"x", b"http://[", b"")))
    return choose(draw, (8, ids), (2, anything))


@st.composite
def arguments(draw: st.DrawFn, files: Sequence[LocalFile]) -> list[bytes]:
    command = draw(st.sampled_from(WEIGHTED))
    least, most = WORDS.get(command, (0, 2))
    count = draw(st.integers(least, most))
    words = [[draw(free_words(command, files))] for _ in range(count)]
    options = list(OPTIONS.get(command, flags(b"--help")))
    options += SINGLE if command == b"put" and count == 1 else []
    chosen = draw(st.sets(st.integers(0, len(options)), max_size=3))
    words += [draw(options[index]) for index in sorted(chosen) if index < len(options)]
    if draw(st.integers(0, 29)) == 17 and command in OPTIONS:  # 0 would be drawn more often
        words.append(draw(st.one_of(SERVER_OPTIONS)))
    ordered = draw(st.permutations(words))
    return [argument for word in ([command] if command else [], *ordered) for argument in word]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    files = draw(st.lists(local_files, max_size=5, unique_by=lambda file: file.path))
    outputs = st.sampled_from([Stream.PLAIN] * 6 + list(Stream))
    inputs = st.sampled_from([Stream.PLAIN, Stream.PLAIN, Stream.SLOW, Stream.CLOSED, Stream.ENDED])
    return Case(
        files=files,
        arguments=draw(arguments(files)),
        given=draw(st.one_of(st.binary(max_size=100), st.sampled_from((bytes(70_000), b"key\n")))),
        streams=(draw(inputs), draw(outputs), draw(outputs)),
        environ=draw(st.sampled_from(ENVIRONMENTS)),
    )
