"""Which files `get` is asked for: by id, by name, by the beginning of names, by the folder they were sent from.

Of several files with one name, or one kept path, the newest counts: the list is newest first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from service.cli.client.exit_codes import Ending, NotAllowed, NotFound, explain
from service.cli.client.listings import KEPT

if TYPE_CHECKING:
    from assay import Client, File


@dataclass(frozen=True)
class Chosen:
    """A file, and the path below the target that it has; None: its name is all there is."""

    file: "File"
    kept: str | None = None


@dataclass(frozen=True)
class NotChosen:
    """What was asked for and is not there."""

    name: str
    ending: Ending


def choose(
    client: "Client", names: Sequence[str], *, recursive: bool
) -> Iterator[Chosen | NotChosen]:
    """In the order of the names; what was sent from folders in one pass over the list, newest first. Raises NotAllowed."""
    folders = []
    for name in names:
        file_id = read_id(name)
        if file_id is None and recursive:
            folders.append(name.rstrip("/"))
            continue
        try:
            found = iter([client.info(file_id)]) if file_id else find_named(client, name)
            yield from (
                Chosen(file, file.metadata.get(KEPT) if recursive else None) for file in found
            )
        except Exception as error:
            ending = explain(error)
            if isinstance(ending, NotAllowed):
                raise ending from error
            yield NotChosen(name, ending)
    if folders or (recursive and not names):
        yield from find_kept(client, folders)


def read_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def find_named(client: "Client", name: str) -> "Iterator[File]":
    """The newest of that name; with a `*` at its end the newest of each name that begins so. Raises NotFound."""
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
    """All below these folders; no folder: all that have a kept path."""
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
        NotChosen(folder, NotFound("nothing was sent from a folder of this name"))
        for folder in folders
        if folder in missing
    )
