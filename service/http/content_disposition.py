"""Filenames in headers: written as RFC 6266 and RFC 8187 require, and read as clients send them.

One parser reads the header of a request and that of a part of a form.
"""

import re
import unicodedata
from email.errors import HeaderParseError
from email.header import decode_header
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from service.http.parameters import Parameter, name_parameters, unquote

ATTRIBUTE_CHARACTERS: Final = "!#$&+-.^_`|~"
"""The characters besides letters and digits that RFC 8187 allows unescaped."""
# The decoder of the standard library would leave out characters that are not base64.
ENCODED_WORDS: Final = re.compile(
    r"(?:=\?[\w-]+\?(?:[bB]\?[A-Za-z0-9+/]+={0,2}|[qQ]\?[!->@-~]+)\?=[ \t]*)+", re.ASCII
)
ENCODED_WORD_CHARSETS: Final = {
    "utf-8": "utf-8",
    "us-ascii": "ascii",
    "iso-8859-1": "latin-1",
}
FORM_ESCAPES: Final = {"%22": '"', "%0D": "\r", "%0A": "\n"}
"""The escapes that browsers use in forms (HTML, "multipart/form-data encoding algorithm")."""
FORM_ESCAPE: Final = re.compile("|".join(FORM_ESCAPES), re.IGNORECASE)


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
    most clients send as UTF-8. Raises ValueError if a parameter is malformed.
    """
    return find_filename(name_parameters(disposition), in_form=False)


def parse_part(disposition: str) -> tuple[str, str | None]:
    """Return the field and the filename of a form's part (RFC 7578, section 4.2).

    The field is empty, and the filename is None, if there is none. Raises ValueError if a parameter
    is malformed.
    """
    parameters = name_parameters(disposition)
    field = parameters.get("name")
    return (
        decode_octets(decode_plain(field, in_form=True)) if field else "",
        find_filename(parameters, in_form=True),
    )


def find_filename(parameters: dict[str, Parameter], *, in_form: bool) -> str | None:
    """Return the filename. `filename*` takes precedence (RFC 6266, section 4.3).

    Clients in .NET send it in forms as well, beside an encoded word. Raises ValueError.
    """
    if "filename*" in parameters:
        return decode_extended(parameters["filename*"].value)
    if "filename" not in parameters:
        return None
    text = decode_octets(decode_plain(parameters["filename"], in_form=in_form))
    return decode_words(text) if ENCODED_WORDS.fullmatch(text) else text


def decode_plain(parameter: Parameter, *, in_form: bool) -> str:
    """Return the value without quotes and escapes.

    In a form, backslashes are escapes only if one of them precedes a quote, because browsers write
    `%22` for a quote and leave a backslash as it is. Raises ValueError.
    """
    value = parameter.value
    if not parameter.is_quoted:
        if re.search(r"[ \t]", value):
            raise ValueError(
                f"{parameter.name} must be in quotes if it contains a space:"
                ' filename="my photo.jpg"'
            )
        return value
    if not in_form or '\\"' in value[:-1]:
        return unquote(value)
    return FORM_ESCAPE.sub(lambda match: FORM_ESCAPES[match[0].upper()], value[1:-1])


def decode_octets(text: str) -> str:
    """Return the text of octets that were decoded as Latin-1: UTF-8 if they are valid UTF-8."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def decode_words(text: str) -> str:
    """Decode encoded words (RFC 2047), which some clients send as `filename`. Raises ValueError."""
    try:
        return "".join(
            raw.decode(ENCODED_WORD_CHARSETS[charset or ""]) for raw, charset in decode_header(text)
        )
    except (HeaderParseError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(
            "filename is an encoded word that cannot be decoded; send filename*=UTF-8''…"
        ) from error


def decode_extended(value: str) -> str:
    """Decode the `charset'language'percent-encoded` of RFC 8187.

    Raises ValueError unless it is UTF-8.
    """
    charset, first, rest = value.partition("'")
    _, second, encoded = rest.partition("'")
    if not (first and second) or charset.lower() != "utf-8":
        raise ValueError("filename* must be UTF-8''… with percent-encoded bytes (RFC 8187)")
    try:
        return unquote_to_bytes(encoded.encode("latin-1")).decode("utf-8")
    except UnicodeError as error:
        raise ValueError("filename* must be UTF-8, percent-encoded (RFC 8187)") from error
