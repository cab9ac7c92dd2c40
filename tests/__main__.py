"""The check command: `python -m tests [--static] [PYTEST ARGUMENT ...]`.

It runs the static checks, two at a time, and then pytest with the arguments. Every step runs, and
the command fails if one of them has failed. `--static` leaves out pytest. The checks of the page's
JavaScript run where Node.js and npm are installed. A check that could not run is named in the last
line.
"""

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
JAVASCRIPT: Final = ROOT / "tests" / "javascript"
TYPESCRIPT: Final = JAVASCRIPT / "node_modules" / "typescript" / "bin" / "tsc"
NODE_TYPES: Final = JAVASCRIPT / "node_modules" / "@types" / "node"
LINT_IMPORTS: Final = "from importlinter.cli import lint_imports_command; lint_imports_command()"
PYTHON: Final = sys.executable
INSTALL_SECONDS: Final = 300


def main(arguments: list[str]) -> int:
    """Run every step, and return 1 if one of them failed."""
    steps, not_run = choose_steps()
    with ThreadPoolExecutor(2) as threads:
        passed = dict(zip(steps, threads.map(run, steps, steps.values()), strict=True))
    if "--static" not in arguments:
        write_line("== pytest")
        tested = subprocess.run([PYTHON, "-m", "pytest", *arguments], cwd=ROOT, check=False)
        passed["pytest"] = tested.returncode == 0
    failed = [name for name, good in passed.items() if not good]
    end = f"failed: {', '.join(failed)}" if failed else "every step passed"
    write_line(end + "".join(f"; not run: {reason}" for reason in not_run))
    return 1 if failed else 0


def choose_steps() -> tuple[dict[str, list[str]], list[str]]:
    """Return the static checks, the slowest first, and why others cannot run here."""
    steps = {
        "mypy": [PYTHON, "-m", "mypy"],
        "ruff check": [PYTHON, "-m", "ruff", "check", "."],
        "ruff format": [PYTHON, "-m", "ruff", "format", "--check", "."],
        "import-linter": [PYTHON, "-c", LINT_IMPORTS],
        "language": [PYTHON, "-m", "tests.language"],
    }
    node = shutil.which("node")
    if node is None or not loads_modules(node):
        return steps, ["node --test and tsc (they need Node.js 20.19, or 22.7 and later)"]
    steps["node --test"] = [node, "--test", *map(str, sorted(JAVASCRIPT.glob("*.test.js")))]
    if reason := find_missing_compiler():
        return steps, [f"tsc ({reason})"]
    return steps | {"tsc": [node, str(TYPESCRIPT), "--noEmit", "-p", str(JAVASCRIPT)]}, []


def loads_modules(node: str) -> bool:
    """Return whether Node.js finds out by itself that a .js file is a module."""
    written = subprocess.run(
        [node, "--version"], capture_output=True, text=True, check=False
    ).stdout
    version = tuple(int(number) for number in re.findall(r"\d+", written)[:2])
    return (20, 19) <= version < (21, 0) or version >= (22, 7)


def find_missing_compiler() -> str | None:
    """Install TypeScript if it is missing, and return why that was not possible.

    The types of Node.js are installed with it.
    """
    npm = shutil.which("npm")
    if TYPESCRIPT.exists() and NODE_TYPES.exists():
        return None
    if npm is None:
        return "npm is not installed"
    options = ["--no-package-lock", "--no-audit", "--no-fund", "--fetch-retries=1"]
    try:
        ended = subprocess.run(
            [npm, "install", *options],
            cwd=JAVASCRIPT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"npm did not install TypeScript within {INSTALL_SECONDS} s"
    if ended.returncode == 0:
        return None
    errors = [line for line in ended.stdout.splitlines() if line.startswith("npm error")]
    return f"npm could not install TypeScript: {errors[0] if errors else ended.stdout}"


def run(name: str, command: list[str]) -> bool:
    """Run one step, write its output if it has failed, and return whether it succeeded."""
    ended = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if ended.returncode:
        write_line(f"== {name}: failed\n{ended.stdout.strip()}")
        return False
    write_line(f"== {name}: passed")
    return True


def write_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
