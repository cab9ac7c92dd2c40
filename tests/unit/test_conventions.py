"""What the tools say of the source: part of the one test command, so that nobody has to remember them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = {
    "ruff check": ["-m", "ruff", "check", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "."],
    "mypy": ["-m", "mypy"],
    "import-linter": [
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
    ],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tools_agree(tool: str) -> None:
    run = subprocess.run(
        [sys.executable, *TOOLS[tool]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def find_imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of each module and of each name that the file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_no_module_imports_a_test_module() -> None:
    found = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "tests").rglob("*.py")
        for name in find_imports(path)
        if name.startswith("tests.")
        and any(
            part.startswith("test_")
            and (ROOT / "/".join(name.split(".")[: at + 1])).with_suffix(".py").exists()
            for at, part in enumerate(name.split("."))
        )
    }
    assert found == set()


def test_end_to_end_tests_import_nothing_of_the_benchmarks() -> None:
    found = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "tests" / "e2e").rglob("*.py")
        for name in find_imports(path)
        if name.startswith("tests.benchmarks")
    }
    assert found == set()
