"""Filenames in headers: written as RFC 6266 and RFC 8187 require, and read as clients send them."""

import re
import unicodedata
from typing import Final
from urllib.parse import quote, unquote_to_bytes

ATTRIBUTE_CHARACTERS: Final = "!#$&+-.^_`|~"
"""The characters besides letters and digits that RFC 8187 allows unescaped."""
PARAMETER: Final = re.compile(
    r";[ \t]*(?P<name>[\w!#$&+.^`|~*'-]+)[ \t]*=[ \t]*"
    r"(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<token>[^;\"]*))"
)


def format_disposition(filename: str, *, inline: bool = False) -> str:
    """Return `attachment` or `inline`, with an ASCII fallback for old clients and the full name as
    `filename*`.
    """
    kind = "inline" if inline else "attachment"
    whole = quote(filename, safe=ATTRIBUTE_CHARACTERS)
    return f"{kind}; filename=\"{fall_back_to_ascii(filename)}\"; filename*=UTF-8''{whole}"


def fall_back_to_ascii(filename: str) -> str:
    """Return a name that every client can read and that is not a path.

    It has no characters that some clients decode differently (RFC 6266, appendix D).
    """
    plain = unicodedata.normalize("NFKD", filename)
    plain = "".join(character for character in plain if not unicodedata.combining(character))
    plain = re.sub(r"[^ -~]|[\"\\%/:]", "_", plain)  # normalization may have produced a separator
    return "_" if plain.strip(" .") == "" else plain


def parse_filename(disposition: str) -> str | None:
    """Return the filename of a request's Content-Disposition, or None if it has none.

    `disposition` is a header in the form that ASGI servers use: bytes decoded as Latin-1, which
    most clients send as UTF-8. Raises ValueError if the filename is malformed.
    """
    parameters = {match["name"].lower(): match for match in PARAMETER.finditer(disposition)}
    if "filename*" in parameters:
        return decode_extended((parameters["filename*"]["token"] or "").strip())
    if "filename" not in parameters:
        return None
    match = parameters["filename"]
    if match["quoted"] is None and re.search(r"\s", match["token"].strip()):
        raise ValueError(
            'filename must be in quotes if it contains a space: filename="my photo.jpg"'
        )
    text = (
        match["token"].strip()
        if match["quoted"] is None
        else re.sub(r"\\(.)", r"\1", match["quoted"])
    )
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def decode_extended(value: str) -> str:
    """Decode the `charset'language'percent-encoded` of RFC 8187.

    Raises ValueError unless it is UTF-8.
    """
    charset, first, rest = value.partition("'")
    _, second, encoded = rest.partition("'")
    if not (first and second) or charset.lower() != "utf-8":
        raise ValueError("filename* must be UTF-8''… with percent-encoded bytes (RFC 8187)")
    return unquote_to_bytes(encoded).decode("utf-8")
