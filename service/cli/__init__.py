"""The command line. Each command lives in a module of its own that is imported when it is called: `assay --help` stays fast."""

import io
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from cyclopts import App, Group, Parameter

from service.cli.client import STANDARD_STREAM
from service.cli.errors import CommandError
from service.cli.extras import describe_missing

if TYPE_CHECKING:
    from cyclopts import CycloptsError


def find_version() -> str:
    import importlib.metadata  # a third of the time that `assay --help` takes without it

    return importlib.metadata.version("assay")


def format_error(error: "CycloptsError") -> Any:
    """Return the panel that says which argument is wrong.

    Cyclopts imports the modules of all commands to describe one that does not exist. Without the extra `server` that fails.
    """
    from cyclopts import CycloptsPanel, UnknownCommandError

    if isinstance(error, UnknownCommandError) and error.app is app and error.unused_tokens:
        return CycloptsPanel(describe_unknown(error.unused_tokens[0]))
    return CycloptsPanel(error)


def describe_unknown(command: str) -> str:
    import difflib

    close = difflib.get_close_matches(command, [*FILE_COMMANDS, *OPERATION_COMMANDS], n=1)
    guess = f' Did you mean "{close[0]}"?' if close else ""
    return f'Unknown command "{command}".{guess} `assay --help` lists all commands.'


app: Final = App(
    name="assay",
    help="Presigned uploads to MinIO that are proved before anyone can read them.",
    version=find_version,
    help_format="plaintext",  # a Markdown parser takes as long to import as the rest of rich
    default_parameter=Parameter(
        negative="", show_default=lambda value: value if value is not False else None
    ),  # no `--no-json`
    suppress_keyboard_interrupt=False,  # main() has its own end for it
    error_formatter=format_error,
)
FILES: Final = Group("Files", sort_key=0)
OPERATION: Final = Group("Operation", sort_key=1)
FILE_COMMANDS: Final = {
    "put": "Send files, folders or standard input.",
    "get": "Fetch files by id or by name.",
    "ls": "List your files, newest first.",
    "info": "Say all that is known of files.",
    "rm": "Delete files, or cancel their uploads.",
    "share": "Make a link that works without a key.",
    "login": "Keep a server's address and a key for the commands above.",
}
"""The client's commands, which `pip install assay` installs with all that they need."""
OPERATION_COMMANDS: Final = {
    "dev": "Run everything on this machine: database, store, API and worker.",
    "serve": "Run the API and, unless told otherwise, a worker.",
    "worker": "Run a worker alone.",
    "migrate": "Bring the database's schema to the newest version.",
    "bootstrap": "Make the store's buckets, identities, policies and rules, or mend them.",
    "sweep": "Remove what is left behind, now.",
    "inspect": "Say where a file stands, why it waits and what happens next.",
    "keys": "Make, list and revoke API keys.",
    "doctor": "Prove that this deployment works.",
    "env": "Fill .env.example with random secrets.",
}
"""The operator's commands."""
SERVER_COMMANDS: Final = OPERATION_COMMANDS.keys() - {"env"}
"""The commands that import packages of an extra."""

for command, summary in FILE_COMMANDS.items():
    app.command(f"service.cli.client.{command}:{command}", name=command, group=FILES, help=summary)
for command, summary in OPERATION_COMMANDS.items():
    app.command(f"service.cli.{command}:{command}", name=command, group=OPERATION, help=summary)

SERVERS: Final = (["dev"], ["serve"], ["worker"])
"""Ctrl-C and SIGTERM are how these are meant to end."""


def main() -> None:
    """Run the command that the arguments name.

    Exit status: 1 failed or the command's extra is not installed, 2 wrong arguments or settings, 3 wrong schema, 130 interrupted;
    docs/command-line.md has those of the commands for files.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a name that the terminal's encoding lacks is no reason to fail
    try:
        app([STANDARD_STREAM if argument == "-" else argument for argument in sys.argv[1:]])
    except KeyboardInterrupt:
        sys.exit(0 if sys.argv[1:2] in SERVERS else 130)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except CommandError as error:
        if str(error):  # else it was said already
            print(error, file=sys.stderr)
        sys.exit(error.status)
    except Exception as error:
        text, status = explain(next(iter(sys.argv[1:]), ""), error)
        print(text, file=sys.stderr)
        sys.exit(status)


def explain(command: str, error: Exception) -> tuple[str, int]:
    """Return the text to print and the exit status. Raises the error again when only its traceback says what is wrong."""
    if command not in SERVER_COMMANDS:
        from service.cli.client.exit_codes import explain as explain_ending

        ending = explain_ending(error)
        return str(ending), ending.status
    if missing := describe_missing(command, error):
        return missing, CommandError.status
    from service.cli.exit_status import (
        explain as explain_failure,
    )  # it imports half the server, for its errors

    return explain_failure(error)
