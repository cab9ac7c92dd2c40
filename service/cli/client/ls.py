"""`assay ls`: lists files, newest first."""

import json as json_text
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from service.cli.client.accounts import HERE, Server, open_client
from service.cli.client.arguments import read_text
from service.cli.client.checksums import format_checksum
from service.cli.client.display import show
from service.cli.client.exit_codes import WrongUse, explained
from service.cli.client.listings import HEADING, as_object, describe_row, name_file
from service.cli.client.times import parse_moment

if TYPE_CHECKING:
    from assay import File

State = Literal["pending", "verifying", "ready", "rejected", "expired", "deleted", "damaged"]
LARGEST_PAGE = 1000


def ls(
    *,
    state: Annotated[list[State] | None, Parameter(consume_multiple=False)] = None,
    name: str | None = None,
    type: str | None = None,
    hash: str | None = None,
    since: str | None = None,
    before: str | None = None,
    limit: PositiveInt | None = None,
    sha256: bool = False,
    json: bool = False,
    server: Server = HERE,
) -> None:
    """List your files, newest first. Expired and deleted files are listed only with --state.

    Parameters
    ----------
    state
        Only files in this state; can be repeated.
    name
        Only files of this name, or with `photo*`, of names that begin with `photo`.
    type
        Only files of this full media type, such as image/png.
    hash
        Only files with this SHA-256.
    since
        Only files declared since then: a time ago such as 2h or 7d, a date, or a date and time.
    before
        Only files declared before then.
    limit
        The largest number of files to list.
    sha256
        Print the SHA-256 and name of each ready file in the format of `sha256sum -c`. Of several
        files with one name, print the newest, which `get` would fetch.
    json
        Print one JSON object per line.
    """
    now = datetime.now(UTC)
    try:
        after, until = since and parse_moment(since, now), before and parse_moment(before, now)
    except ValueError as error:
        raise WrongUse(str(error)) from error
    wanted = state or (["ready"] if sha256 else None)
    with open_client(server) as client, explained():
        found = client.list(
            state=wanted,
            filename=read_text(name, "--name"),
            content_type=read_text(type, "--type"),
            hash=read_text(hash, "--hash"),
            created_after=after or None,
            created_before=until or None,
            page=min(limit or LARGEST_PAGE, LARGEST_PAGE),
        )
        most = None if limit is None else min(limit, sys.maxsize)
        for line in describe(islice(found, most), sha256=sha256, json=json):
            print(line)


def describe(files: "Iterator[File]", *, sha256: bool, json: bool) -> Iterator[str]:
    """Yield the lines. On a terminal, names are escaped; in a pipe, they are exact."""
    if json:
        yield from (json_text.dumps(as_object(file)) for file in files)
    elif sha256:
        lines = (format_checksum(file.hash or "", name) for name, file in find_newest(files))
        yield from map(show, lines) if sys.stdout.isatty() else lines
    else:
        if sys.stdout.isatty():
            yield HEADING
        yield from map(describe_row, files)


def find_newest(files: "Iterator[File]") -> "Iterator[tuple[str, File]]":
    """Yield the name and file of each proved file.

    Of several with one name, only the newest is yielded.
    """
    seen: set[str] = set()
    for file in files:
        name = name_file(file)
        if file.hash and name not in seen:
            seen.add(name)
            yield name, file
