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
    b"/proc/version", b"/proc/self/mem", b"/dev/null", b"/dev/full", b"/proc/self/fd/0", b".",
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
    return st.integers(0, 9).flatmap(lambda dice: st.sampled_from(good if dice else bad))


def option(name: bytes, values: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Draw an option with its value, in one argument or in two."""
    return st.builds(
        lambda value, joined: [name + b"=" + value] if joined else [name, value],
        values,
        st.booleans(),
    )


def flags(*given: bytes) -> list[st.SearchStrategy[list[bytes]]]:
    return [st.just([flag]) for flag in given]


SERVER_OPTIONS: Final = [
    option(
        b"--url", st.sampled_from((b"http://127.0.0.1:1", b"http://\xe9", b"ftp://a", b"", b"/"))
    ),
    option(
        b"--key-file", st.sampled_from((b"/dev/null", b"/nowhere", b".", b"", b"/proc/version"))
    ),
    option(b"--retry-for", st.sampled_from(SPANS)),
]
"""One option of this list is drawn seldom, because most of them end the command at once."""
OPTIONS: Final[Mapping[bytes, Sequence[st.SearchStrategy[list[bytes]]]]] = {
    b"put": [
        *flags(b"-r", b"-r", b"--recursive", b"--force", b"--json", b"--quiet", b"-q"),
        option(b"--name", names),
        option(b"--type", mostly((b"text/plain", b"image/png; q=1"), TEXTS)),
        option(b"--meta", mostly((b"a=b", b"x=\xc3\xa9"), TEXTS)),
        option(b"--sha256", mostly((b"ab" * 32,), (b"zz", b"", b"\xff"))),
        option(b"--jobs", mostly((b"1", b"3"), NUMBERS)),
    ],
    b"get": [
        *flags(b"-r", b"--recursive", b"--force", b"--by-name", b"--hidden", b"--json", b"-q"),
        *[
            option(
                b"-o",
                st.one_of(
                    names,
                    names.map(lambda name: name + b"/"),
                    st.sampled_from(
                        (b"-", b"/dev/null", b"/dev/full", b"/proc/x/y", b"", b"a/b/c")
                    ),
                ),
            )
        ]
        * 3,
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
FREE: Final[Mapping[bytes, st.SearchStrategy[bytes]]] = {
    b"info": st.one_of(ids, ids, ids, anything),
    b"rm": st.one_of(ids, ids, anything),
    b"share": st.one_of(ids, ids, ids, anything),
    b"login": st.sampled_from((b"http://127.0.0.1:1", b"x", b"http://[", b"")),
    b"ls": st.nothing(),
}
WEIGHTED: Final = (b"put", b"put", b"put", b"get", b"get", b"get", b"ls", b"info", b"rm", b"share",
    b"login", b"nope", b"")  # fmt: skip
ENVIRONMENTS: Final[Sequence[Mapping[str, str]]] = (

    {}, {}, {}, {"PYTHONUNBUFFERED": "1"}, {"HOME": ""}, {"HOME": "/dev/null"}, {"HOME": "/proc"},
    {"HOME": "x"}, {"LANG": "xx_YY"}, {"LC_ALL": "C"}, {"COLUMNS": "0", "TERM": "dumb"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"},
    {"XDG_STATE_HOME": "/proc/x"}, {"XDG_CONFIG_HOME": "/dev/null"}, {"TZ": "Nowhere"},
    {"PATH": ""},
)  # fmt: skip


@st.composite
def arguments(draw: st.DrawFn, files: Sequence[LocalFile]) -> list[bytes]:
    command = draw(st.sampled_from(WEIGHTED))
    local = st.sampled_from([file.path for file in files] or [b"a"])
    free = {
        b"put": st.one_of(local, local, st.sampled_from((*SPECIAL, b"-")), names),
        b"get": st.one_of(local.map(lambda path: path.split(b"/")[-1]), ids, names, st.just(b"f")),
        **FREE,
    }.get(command, anything)
    words = (
        []
        if free.is_empty
        else [
            [word]
            for word in draw(st.lists(free, min_size=1, max_size=1 if command == b"share" else 4))
        ]
    )
    chosen = (
        draw(st.lists(st.sampled_from(OPTIONS.get(command, flags(b"--help"))), max_size=3))
        if (OPTIONS.get(command, [1]))
        else []
    )
    words += [draw(each) for each in chosen]
    if draw(st.integers(0, 19)) == 0 and command in OPTIONS:
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
