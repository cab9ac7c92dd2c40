"""The paths and commands that documents and comments name, compared with the tree.

A path is a name that begins with a folder of the project, such as `service/model.py`. A bare file
name, such as `model.py`, must be that of a file in the tree. A dotted name in quotes, such as
`service.model.File`, must be that of a module or of something in a module. A block of a document
that is indented by four spaces and begins with a folder is a drawing of that folder.
"""

import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from service.cli import FILE_COMMANDS, OPERATION_COMMANDS

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = (".ci", ".github", "assay", "docs", "migrations", "service", "tests")
ROOT_FILES: Final = (
    ".env.example",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Dockerfile",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "compose.yaml",
    "pyproject.toml",
)
SUFFIXES: Final = frozenset(
    {"", ".py", ".md", ".js", ".mjs", ".html", ".css", ".conf", ".sh", ".java", ".mako"}
)
NOT_READ: Final = (
    Path("service/web/swagger"),
    Path("tests/javascript/node_modules"),
    Path("tests/unit/test_references.py"),
    Path("tests/unit/test_language.py"),
)
"""The code of other projects, and the examples in these two files."""
PATH: Final = re.compile(r"(?<![\w./~-])(?:service|tests|assay|migrations|docs)/[\w./-]*\w")
NAME: Final = re.compile(
    r"(?<![\w/.*$}{-])[\w-]+\.(?:py|js|mjs|md|html|css|conf|yaml|toml|sh)\b(?![./(])"
)
DRAWN_FOLDER: Final = re.compile(r" {4}(\w+(?:/\w+)*)/(?:\s|$)")
DRAWN_ENTRY: Final = re.compile(r"(?<!\S)[\w-]+(?:/[\w-]+)*(?:\.(?:py|js|css|html)|/)(?=[\s,;]|$)")
DOTTED: Final = re.compile(
    r"(?:(?<=python -m )|(?<=[\"`]))(?:service|assay|tests)(?:\.\w+)+(?=[\"`:\s]|$)"
)
COMMAND: Final = re.compile(r"(?<=`assay )[a-z]\w*")
ELSEWHERE: Final = {
    "service/migrations": "the place of `migrations` in the wheel",
    "service/migrations/env.py": "the place of `migrations` in the wheel",
    "pip.conf": "a file of the user",
    "postgresql.conf": "a file of PostgreSQL",
    "Node.js": "a program",
    "assay.conf": "a file that a test writes for nginx",
    "nothing.js": "a missing file that a test requests",
    "2findex.html": "the end of `..%2findex.html`",
    "assay.test": "a host name of tests",
    "service.nothing": "a module that is missing, in a test",
}
"""Names that are not files of the tree, with the reason."""


def list_files() -> Iterator[Path]:
    """Yield the text files of the project, relative to its root."""
    yield from (Path(name) for name in ROOT_FILES)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES:
                yield path.relative_to(ROOT)


FILES: Final = tuple(list_files())
NAMES: Final = {path.name for path in FILES}
TEXTS: Final = {
    path: (ROOT / path).read_text(encoding="utf-8")
    for path in FILES
    if not any(path.is_relative_to(other) for other in NOT_READ)
}


def find_dead(text: str) -> set[str]:
    """Return the paths, names of files and dotted names in the text that do not exist."""
    paths = {path for path in PATH.findall(text) if not (ROOT / path).exists()}
    names = {name for name in NAME.findall(text) if name not in NAMES}
    dotted = {name for name in DOTTED.findall(text) if not can_be_resolved(name)}
    return (paths | names | dotted) - ELSEWHERE.keys()


def can_be_resolved(name: str) -> bool:
    """Return whether the dotted name is that of a module, or of something in a module."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def list_drawn(text: str) -> set[str]:
    """Return the paths that the drawings of folders in a document show."""
    drawn, folder = set(), None
    for line in text.splitlines():
        if match := DRAWN_FOLDER.match(line):
            folder = match[1]
            drawn.add(folder)
        elif folder is not None and line.startswith(" " * 6):
            drawn |= {f"{folder}/{entry.rstrip('/')}" for entry in DRAWN_ENTRY.findall(line)}
        else:
            folder = None
    return drawn


def test_every_path_that_a_text_names_exists() -> None:
    dead = {str(path): found for path, text in TEXTS.items() if (found := find_dead(text))}
    assert dead == {}


def test_every_command_that_a_text_names_exists() -> None:
    named = {
        command: str(path) for path, text in TEXTS.items() for command in COMMAND.findall(text)
    }
    assert len(named) >= len(OPERATION_COMMANDS)
    assert {
        command: path
        for command, path in named.items()
        if command not in {*FILE_COMMANDS, *OPERATION_COMMANDS}
    } == {}


@pytest.mark.parametrize(
    ("document", "least"), [("docs/architecture.md", 25), ("docs/page.md", 12)]
)
def test_every_file_that_a_drawing_shows_exists(document: str, least: int) -> None:
    drawn = list_drawn(TEXTS[Path(document)])
    assert len(drawn) >= least
    assert {path for path in drawn if not (ROOT / path).exists()} == set()


def test_the_drawing_shows_every_package_and_module_of_the_service() -> None:
    drawn = list_drawn(TEXTS[Path("docs/architecture.md")])
    packages = {
        path.name for path in (ROOT / "service").iterdir() if (path / "__init__.py").exists()
    }
    modules = {
        path.name for path in (ROOT / "service").glob("*.py") if not path.name.startswith("__")
    }
    assert {f"service/{name}" for name in packages | modules} <= drawn


def test_a_dead_reference_is_found() -> None:
    assert find_dead(
        'service/uploads/nothing.py, `gone.md`, "service.model.NOTHING" and python -m tests.nothing'
    ) == {
        "service/uploads/nothing.py",
        "gone.md",
        "service.model.NOTHING",
        "tests.nothing",
    }
    assert (
        find_dead(
            "see service/model.py, model.py, service/http and python -m tests.benchmarks;"
            " ~/.config/assay/login.json"
        )
        == set()
    )
    assert list_drawn("    service/\n      nothing.py, cli/   text\n    end.py") == {
        "service",
        "service/nothing.py",
        "service/cli",
    }
