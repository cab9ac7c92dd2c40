"""Filenames in headers: RFC 6266 and 8187 on the way out, and what clients send on the way in."""

import re
import unicodedata
from typing import Final
from urllib.parse import quote, unquote_to_bytes

ATTRIBUTE_CHARACTERS: Final = "!#$&+-.^_`|~"
"""What RFC 8187 leaves unescaped beside letters and digits."""
PARAMETER: Final = re.compile(
    r";[ \t]*(?P<name>[\w!#$&+.^`|~*'-]+)[ \t]*=[ \t]*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<token>[^;\"]*))"
)


def format_disposition(filename: str, *, inline: bool = False) -> str:
    """`attachment` or `inline`, with an ASCII fallback for old clients and the whole name as `filename*`."""
    kind = "inline" if inline else "attachment"
    whole = quote(filename, safe=ATTRIBUTE_CHARACTERS)
    return f"{kind}; filename=\"{fall_back_to_ascii(filename)}\"; filename*=UTF-8''{whole}"


def fall_back_to_ascii(filename: str) -> str:
    """A name that every client can read, and that is no path; without what some clients decode in ways of their own (RFC 6266, D)."""
    plain = unicodedata.normalize("NFKD", filename)
    plain = "".join(character for character in plain if not unicodedata.combining(character))
    plain = re.sub(
        r"[^ -~]|[\"\\%/:]", "_", plain
    )  # what looks like a separator may have become one
    return "_" if plain.strip(" .") == "" else plain


def parse_filename(disposition: str) -> str | None:
    """The filename that a request's Content-Disposition names; None: none. Raises ValueError for one that cannot be read.

    `disposition` is a header as ASGI servers give it: bytes read as Latin-1, which most clients mean as UTF-8.
    """
    parameters = {match["name"].lower(): match for match in PARAMETER.finditer(disposition)}
    if "filename*" in parameters:
        return decode_extended((parameters["filename*"]["token"] or "").strip())
    if "filename" not in parameters:
        return None
    match = parameters["filename"]
    if match["quoted"] is None and re.search(r"\s", match["token"].strip()):
        raise ValueError(
            'filename must be in quotes when it holds a blank: filename="my photo.jpg"'
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
    """RFC 8187's `charset'language'percent-encoded`, of which only UTF-8 is left."""
    charset, first, rest = value.partition("'")
    _, second, encoded = rest.partition("'")
    if not (first and second) or charset.lower() != "utf-8":
        raise ValueError("filename* must be UTF-8''… with percent-encoded bytes (RFC 8187)")
    return unquote_to_bytes(encoded).decode("utf-8")
