"""The command line. Each command lives in a module of its own that is imported when it is called: `assay --help` stays fast."""

import io
import os
import sys
from typing import Final

from cyclopts import App, Group, Parameter

from service.cli.client import STANDARD_STREAM
from service.cli.errors import CommandError


def find_version() -> str:
    import importlib.metadata  # a third of the time that `assay --help` takes without it

    return importlib.metadata.version("assay")


app: Final = App(
    name="assay",
    help="Presigned uploads to MinIO that are proved before anyone can read them.",
    version=find_version,
    help_format="plaintext",  # a Markdown parser takes as long to import as the rest of rich
    default_parameter=Parameter(negative="", show_default=lambda value: value if value is not False else None),  # no `--no-json`
    suppress_keyboard_interrupt=False,  # main() has its own end for it
)
FILES: Final = Group("Files", sort_key=0)
OPERATION: Final = Group("Operation", sort_key=1)
COMMANDS: Final = "service.cli.client"

app.command(f"{COMMANDS}.put:put", group=FILES, help="Send files, folders or standard input.")
app.command(f"{COMMANDS}.get:get", group=FILES, help="Fetch files by id or by name.")
app.command(f"{COMMANDS}.ls:ls", name="ls", group=FILES, help="List your files, newest first.")
app.command(f"{COMMANDS}.info:info", group=FILES, help="Say all that is known of files.")
app.command(f"{COMMANDS}.rm:rm", name="rm", group=FILES, help="Delete files, or cancel their uploads.")
app.command(f"{COMMANDS}.share:share", group=FILES, help="Make a link that works without a key.")
app.command(f"{COMMANDS}.login:login", group=FILES, help="Keep a server's address and a key for the commands above.")
app.command("service.cli.dev:dev", group=OPERATION, help="Run everything on this machine: database, store, API and worker.")
app.command("service.cli.serve:serve", group=OPERATION, help="Run the API and, unless told otherwise, a worker.")
app.command("service.cli.worker:worker", group=OPERATION, help="Run a worker alone.")
app.command("service.cli.migrate:migrate", group=OPERATION, help="Bring the database's schema to the newest version.")
app.command(
    "service.cli.bootstrap:bootstrap", group=OPERATION, help="Make the store's buckets, identities, policies and rules, or mend them."
)
app.command("service.cli.sweep:sweep", group=OPERATION, help="Remove what is left behind, now.")
app.command("service.cli.inspect:inspect", group=OPERATION, help="Say where a file stands, why it waits and what happens next.")
app.command("service.cli.keys:keys", name="keys", group=OPERATION, help="Make, list and revoke API keys.")
app.command("service.cli.doctor:doctor", group=OPERATION, help="Prove that this deployment works.")
app.command("service.cli.env:env", name="env", group=OPERATION, help="Fill .env.example with random secrets.")


SERVERS: Final = (["dev"], ["serve"], ["worker"])
"""Ctrl-C and SIGTERM are how these are meant to end."""


def main() -> None:
    """Run the command that the arguments name.

    Exit status: 1 failed, 2 wrong arguments or settings, 3 wrong schema, 130 interrupted; docs/command-line.md has those of the commands
    for files.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks is no reason to fail
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
        from service.cli.failures import explain  # it knows every error, so it imports half the service

        text, status = explain(error)
        print(text, file=sys.stderr)
        sys.exit(status)
