"""`assay get`: fetches files by id, by name, or by the folder from which they were sent."""

import errno
import itertools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from service.cli.client import STANDARD_STREAM
from service.cli.client.accounts import HERE, Server, open_client
from service.cli.client.arguments import Jobs
from service.cli.client.choosing import Chosen, NotChosen, choose
from service.cli.client.display import show
from service.cli.client.exit_codes import Failed, Interrupted, WrongUse, explained
from service.cli.client.receiving import Receiver, is_device, write_to_output
from service.cli.client.remarks import note_warnings
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
    by_name: bool = False,
    hidden: bool = False,
    force: bool = False,
    no_times: bool = False,
    jobs: Jobs = JOBS,
    json: bool = False,
    quiet: Annotated[bool, Parameter(alias="-q")] = False,
    server: Server = HERE,
) -> None:
    """Fetch files, and check the SHA-256 of each one. Repeat the command to continue after an
    interruption.

    Parameters
    ----------
    names
        Ids or names. A name selects the newest file of that name, and `photo*` the newest file of
        each name that begins with `photo`. With -r, names of folders.
    output
        The path to write to, a folder, or `-` for standard output. Default: the current folder.
    recursive
        Restore what `put -r` sent from these folders, or from all folders, below the output folder.
    by_name
        Read every argument as a name, also one that looks like an id.
    hidden
        Also write files whose name, or a folder of whose path, begins with a dot.
    force
        Replace existing files whose content differs. Their modes are kept.
    no_times
        Do not restore modification times.
    jobs
        How many files are fetched at once.
    json
        Print one JSON object per line.
    quiet
        Print only errors.
    """
    asked = names or []
    if not asked and not recursive:
        raise WrongUse(
            "no files were specified; give ids or names, or use -r for all files sent from folders"
        )
    if output in (STANDARD_STREAM, "-"):
        if recursive:
            raise WrongUse("-r restores a folder, so its output must not be standard output")
        write_all(asked, server, by_name=by_name, force=force)
        return
    single = choose_single(output, asked, recursive=recursive)
    targets = Targets(choose_root(output, single), force=force)
    with (
        open_client(server, connections=jobs + 8) as client,
        open_report(Form(json, quiet)) as report,
        note_warnings(report),
        explained(),
    ):
        pool = Receiver(
            client,
            report,
            targets,
            single=single,
            hidden=hidden,
            times=not no_times,
            jobs=jobs,
        ).pool
        try:
            for chosen in choose(client, asked, recursive=recursive, by_name=by_name):
                if isinstance(chosen, NotChosen):
                    pool.fail(chosen.name, chosen.ending)
                elif not pool.hand_over(chosen):
                    break
            pool.finish()
        except KeyboardInterrupt:
            pool.stop()
            raise Interrupted(
                f"interrupted: {pool.outcomes.done:,} done; repeat the command to continue"
            ) from None
    pool.outcomes.end()


def choose_single(output: str | None, names: list[str], *, recursive: bool) -> Path | None:
    """Return the path for a single file, or None if the output is a folder. Raises WrongUse."""
    if output == "":
        raise WrongUse("-o is empty; use `-o .` for the current folder")
    if output is None or recursive or output.endswith(("/", os.sep)) or Path(output).is_dir():
        return None
    if len(names) > 1 or names[0].endswith("*"):
        raise WrongUse(
            "-o names a single file, but several are to be fetched; end it with / if it is a folder"
        )
    if is_device(Path(output)):
        return Path(output)  # the real path of a pipe, such as /dev/fd/3, cannot be opened
    return Path(os.path.realpath(output))  # a link that the user names is followed


def choose_root(output: str | None, single: Path | None) -> Path:
    """Return the folder to write to, and create it if needed. Raises Failed.

    Links on the path to it are followed, because the user has named them.
    """
    root = single.parent if single else Path(output or ".")
    missing = itertools.takewhile(lambda folder: not folder.exists(), [root, *root.parents])
    try:
        for folder in reversed(list(missing)):
            folder.mkdir(exist_ok=True)
        if not root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root))
    except OSError as error:
        raise Failed(f"{show(str(error.filename))}: {error.strerror}") from error
    return root


def write_all(names: list[str], server: Server, *, by_name: bool, force: bool) -> None:
    """Write the files to standard output, one after the other.

    Raises Ending at the first failure, because later bytes would be in the wrong place.
    """
    if sys.stdout.isatty() and not force:
        raise WrongUse(
            "standard output is a terminal, which the file's bytes could control;"
            " redirect it, or use --force"
        )
    with (
        open_client(server) as client,
        open_report(Form(json=False, quiet=False)) as report,
        explained(),
    ):
        for chosen in choose(client, names, recursive=False, by_name=by_name):
            write_one(client, chosen, report)


def write_one(client: "Client", chosen: Chosen | NotChosen, report: Report) -> None:
    if isinstance(chosen, NotChosen):
        raise type(chosen.ending)(f"{show(chosen.name)}: {chosen.ending}")
    write_to_output(client, chosen.file, report)
