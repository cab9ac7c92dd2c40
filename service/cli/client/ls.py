"""`assay ls`: your files, newest first."""

import json as json_text
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from service.cli.client.accounts import HERE, Server, open_client
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
    hash: str | None = None,
    since: str | None = None,
    before: str | None = None,
    limit: PositiveInt | None = None,
    sha256: bool = False,
    json: bool = False,
    server: Server = HERE,
) -> None:
    """List your files, newest first: all but those that expired or were deleted.

    Parameters
    ----------
    state
        Only files in this state; may be given again.
    name
        Only files of this name, or of names that begin so: `photo*`.
    hash
        Only files with this SHA-256.
    since
        Only files declared since then: a time ago such as 2h or 7d, a date, or a date and time.
    before
        Only files declared before then.
    limit
        At most so many.
    sha256
        Print the SHA-256 and name of each ready file, as `sha256sum -c` reads them; of several with one name the newest, as `get` does.
    json
        Print one JSON object a line.
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
            filename=name,
            hash=hash,
            created_after=after or None,
            created_before=until or None,
            page=min(limit or LARGEST_PAGE, LARGEST_PAGE),
        )
        for line in describe(islice(found, limit), sha256=sha256, json=json):
            print(line)


def describe(files: "Iterator[File]", *, sha256: bool, json: bool) -> Iterator[str]:
    """On a terminal nothing is exact: names are shown there, not given."""
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
    """The proved ones by their names: the first of each, for they come newest first."""
    seen: set[str] = set()
    for file in files:
        name = name_file(file)
        if file.hash and name not in seen:
            seen.add(name)
            yield name, file
