"""`assay put`: sends files, folders or standard input."""

import sys
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from service.cli.client import STANDARD_STREAM
from service.cli.client.accounts import HERE, Server, open_client
from service.cli.client.arguments import Jobs, read_sha256, read_text
from service.cli.client.display import show
from service.cli.client.exit_codes import Failed, Interrupted, WrongUse
from service.cli.client.folders import Pipe, Skipped, Source, Unreadable, list_sources
from service.cli.client.listings import KEPT
from service.cli.client.records import ignore, open_records
from service.cli.client.remarks import note_warnings
from service.cli.client.reports import Form, Report, open_report
from service.cli.client.sending import Sender, UploadOptions
from service.cli.client.sizes import measure_in_background
from service.cli.client.worker_pool import WorkerPool

JOBS: Final = 16


def put(
    files: list[str],
    /,
    *,
    recursive: Annotated[bool, Parameter(alias="-r")] = False,
    name: str | None = None,
    type: str | None = None,
    meta: Annotated[list[str] | None, Parameter(consume_multiple=False)] = None,
    sha256: str | None = None,
    force: bool = False,
    no_times: bool = False,
    jobs: Jobs = JOBS,
    json: bool = False,
    quiet: Annotated[bool, Parameter(alias="-q")] = False,
    server: Server = HERE,
) -> None:
    """Send files, folders or standard input, and wait until each file is proved.

    Repeat the command to continue after an interruption. It skips files that the server already
    has.

    Parameters
    ----------
    files
        Paths; `-` is standard input.
    recursive
        Send the contents of folders, and store each file's path from the folder's name on.
    name
        The file's name at the server. Default: its name here, or `stdin`.
    type
        The media type. Default: the type of the name's extension.
    meta
        A pair KEY=VALUE of metadata; can be repeated.
    sha256
        The SHA-256 that the file must have, in hexadecimal.
    force
        Also send files that the server already has.
    no_times
        Do not send modification times as the metadata `mtime`.
    jobs
        How many files are sent at once.
    json
        Print one JSON object per line.
    quiet
        Print only errors.
    """
    options = UploadOptions(
        read_text(name, "--name"),
        read_text(type, "--type"),
        parse_pairs(meta or [], recursive=recursive),
        read_sha256(sha256),
        force,
        times=not no_times,
    )
    check_use(files, options, recursive=recursive)
    with (
        open_client(server, connections=jobs + 8) as client,
        open_report(Form(json, quiet)) as report,
        note_warnings(report),
        open_records(note=report.note if files != [STANDARD_STREAM] else ignore) as records,
    ):
        pool = Sender(client, records, report, options=options, jobs=jobs).pool
        try:
            if report.has_bars:
                measure_in_background(files, report, recursive=recursive)
            hand_over(pool, report, files, recursive=recursive)
            pool.finish()
        except KeyboardInterrupt:
            pool.stop()
            raise Interrupted(describe_interrupt(pool.outcomes.done, files)) from None
    pool.outcomes.end()


def hand_over(
    pool: WorkerPool[Source | Pipe], report: Report, files: list[str], *, recursive: bool
) -> None:
    for source in list_sources(files, recursive=recursive):
        if isinstance(source, Unreadable):
            pool.fail(source.path, Failed(source.why))
        elif isinstance(source, Skipped):
            report.note(f"{show(source.path)}: skipped, {source.why}")
        elif not pool.hand_over(source):
            return


def check_use(files: list[str], options: UploadOptions, *, recursive: bool) -> None:
    single = len(files) == 1 and not (recursive and Path(files[0]).is_dir())
    if not single and (options.filename or options.sha256):
        raise WrongUse("--name and --sha256 apply to a single file; give only one path")
    if files.count(STANDARD_STREAM) > 1:
        raise WrongUse("standard input can be read only once; give `-` only once")
    if STANDARD_STREAM in files and sys.stdin.isatty():
        print("reading from the terminal; Ctrl-D ends the input", file=sys.stderr)


def parse_pairs(arguments: list[str], *, recursive: bool) -> dict[str, str]:
    texts = [read_text(argument, "--meta") or "" for argument in arguments]
    pairs = dict(text.partition("=")[::2] for text in texts)
    if not all("=" in text and text[0] != "=" for text in texts):
        raise WrongUse("--meta must have the form KEY=VALUE, such as --meta album=winter")
    if len(pairs) < len(texts):
        raise WrongUse("--meta has a key that is given twice; give each key once")
    if recursive and KEPT in pairs:
        raise WrongUse(
            f"--meta {KEPT}=… cannot be used with -r, which stores each file's path there"
        )
    return pairs


def describe_interrupt(done: int, files: list[str]) -> str:
    if files == [STANDARD_STREAM]:
        return "interrupted: nothing of standard input was stored"
    return f"interrupted: {done:,} done; repeat the command to continue"
