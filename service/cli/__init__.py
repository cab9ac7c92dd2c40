"""The command line. Each command lives in a module of its own that is imported when it is called: `assay --help` stays fast."""

import importlib.metadata
import os
import sys
from typing import Final

from cyclopts import App, Parameter

app: Final = App(
    name="assay",
    help="Presigned uploads to MinIO that are proved before anyone can read them.",
    version=lambda: importlib.metadata.version("assay"),
    default_parameter=Parameter(negative=""),  # no `--no-json`
    suppress_keyboard_interrupt=False,  # main() has its own end for it
)
app.command("service.cli.dev:dev", help="Run everything on this machine: database, store, API and worker.")
app.command("service.cli.serve:serve", help="Run the API and, unless told otherwise, a worker.")
app.command("service.cli.worker:worker", help="Run a worker alone.")
app.command("service.cli.migrate:migrate", help="Bring the database's schema to the newest version.")
app.command("service.cli.bootstrap:bootstrap", help="Make the store's buckets, identities, policies and rules, or mend them.")
app.command("service.cli.sweep:sweep", help="Remove what is left behind, now.")
app.command("service.cli.inspect:inspect", help="Say where a file stands, why it waits and what happens next.")
app.command("service.cli.keys:keys", name="keys", help="Make, list and revoke API keys.")
app.command("service.cli.doctor:doctor", help="Prove that this deployment works.")
app.command("service.cli.env:env", name="env", help="Fill .env.example with random secrets.")


SERVERS: Final = (["dev"], ["serve"], ["worker"])
"""Ctrl-C and SIGTERM are how these are meant to end."""


def main() -> None:
    """Run the command that the arguments name.

    Exit status: 1 failed, 2 wrong arguments or settings, 3 wrong schema, 130 interrupted.
    """
    try:
        app(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(0 if sys.argv[1:2] in SERVERS else 130)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        from service.cli.failures import explain  # it knows every error, so it imports half the service

        text, status = explain(error)
        print(text, file=sys.stderr)
        sys.exit(status)
