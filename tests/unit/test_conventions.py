"""Rules for the imports of the tests."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


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
