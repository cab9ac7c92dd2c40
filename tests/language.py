"""The check of the project's language: `python -m tests.language [--sample N] [--seed N]`.

It reads docstrings, comments, messages, names of tests and documents, and reports:

- words that the project does not use, because they hide which party acts or what is meant;
- docstrings that only point elsewhere, such as "(b)", or that only name an exception;
- docstrings of functions that do not begin with a verb in the imperative;
- lines of more than 100 characters, other than rows of tables and lines with one long address;
- names of tests of more than 70 characters.

`--sample N` prints N docstrings and N error texts, picked at random, for a person to read.
"""

import argparse
import ast
import io
import random
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
LONGEST_LINE: Final = 100
LONGEST_TEST_NAME: Final = 70
SUFFIXES: Final = frozenset(
    {
        ".conf",
        ".css",
        ".html",
        ".java",
        ".js",
        ".md",
        ".mjs",
        ".py",
        ".sh",
        ".toml",
        ".yaml",
        ".yml",
    }
)
NOT_READ: Final = ("service/web/swagger/", "tests/language.py", "tests/unit/test_language.py")
"""Code of other projects, and the files that quote the words that this module reports."""

NOT_USED: Final = {
    r"who(?:so)?ever|whomever|nobody|somebody|anybody|everybody|someone|anyone|everyone": (
        "name the caller, the client, the user or the process"
    ),
    r"whatever": "name what is meant",
    r"(?:of|by) (?:ours|theirs|yours|hers|his|its own accord)|(?<!/)ours(?!/)": (
        "name the owner: Assay, the client"
    ),
    r"(?:client|worker|process|server|caller|store|sweeper|database|thread|program|request)s?"
    r" who": ("a program is not a person: use `that`"),
    r"born|dear|trouble|for ever|so to speak|by and by|let alone": "use the standard term",
    r"Who (?!is\b|can\b|may\b)[a-z]+s\b(?![^.]*\?)": "name the user or the program",
}
"""Words that the project does not use, as regular expressions, with advice on what to write."""
WORDS: Final = [
    (re.compile(rf"\b(?:{words})\b", re.IGNORECASE if words[0] != "W" else 0), advice)
    for words, advice in NOT_USED.items()
]
POINTER: Final = re.compile(
    r"(?:[(\[]?\w[)\]]?|see .{1,20}|as above|the same|raises\b[^.]*)\.?", re.IGNORECASE
)
NO_VERB: Final = frozenset(
    [
        "a",
        "an",
        "the",
        "so",
        "for",
        "with",
        "without",
        "by",
        "what",
        "who",
        "whose",
        "which",
        "how",
        "whether",
        "every",
        "each",
        "one",
        "all",
        "no",
        "in",
        "on",
        "of",
        "to",
        "from",
        "only",
        "until",
        "as",
        "at",
        "if",
        "when",
        "where",
        "it",
        "its",
        "this",
        "these",
        "those",
        "their",
        "they",
        "both",
        "two",
        "three",
        "none",
        "nothing",
        "not",
        "also",
        "like",
        "raises",
        "because",
        "but",
        "and",
        "or",
        "there",
        "here",
        "after",
        "before",
        "between",
        "above",
        "below",
        "once",
        "twice",
        "at",
        "out",
        "over",
        "up",
        "down",
    ]
)
"""Words that do not begin the summary of a function's docstring."""
CODE: Final = re.compile(r"``?[^`\n]+``?")


class Text(NamedTuple):
    """A piece of text, with its kind and its first line."""

    kind: str
    line: int
    words: str


class Finding(NamedTuple):
    """A fault of a text, and its place."""

    path: Path
    line: int
    message: str


def list_files() -> list[Path]:
    """Return the text files that Git lists, without those of other projects."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    names = (name for name in listed if not name.startswith(NOT_READ))
    return [path for path in map(Path, names) if path.suffix in SUFFIXES and (ROOT / path).exists()]


def read_texts(path: Path, source: str) -> Iterator[Text]:
    """Yield the texts of a file that people read."""
    if path.suffix == ".py":
        yield from read_python(source)
    elif path.suffix == ".md":
        yield from read_document(source)
    else:
        yield from (
            Text("line", number, line) for number, line in enumerate(source.splitlines(), 1)
        )


def read_python(source: str) -> Iterator[Text]:
    """Yield comments, docstrings, other strings of several words, and names of tests."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text("comment", token.start[0], token.string)
    tree = ast.parse(source)
    kinds = {id(node): "error" for node in find_raised(tree)}
    kinds |= {id(node): kind for node, kind in find_docstrings(tree)}
    whole = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if id(node) not in whole and (words := read_string(node)) is not None:
            kind = kinds.get(id(node), "string")
            if kind in ("docstring", "summary") or " " in words:
                line = node.lineno  # type: ignore[attr-defined]  # an expression has a line
                yield Text(kind, line, words)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
            "test_"
        ):
            yield Text("test", node.lineno, node.name)


