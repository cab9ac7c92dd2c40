"""The values of arguments, and checks that Cyclopts does not make.

The operating system passes arguments as bytes. Python represents those that it cannot decode by
surrogates, which no request can contain.
"""

import os
import re
from typing import Annotated, Final
from uuid import UUID

from cyclopts import Parameter
from cyclopts.validators import Number

from service.cli.client import STANDARD_STREAM
from service.cli.client.display import show
from service.cli.client.exit_codes import WrongUse

MOST_JOBS: Final = 256
Jobs = Annotated[int, Parameter(validator=Number(gte=1, lte=MOST_JOBS))]
ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII | re.IGNORECASE)


def read_text(text: str | None, what: str) -> str | None:
    """Return the value of an option, or None if it is not given. Raises WrongUse."""
    if text is None:
        return None
    if not text:
        raise WrongUse(f"{what} is empty; leave it out, or give a value")
    try:
        return read_unicode("-" if text == STANDARD_STREAM else text)
    except UnicodeError as error:
        raise WrongUse(f"{what} is not UTF-8: {show(text)}") from error


def read_sha256(text: str | None) -> str | None:
    if text is not None and not SHA256.fullmatch(text):
        raise WrongUse(f"--sha256 {show(text)}: a SHA-256 has 64 hexadecimal digits")
    return text


def read_unicode(text: str) -> str:
    """Return the text without surrogates. Raises UnicodeError if its bytes are not UTF-8.

    In a locale of ASCII, Python does not decode UTF-8 by itself.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text).decode()
    return text


def read_id(text: str) -> UUID:
    """Return the id. Raises WrongUse."""
    if not is_id(text):
        raise WrongUse("this is not an id; an id looks like 0198f1c2-0000-7000-8000-000000000000")
    return UUID(text)


def is_id(text: str) -> bool:
    """Return whether the text is a UUID as `put` and `ls` print it.

    Other notations are names. An MD5 in hexadecimal, for example, would be a UUID without hyphens.
    """
    return bool(ID.fullmatch(text))
