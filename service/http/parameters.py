"""Parameters of a field, as in Content-Type and Content-Disposition (RFC 9110, section 5.6.6).

White space around a semicolon, and a semicolon without a parameter, have no meaning.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  # a grammar's token
PARAMETER: Final = re.compile(
    r"(?P<separator>[ \t]*;[ \t]*)"
    rf"(?P<written>(?P<name>{TOKEN})[ \t]*=[ \t]*"
    r"(?:(?P<quoted>\"(?:[^\"\\]|\\.)*\")|(?P<plain>[^;\"]*)))?"
)
PLAIN_SEPARATOR: Final = re.compile(" ?; ?")


class Parameter(NamedTuple):
    """A parameter.

    `name` is in lower case. `value` is not decoded, and keeps its quotes. `written` is the whole
    parameter as the client wrote it, and `separator` is what it wrote before that.
    """

    name: str
    value: str
    written: str
    separator: str

    @property
    def is_quoted(self) -> bool:
        return self.value.startswith('"')


def split_parameters(field: str) -> tuple[str, list[Parameter]]:
    """Return the text before the first semicolon, and the parameters.

    Raises ValueError for a malformed parameter, and for one that is given twice.
    """
    value, semicolon, rest = field.partition(";")
    parameters = [*read_parameters(semicolon + rest.rstrip(" \t"))]
    if len({one.name for one in parameters}) != len(parameters):
        raise ValueError("has a parameter that is given twice; send it once")
    return value.strip(" \t"), parameters


def name_parameters(field: str) -> dict[str, Parameter]:
    """Return the parameters by their names. Raises ValueError, as `split_parameters` does."""
    return {one.name: one for one in split_parameters(field)[1]}


def read_parameters(text: str) -> Iterator[Parameter]:
    position = 0
    while position < len(text):
        match = PARAMETER.match(text, position)
        if match is None:
            raise ValueError('has a malformed parameter; send ;name=value or ;name="value"')
        position = match.end()
        if match["written"] is not None:
            yield Parameter(
                match["name"].lower(),
                match["quoted"] or match["plain"].rstrip(" \t"),
                match["written"].rstrip(" \t"),
                match["separator"],
            )


def unquote(quoted: str) -> str:
    """Return the text of a quoted string (RFC 9110, section 5.6.4)."""
    return re.sub(r"\\(.)", r"\1", quoted[1:-1])


def normalize_media_type(field: str) -> str:
    """Return a media type without empty parameters, and with at most one space around a semicolon.

    Raises ValueError.
    """
    value, parameters = split_parameters(field)
    return value + "".join(
        (one.separator if PLAIN_SEPARATOR.fullmatch(one.separator) else "; ") + one.written
        for one in parameters
    )
