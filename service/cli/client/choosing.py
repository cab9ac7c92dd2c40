"""The choice of files for `get`: by id, by name, by the beginning of names, or by the folder from
which they were sent.

Of several files with one name or one stored path, the newest is chosen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.cli.client.arguments import is_id, read_text
from service.cli.client.exit_codes import Ending, NotAllowed, NotFound, explain
from service.cli.client.listings import KEPT

if TYPE_CHECKING:
    from assay import Client, File


@dataclass(frozen=True)
class Chosen:
    """A file, and its path below the target. If `kept` is None, its name is used.

    `may_be_hidden` is true if the user has typed a name that begins with a dot.
    """

    file: "File"
    kept: str | None = None
    may_be_hidden: bool = False


@dataclass(frozen=True)
class NotChosen:
    """A requested file that was not found."""

    name: str
    ending: Ending


def choose(
    client: "Client", names: Sequence[str], *, recursive: bool, by_name: bool
) -> Iterator[Chosen | NotChosen]:
    """Yield the files in the order of the names, and then those of folders, newest first.

    With `by_name`, no argument is an id. The files of folders are found in one pass over the list.
    Raises NotAllowed.
    """
    folders = []
    for argument in names:
        try:
            name = read_text(argument, "the name") or ""
            if is_id(name) and not by_name:
                yield find_by_id(client, name, recursive=recursive)
            elif recursive:
                folders.append(name.rstrip("/"))
            else:
                typed = name.startswith(".") and not name.endswith("*")
                yield from (Chosen(file, may_be_hidden=typed) for file in find_named(client, name))
        except Exception as error:
            ending = explain(error)
            if isinstance(ending, NotAllowed):
                raise ending from error
            yield NotChosen(argument, ending)
    if folders or (recursive and not names):
        yield from find_kept(client, folders)


def find_by_id(client: "Client", text: str, *, recursive: bool) -> Chosen:
    """Return the file with this id. Raises NotFound."""
    from assay.errors import NotFound as NoSuchFile

    try:
        file = client.info(text)
    except NoSuchFile as error:
        raise NotFound(f"{error}; if this is a name, use --by-name") from error
    return Chosen(file, file.metadata.get(KEPT) if recursive else None)


def find_named(client: "Client", name: str) -> "Iterator[File]":
    """Yield the newest file of that name, or with a `*` at its end, of each name that begins with
    it.

    Raises NotFound.
    """
    seen: set[str] = set()
    for file in client.list(state="ready", filename=name, page=1000 if name.endswith("*") else 1):
        if file.filename not in seen:
            seen.add(file.filename)
            yield file
        if not name.endswith("*"):
            return
    if not seen:
        raise NotFound("no ready file has this name")


def find_kept(client: "Client", folders: Sequence[str]) -> Iterator[Chosen | NotChosen]:
    """Yield the files below these folders, or if there are none, all files with a stored path."""
    missing, seen = set(folders), set[str]()
    for file in client.list(state="ready"):
        kept = file.metadata.get(KEPT)
        if kept is None or kept in seen:
            continue
        below = [folder for folder in folders if kept == folder or kept.startswith(f"{folder}/")]
        if below or not folders:
            seen.add(kept)
            missing.difference_update(below)
            yield Chosen(file, kept)
    yield from (
        NotChosen(folder, NotFound("no ready file was sent from a folder of this name"))
        for folder in folders
        if folder in missing
    )
