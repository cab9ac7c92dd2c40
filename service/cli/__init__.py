"""The command line.

The module of a command is imported only when the command is called, so that `assay --help` is fast.
"""

import os
import sys
from inspect import getdoc
from typing import TYPE_CHECKING, Final

from cyclopts import App, Group, Parameter

from service.cli.client import STANDARD_STREAM
from service.cli.client.display import show
from service.cli.errors import CommandError
from service.cli.extras import describe_missing
from service.cli.standard_streams import OutputLost, StandardStreams

if TYPE_CHECKING:
    from cyclopts import CycloptsError


def find_version() -> str:
    # imported here, because it would add a third to the time of `assay --help`
    import importlib.metadata

    return importlib.metadata.version("assay")


def describe_error(error: "CycloptsError") -> str:
    """Return one line that says which argument is wrong.

    To describe an unknown command, Cyclopts would import the modules of all commands, which fails
    without the extra `server`.
    """
    from cyclopts import UnknownCommandError

    if isinstance(error, UnknownCommandError) and error.app is app and error.unused_tokens:
        return show(describe_unknown(error.unused_tokens[0]))
    return show(" ".join(str(error).split()))


def describe_unknown(command: str) -> str:
    import difflib

    close = difflib.get_close_matches(command, [*FILE_COMMANDS, *OPERATION_COMMANDS], n=1)
    guess = f' Did you mean "{close[0]}"?' if close else ""
    return f'Unknown command "{command}".{guess} `assay --help` lists all commands.'


app: Final = App(
    name="assay",
    help="Presigned uploads to MinIO that are proved before they can be read.",
    version=find_version,
    help_format="plaintext",  # importing a Markdown parser takes as long as the rest of rich
    default_parameter=Parameter(
        negative="", show_default=lambda value: value if value is not False else None
    ),  # no `--no-json` and the like
    suppress_keyboard_interrupt=False,  # main() handles KeyboardInterrupt
    print_error=False,  # main() prints one line, and Cyclopts would print a box
    exit_on_error=False,
)
WIDEST: Final = 10_000
FILES: Final = Group("Files", sort_key=0)
OPERATION: Final = Group("Operation", sort_key=1)
FILE_COMMANDS: Final = {
    "put": "Send files, folders or standard input.",
    "get": "Fetch files by id or by name.",
    "ls": "List your files, newest first.",
    "info": "Show all fields of files.",
    "rm": "Delete files, or cancel their uploads.",
    "share": "Create a link that works without a key.",
    "login": "Store a server's address and a key for these commands.",
}
"""The client's commands, for which `pip install assay` installs all packages."""
OPERATION_COMMANDS: Final = {
    "dev": "Run everything on this machine: database, store, API and worker.",
    "serve": "Run the API and, unless --no-worker is given, a worker.",
    "worker": "Run a worker alone.",
    "migrate": "Upgrade the database's schema to the newest version.",
    "bootstrap": "Create or correct the store's buckets, identities, policies and rules.",
    "sweep": "Remove leftovers that are due, now.",
    "scrub": "Read stored files again, or find objects that no row names.",
    "import": "Import the objects of another bucket of the same store.",
    "reconcile": "Make the database agree with the vault after one of them was restored.",
    "inspect": "Show the state of a file, why it waits, and what happens next.",
    "keys": "Create, list and revoke API keys.",
    "doctor": "Test this deployment.",
    "env": "Fill .env.example with random secrets.",
}
FUNCTIONS: Final = {"import": "importing:import_objects"}
"""The functions of commands whose names are keywords of Python."""
SERVER_COMMANDS: Final = OPERATION_COMMANDS.keys() - {"env"}
"""The commands that import packages of an extra."""

for command, summary in FILE_COMMANDS.items():
    app.command(f"service.cli.client.{command}:{command}", name=command, group=FILES, help=summary)
for command, summary in OPERATION_COMMANDS.items():
    function = FUNCTIONS.get(command, f"{command}:{command}")
    app.command(f"service.cli.{function}", name=command, group=OPERATION, help=summary)

WRONG_USE: Final = 2
SERVERS: Final = (["dev"], ["serve"], ["worker"])
"""The commands that run until Ctrl-C or SIGTERM, which is not an error."""


def main() -> None:
    """Run the command that the arguments name.

    Exit status: 1 if the command failed, if its output cannot be written or if its extra is not
    installed, 2 for wrong arguments or settings, 3 for a wrong schema, 130 if interrupted.
    docs/command-line.md lists those of the commands for files.
    """
    ignore_impossible_width()
    streams = StandardStreams.open()
    sys.exit(streams.end(run(sys.argv[1:])))


def ignore_impossible_width() -> None:
    """Remove COLUMNS from the environment if no terminal has this width.

    Help texts are wrapped, and lines padded, to that many columns.
    """
    columns = os.environ.get("COLUMNS", "")
    if not (columns.isdecimal() and columns.isascii() and 0 < int(columns[:9]) <= WIDEST):
        os.environ.pop("COLUMNS", None)


def run(arguments: list[str]) -> int:
    """Run the command, print its error, and return the exit status."""
    from cyclopts import CycloptsError

    try:
        describe_whole(arguments[:1])
        app([STANDARD_STREAM if argument == "-" else argument for argument in arguments])
    except SystemExit as ending:
        return read_status(ending)
    except KeyboardInterrupt:
        return 0 if arguments[:1] in SERVERS else 130
    except OutputLost:  # its reason is printed at the end
        return CommandError.status
    except CycloptsError as error:
        return complain(describe_error(error), WRONG_USE)
    except CommandError as error:
        return complain(str(error), error.status)
    except Exception as error:
        return complain(*explain(next(iter(arguments), ""), error))
    return 0


def describe_whole(words: list[str]) -> None:
    """Let the help of this command be its docstring, instead of its line in the list of commands.

    Cyclopts wraps only the first paragraph of a docstring, so each one is made one line here.
    """
    if not words or words[0] not in {*FILE_COMMANDS, *OPERATION_COMMANDS}:
        return
    command = app[words[0]]
    if command.default_command is not None:  # `keys` has commands of its own instead
        text, _, _ = (getdoc(command.default_command) or "").partition("\n\nParameters\n")
        command.help = "\n\n".join(" ".join(one.split()) for one in text.split("\n\n"))


def read_status(ending: SystemExit) -> int:
    """Return the status of an exit by Cyclopts or by a command."""
    if ending.code is None or isinstance(ending.code, int):
        return ending.code or 0
    return complain(str(ending.code), CommandError.status)


def complain(text: str, status: int) -> int:
    if text:  # otherwise it was printed already
        print(text, file=sys.stderr)
    return status


def explain(command: str, error: Exception) -> tuple[str, int]:
    """Return the text to print and the exit status.

    Raises the error again if only its traceback shows what is wrong.
    """
    if command not in SERVER_COMMANDS:
        from service.cli.client.exit_codes import explain as explain_ending

        ending = explain_ending(error)
        return str(ending), ending.status
    if missing := describe_missing(command, error):
        return missing, CommandError.status
    from service.cli.exit_status import (
        explain as explain_failure,
    )  # imported here, because it imports half of the server

    return explain_failure(error)
