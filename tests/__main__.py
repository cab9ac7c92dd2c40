"""The check command: `python -m tests [PYTEST ARGUMENT ...]`.

It runs the linters, the type checker and the import contracts, and then pytest with the arguments.
Every step runs, and the command fails if one of them has failed.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
LINT_IMPORTS: Final = "from importlinter.cli import lint_imports_command; lint_imports_command()"
STEPS: Final = {
    "ruff check": ["-m", "ruff", "check", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "."],
    "import-linter": ["-c", LINT_IMPORTS],
    "mypy": ["-m", "mypy"],
}


def main(arguments: list[str]) -> int:
    """Run every step, and return 1 if one of them failed."""
    failed = [name for name, command in STEPS.items() if not run(name, command)]
    if not run("pytest", ["-m", "pytest", *arguments]):
        failed.append("pytest")
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else "every step passed\n")
    return 1 if failed else 0


def run(name: str, command: list[str]) -> bool:
    """Run one step with the interpreter of this process, and return whether it succeeded."""
    sys.stdout.write(f"== {name}\n")
    sys.stdout.flush()
    return subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
