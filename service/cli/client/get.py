"""`assay get`: files by id, by name, by the folder they were sent from."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from service.cli.client import STANDARD_STREAM
from service.cli.client.accounts import HERE, Server, open_client
from service.cli.client.choosing import Chosen, NotChosen, choose
from service.cli.client.exit_codes import Failed, Interrupted, WrongUse, explained
from service.cli.client.receiving import Receiver, write_to_output
from service.cli.client.reports import Form, Report, open_report
from service.cli.client.targets import Targets

if TYPE_CHECKING:
    from assay import Client

JOBS: Final = 8


def get(
    names: Annotated[list[str] | None, Parameter(negative="")] = None,
    /,
    *,
    output: Annotated[str | None, Parameter(alias="-o")] = None,
    recursive: Annotated[bool, Parameter(alias="-r")] = False,
    force: bool = False,
    jobs: PositiveInt = JOBS,
    json: bool = False,
    quiet: Annotated[bool, Parameter(alias="-q")] = False,
    server: Server = HERE,
) -> None:
    """Fetch files, and check the SHA-256 of each one. The same command again goes on where this one stopped.

    Parameters
    ----------
    names
        Ids, or names: the newest file of that name. `photo*`: the newest of each name that begins so. With -r, folders.
    output
        The path to write to, a folder, or `-` for standard output. Default: this folder.
    recursive
        Restore what `put -r` sent from these folders, or from all, below the output folder.
    force
        Replace files that are here and have other bytes.
    jobs
        How many files are fetched at once.
    json
        Print one JSON object a line.
    quiet
        Print nothing but what goes wrong.
    """
    asked = names or []
    if not asked and not recursive:
        raise WrongUse("which files? Give ids or names, or -r for all that was sent from folders")
    if output == STANDARD_STREAM:
        write_all(asked, server, recursive=recursive, force=force)
        return
    single = choose_single(output, asked, recursive=recursive)
    targets = Targets(choose_root(output, single), force=force)
    with (
        open_client(server, connections=jobs + 8) as client,
        open_report(Form(json, quiet)) as report,
        explained(),
    ):
        pool = Receiver(client, report, targets, single=single, jobs=jobs).pool
        try:
            for chosen in choose(client, asked, recursive=recursive):
                if isinstance(chosen, NotChosen):
                    pool.fail(chosen.name, chosen.ending)
                elif not pool.hand_over(chosen):
                    break
            pool.finish()
        except KeyboardInterrupt:
            pool.stop()
            raise Interrupted(
                f"interrupted: {pool.outcomes.done:,} done; give the same command again to go on"
            ) from None
    pool.outcomes.end()


def choose_single(output: str | None, names: list[str], *, recursive: bool) -> Path | None:
    """The path that is named for one file; None: a folder is. Raises WrongUse."""
    if output is None or recursive or output.endswith(("/", os.sep)) or Path(output).is_dir():
        return None
    if len(names) > 1 or names[0].endswith("*"):
        raise WrongUse(
            "-o names a file, and there are several to fetch: end it with / when it is to be a folder"
        )
    return Path(os.path.realpath(output))  # a link that the user names is the user's own


def choose_root(output: str | None, single: Path | None) -> Path:
    """The folder that all is written below; it is made if need be. Links on the way to it are the user's own. Raises Failed."""
    root = single.parent if single else Path(output or ".")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failed(f"{error.filename}: {error.strerror}") from error
    return root


def write_all(names: list[str], server: Server, *, recursive: bool, force: bool) -> None:
    """One file after the other. Raises Ending at the first that fails: what follows it would be out of place."""
    if recursive:
        raise WrongUse("-r restores a folder: standard output is none")
    if sys.stdout.isatty() and not force:
        raise WrongUse(
            "standard output is a terminal, and the file's bytes could be anything: redirect it, or give --force"
        )
    with (
        open_client(server) as client,
        open_report(Form(json=False, quiet=False)) as report,
        explained(),
    ):
        for chosen in choose(client, names, recursive=False):
            write_one(client, chosen, report)


def write_one(client: "Client", chosen: Chosen | NotChosen, report: Report) -> None:
    if isinstance(chosen, NotChosen):
        raise type(chosen.ending)(f"{chosen.name}: {chosen.ending}")
    write_to_output(client, chosen.file, report)
