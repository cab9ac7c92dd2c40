"""`assay env`: an `.env` with random secrets."""

import os
import re
import secrets
from pathlib import Path

from service.cli.errors import CommandError

KEY_ID_BYTES = 10
SECRET_BYTES = 30
"""The sizes of key ids and secrets.

As text they have 20 and 40 characters, the most that MinIO accepts.
"""


def env(example: Path = Path(".env.example"), /, *, output: Path | None = None) -> None:
    """Fill every empty variable of an example with a random value.

    Parameters
    ----------
    example
        The file to fill.
    output
        The file to write the result to, readable by its owner alone. An existing file is not
        changed. Default: print the result.
    """
    try:
        text = example.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"cannot read {example} ({error.strerror}); name the .env.example of Assay"
        ) from error
    filled = "".join(fill_line(line) for line in text.splitlines(keepends=True))
    if output is None:
        print(filled, end="")
    else:
        write_new(output, filled)


def fill_line(line: str) -> str:
    match = re.fullmatch(r"(\w+)=[ \t]*(\r?\n?)", line)
    return line if match is None else f"{match[1]}={make_value(match[1])}{match[2]}"


def make_value(name: str) -> str:
    """Return a random value.

    Key ids are random too, because on an old MinIO they are enough to write.
    """
    if name.endswith(("ACCESS_KEY", "_USER")):
        return secrets.token_hex(KEY_ID_BYTES)
    return secrets.token_urlsafe(SECRET_BYTES)


def write_new(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise CommandError(
            f"{path} exists already, and its secrets may be in use;"
            " remove it first to generate new ones"
        ) from error
    except OSError as error:
        raise CommandError(f"cannot write {path} ({error.strerror})") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
