"""Validation of what a client declares.

Every refusal names the field and says what would be right.
"""

import hashlib
import re
from typing import Any, Final

import msgspec

from service.http.parameters import TOKEN, normalize_media_type
from service.model import Declaration, Sha256
from service.problems import InvalidRequest

LONGEST_FILENAME_BYTES: Final = 255
LONGEST_OWNER_BYTES: Final = 200
"""The limit of an owner's name.

It is stored percent-encoded, with the filename, in the metadata of an object, which MinIO limits to
2 KiB.
"""
LONGEST_CONTENT_TYPE: Final = 255
MOST_METADATA_PAIRS: Final = 32
MOST_METADATA_BYTES: Final = 4096

# RFC 9110, section 8.3.1, but with single spaces only. A signature folds white space, so the store
# would see a value other than the declared one.
QUOTED: Final = r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\[\x20-\x7e])*"'
MEDIA_TYPE: Final = re.compile(rf"{TOKEN}/{TOKEN}(?: ?; ?{TOKEN}=(?:{TOKEN}|{QUOTED}))*")
IDEMPOTENCY_KEY: Final = re.compile(r"^[\x21-\x7e]{1,255}$")
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def check_filename(text: str, *, field: str = "filename") -> str:
    """Check a plain name of 1 to 255 bytes of UTF-8, and return it. Raises InvalidRequest."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest.at(
            field, "contains an unpaired surrogate: send characters that UTF-8 can encode"
        ) from error
    if not 1 <= length <= LONGEST_FILENAME_BYTES:
        raise InvalidRequest.at(
            field, f"has {length} bytes of UTF-8, expected 1 to {LONGEST_FILENAME_BYTES}"
        )
    if CONTROL.search(text):
        raise InvalidRequest.at(
            field, "contains a control character: send printable characters only"
        )
    if "/" in text or "\\" in text:
        raise InvalidRequest.at(
            field, "contains a path separator: send the name without its folders"
        )
    if text in (".", ".."):
        raise InvalidRequest.at(field, "names a folder: send the name of a file")
    return text


def is_owner(text: str) -> bool:
    """Return whether the text can be the name of an owner.

    It has 1 to 200 bytes of UTF-8 and no control characters, and is not blank.
    """
    try:
        return (
            len(text.encode()) <= LONGEST_OWNER_BYTES
            and text.strip() != ""
            and not CONTROL.search(text)
        )
    except UnicodeEncodeError:
        return False


def check_owner(text: str) -> str:
    if not is_owner(text):
        raise InvalidRequest.at(
            "owner",
            f"must be a name of 1 to {LONGEST_OWNER_BYTES} bytes, without control characters",
        )
    return text


def check_content_type(text: str, *, field: str = "content_type") -> str:
    """Check a media type (RFC 9110, section 8.3.1), and return it. Raises InvalidRequest."""
    if len(text) > LONGEST_CONTENT_TYPE or "  " in text or not MEDIA_TYPE.fullmatch(text):
        raise InvalidRequest.at(
            field,
            "is not a media type such as text/plain; charset=utf-8 "
            f"of at most {LONGEST_CONTENT_TYPE} characters",
        )
    return text


def parse_content_type(header: str | None, *, field: str = "Content-Type") -> str | None:
    """Return the media type of a header, or None if it is absent or empty.

    White space and semicolons without a meaning are removed, as the verification does with the
    store's value. Raises InvalidRequest.
    """
    if not header:
        return None
    try:
        return check_content_type(normalize_media_type(header), field=field)
    except ValueError as error:
        raise InvalidRequest.at(field, str(error)) from error


def parse_sha256(text: str, *, field: str = "sha256") -> Sha256:
    try:
        return Sha256.parse(text)
    except ValueError as error:
        raise InvalidRequest.at(field, str(error)) from error


def check_metadata(pairs: dict[str, str], *, field: str = "metadata") -> dict[str, str]:
    if len(pairs) > MOST_METADATA_PAIRS:
        raise InvalidRequest.at(
            field, f"has {len(pairs)} pairs, expected at most {MOST_METADATA_PAIRS}"
        )
    texts = [text for pair in pairs.items() for text in pair]
    if any("\x00" in text for text in texts):
        raise InvalidRequest.at(field, "contains a NUL character: send text without it")
    try:
        length = sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError as error:
        raise InvalidRequest.at(
            field, "contains an unpaired surrogate: send characters that UTF-8 can encode"
        ) from error
    if length > MOST_METADATA_BYTES:
        raise InvalidRequest.at(
            field, f"has {length} bytes of UTF-8 in all, expected at most {MOST_METADATA_BYTES}"
        )
    return pairs


def check_idempotency_key(text: str) -> str:
    if not IDEMPOTENCY_KEY.fullmatch(text):
        raise InvalidRequest.at(
            "Idempotency-Key", "expected 1 to 255 visible ASCII characters, such as a random UUID"
        )
    return text


def digest_declaration(declaration: Declaration) -> Sha256:
    """Return the digest by which requests with the same `Idempotency-Key` are compared.

    It does not depend on how their JSON was written.
    """
    return digest_json(declaration)


def digest_streamed_upload(declaration: Declaration, sha256: Sha256) -> Sha256:
    """Return the digest by which streamed uploads with the same `Idempotency-Key` are compared.

    `sha256` is that of the received bytes. No request of `POST /files` has the same digest, even if
    it declares the same file.
    """
    return digest_json([declaration, sha256])


def digest_json(value: Any) -> Sha256:
    encoded = msgspec.json.encode(value, order="deterministic", enc_hook=str)
    return Sha256(hashlib.sha256(encoded).digest())