def read_string(node: ast.AST) -> str | None:
    """Return the words of a string, with `…` for each inserted value, or None for another node."""
    if isinstance(node, ast.JoinedStr):
        return "".join(read_string(part) or "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def find_docstrings(tree: ast.Module) -> Iterator[tuple[ast.expr, str]]:
    """Yield the docstrings, with their kinds.

    The docstring of a function is a summary. A string that follows an assignment, in a function as
    elsewhere, is the docstring of what is assigned.
    """
    for node in ast.walk(tree):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        body = getattr(node, "body", None)
        for at, statement in enumerate(body if isinstance(body, list) else ()):
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                yield statement.value, "summary" if is_function and at == 0 else "docstring"


def find_raised(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield every node inside a `raise` statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield from ast.walk(node.exc)


def read_document(source: str) -> Iterator[Text]:
    """Yield the lines of a document that are not code."""
    fenced = False
    for number, line in enumerate(source.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith(" " * 4):
            yield Text("line", number, line)


def check_file(path: Path, source: str) -> Iterator[Finding]:
    """Yield what is wrong in one file."""
    for number, line in enumerate(source.splitlines(), 1):
        if len(line) > LONGEST_LINE and not may_be_long(path, line):
            yield Finding(path, number, f"{len(line)} characters, at most {LONGEST_LINE}")
    for text in read_texts(path, source):
        yield from (Finding(path, text.line, message) for message in check_text(text))


def may_be_long(path: Path, line: str) -> bool:
    """Return whether the line cannot be shorter.

    It is then a row of a table, or has one long word, such as an address.
    """
    return (path.suffix == ".md" and line.startswith("|")) or max(
        map(len, line.split())
    ) > LONGEST_LINE - 20


def check_text(text: Text) -> Iterator[str]:
    words = text.words.replace("_", " ") if text.kind == "test" else CODE.sub("`code`", text.words)
    for pattern, advice in WORDS:
        yield from (f'"{match[0]}": {advice}' for match in pattern.finditer(words))
    if text.kind in ("docstring", "summary") and POINTER.fullmatch(words.strip()):
        yield f"a docstring that does not say what the code does: {words.strip()!r}"
    elif text.kind == "summary" and (words.split() or [""])[0].strip(",.:").lower() in NO_VERB:
        yield f"a function's docstring begins with a verb, as in 'Return …': {words.strip()[:40]!r}"
    if text.kind == "test" and len(text.words) - len("test_") > LONGEST_TEST_NAME:
        length = len(text.words) - len("test_")
        yield f"the name of a test has {length} characters, at most {LONGEST_TEST_NAME}"


def print_sample(texts: list[tuple[Path, Text]], *, size: int, seed: int) -> None:
    """Print docstrings and error texts, picked at random, with their places."""
    chosen = random.Random(seed)  # noqa: S311  # a sample for a reader, not a secret
    for kinds in ({"docstring", "summary"}, {"error"}):
        of_kind = [(path, text) for path, text in texts if text.kind in kinds]
        for path, text in chosen.sample(of_kind, min(size, len(of_kind))):
            sys.stdout.write(
                f"{path}:{text.line} ({text.kind})\n    {' '.join(text.words.split())}\n"
            )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.language", description="Check the project's language."
    )
    parser.add_argument(
        "--sample", type=int, metavar="N", help="print N docstrings and N error texts"
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="the seed of the random choice"
    )
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="check only these files and folders"
    )
    arguments = parser.parse_args()
    files = {
        path: (ROOT / path).read_text(encoding="utf-8")
        for path in list_files()
        if not arguments.paths or any(path.is_relative_to(wanted) for wanted in arguments.paths)
    }
    if arguments.sample is not None:
        texts = [
            (path, text) for path, source in files.items() for text in read_texts(path, source)
        ]
        print_sample(texts, size=arguments.sample, seed=arguments.seed)
        return 0
    findings = [finding for path, source in files.items() for finding in check_file(path, source)]
    for path, line, message in findings:
        sys.stdout.write(f"{path}:{line}: {message}\n")
    sys.stdout.write(f"{len(files)} files, {len(findings)} findings\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
