"""`assay env`: an `.env` that nobody else has."""

import os
import re
import secrets
from pathlib import Path

from service.cli.errors import CommandError

KEY_ID_BYTES = 10
SECRET_BYTES = 30
"""As text 20 and 40 characters, the most that MinIO takes for key ids and secrets."""


def env(example: Path = Path(".env.example"), /, *, output: Path | None = None) -> None:
    """Fill every empty variable of an example with a random value.

    Parameters
    ----------
    example
        The file to fill.
    output
        Where to write the result, readable by you alone; a file that exists is left as it is. Default: print it.
    """
    try:
        text = example.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"{example} can't be read ({error.strerror}): name the example that came with Assay"
        ) from error
    filled = "".join(fill_line(line) for line in text.splitlines(keepends=True))
    if output is None:
        print(filled, end="")
    else:
        write_new(output, filled)


def fill_line(line: str) -> str:
    """`NAME=` gets a value; comments and what has a value stay."""
    match = re.fullmatch(r"(\w+)=[ \t]*(\r?\n?)", line)
    return line if match is None else f"{match[1]}={make_value(match[1])}{match[2]}"


def make_value(name: str) -> str:
    """Key ids are as secret as passwords: on an old MinIO they are enough to write."""
    if name.endswith(("ACCESS_KEY", "_USER")):
        return secrets.token_hex(KEY_ID_BYTES)
    return secrets.token_urlsafe(SECRET_BYTES)


def write_new(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise CommandError(
            f"{path} exists already, and its secrets are in use: remove it first to make new ones"
        ) from error
    except OSError as error:
        raise CommandError(f"{path} can't be written ({error.strerror})") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
