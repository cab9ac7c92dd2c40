"""The secrets that no log of the run may contain, and the check of the logs."""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

SECRETS_IN_USE: set[str] = set()
SHORTEST = 12
"""The length below which a secret is not searched for.

The password of a local test database may be an ordinary word that occurs in the log.
"""
SECRET_SETTINGS = ("_KEY", "_TOKEN", "_SECRET", "_URL")
SIGNED = re.compile(r"(?i)X-Amz-(?:Signature|Credential|Security-Token)=(?!\[hidden\])|AWS4-HMAC")


def keep_secret(values: Iterable[str]) -> None:
    """Require that no log contains these values, or the password of a value that is a URL."""
    for value in values:
        parts = [value, urlsplit(value).password or ""] if "://" in value else [value]
        SECRETS_IN_USE.update(part for part in parts if len(part) >= SHORTEST)


def keep_link_secret(url: str) -> str:
    """Require that no log contains the token of a link, and return the token."""
    token = url.rpartition("/l/")[2].partition("/")[0]
    keep_secret([token])
    return token


def keep_settings_secret(environ: Mapping[str, str]) -> None:
    """Require that no log contains the values of those variables that hold secrets."""
    named = {
        name: value
        for name, value in environ.items()
        if name.startswith("ASSAY_") and name.endswith(SECRET_SETTINGS)
    }
    for name, value in named.items():
        keep_secret(
            value.split(",") if not name.endswith("_URL") else [value] if "@" in value else []
        )


def check_log(text: str) -> None:
    leaked = [secret[:4] for secret in SECRETS_IN_USE if secret in text]
    assert not leaked, f"secrets beginning with {leaked} are in a log"
    assert not (signed := SIGNED.search(text)), text[max(0, signed.start() - 200) : signed.end()]
