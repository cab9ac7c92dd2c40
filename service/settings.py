"""The settings: `ASSAY_*` variables, read into one frozen struct.

Each variable can also be given as `*_FILE`, the path of a file that holds the value. All errors are
reported at once, each with the name of its variable.
"""

import re
import typing
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NewType, TypeVar
from urllib.parse import urlsplit

import msgspec

S = TypeVar("S", bound=msgspec.Struct)

PREFIX: Final = "ASSAY_"
CLIENTS_VARIABLES: Final = frozenset({"ASSAY_URL", "ASSAY_KEY"})
TESTS_PREFIX: Final = "ASSAY_TEST_"
"""The prefix of variables for the tests.

Servers ignore these variables and those of the client, so that they start from a shell that sets
them.
"""
LONGEST_DURATION: Final = timedelta(days=36_500)
"""A limit that keeps all computed times within the range of Python and PostgreSQL."""
SHORTEST_SECRET: Final = 32
"""The least number of characters of a secret that signs or authenticates.

Text of base64 or hexadecimal digits then has at least 128 random bits.
"""

BOUNDS: Final[Mapping[str, tuple[str, str]]] = {
    "database_statement_cache": ("0", "10000"),
    "database_pool_size": ("1", "1000"),
    "upload_url_ttl": ("1s", "7d"),  # SigV4 permits no longer lifetime of a presigned URL
    "upload_ttl": ("1s", "7d"),
    "upload_grace": ("1s", "7d"),
    "max_file_bytes": ("1", "5TiB"),  # the largest object of the store
    "multipart_above": ("1", "5GiB"),  # the largest body of one PUT
    "max_connections": ("1", "1000000"),
    "keep_alive": ("1s", "1h"),
    "min_upload_rate": ("1", "1GiB"),
    "unverifiable_reads": ("1", "10000"),
    "unverifiable_after": ("1s", "365d"),
    "lease": ("1s", "1h"),  # a shorter one expires before its first extension is committed
    "worker_slots": ("1", "1000"),
    "sweep_every": ("0.1s", "7d"),
    "sweep_delay": ("0s", "30d"),
    "copy_grace": ("2h", "365d"),  # an hour more than the longest lease: no copy lives longer
    "keep_rows": ("1s", "36500d"),
    "scrub_every": ("1s", "36500d"),
    "scrub_rate": ("256KiB", "1TiB"),
    "download_buffers": ("1MiB", "1TiB"),
    "accel_min_bytes": ("1", "5TiB"),
}
"""The least and the largest value of each number, size and duration."""

Secret = NewType("Secret", str)
DatabaseUrl = NewType("DatabaseUrl", Secret)
Token = NewType("Token", Secret)
BaseUrl = NewType("BaseUrl", str)
Url = NewType("Url", str)
Origin = NewType("Origin", str)
Delay = NewType("Delay", timedelta)
Count = NewType("Count", int)
Bytes = NewType("Bytes", int)
LogLevel = NewType("LogLevel", str)
BucketName = NewType("BucketName", str)
Location = NewType("Location", str)
HeaderSecret = NewType("HeaderSecret", Secret)
Name = NewType("Name", str)


class SettingsError(Exception):
    """Invalid settings, with one line for each variable that is missing, unknown or malformed."""


class DatabaseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of `migrate` and `keys`."""

    database_url: DatabaseUrl
    database_listen_url: DatabaseUrl | None = None
    """A URL of PostgreSQL that bypasses a pooler, for LISTEN and for migrations.

    The default is `database_url`.
    """
    database_statement_cache: int = 512
    """The number of prepared statements kept per connection.

    It must be 0 behind a pooler in transaction mode.
    """
    database_pool_size: Count = Count(10)

    @property
    def listen_url(self) -> str:
        return self.database_listen_url or self.database_url

    def __repr__(self) -> str:
        # Many fields are secrets, and a repr may be logged.
        return f"{type(self).__name__}(…)"


class WorkerSettings(DatabaseSettings, frozen=True, kw_only=True):
    """The settings that `worker`, `sweep` and `inspect` read. The API reads them as well.

    Times are durations, and sizes are in bytes.
    """

    s3_endpoint: Url
    s3_region: str = "us-east-1"
    s3_access_key: Secret
    s3_secret_key: Secret
    incoming_bucket: BucketName = BucketName("assay-incoming")
    vault_bucket: BucketName = BucketName("assay-vault")
    unverifiable_reads: Count = Count(10)
    """The number of failed reads of its object after which a file can be rejected."""
    unverifiable_after: timedelta = timedelta(hours=24)
    """The shortest time between the first of these failed reads and the rejection."""
    lease: timedelta = timedelta(minutes=1)
    worker_slots: Count = Count(4)
    sweep_every: timedelta = timedelta(seconds=30)
    sweep_delay: Delay = Delay(timedelta(minutes=5))
    """The time between a commit and the first deletion of objects that the commit made garbage.

    It must be longer than a standby lags behind.
    """
    copy_grace: timedelta = timedelta(hours=24)
    keep_rows: timedelta = timedelta(days=30)
    scrub_every: timedelta = timedelta(days=30)
    """The time after which the object of a proved file is read again."""
    scrub_rate: Bytes = Bytes(20 * 1024**2)
    """The rate of these reads in bytes per second, for all workers together."""
    log_level: LogLevel = LogLevel("info")


class ImportSettings(WorkerSettings, frozen=True, kw_only=True):
    """The settings of `import`."""

    s3_import_access_key: Secret | None = None
    """The identity that may read the source and write to the vault.

    The default is the service identity.
    """
    s3_import_secret_key: Secret | None = None


class Settings(WorkerSettings, frozen=True, kw_only=True):
    """The settings of the API, which can run a worker too.

    Only the API signs URLs and links, and only the API receives events.
    """

    s3_public_endpoint: Url | None = None
    s3_signer_access_key: Secret
    s3_signer_secret_key: Secret
    s3_bind_absent_headers: bool = True
    """Whether upload URLs bind the absence of harmful headers.

    MinIO and its forks accept such URLs. Other stores refuse them.
    """
    webhook_token: tuple[Token, ...]
    webhook_id: str = "ASSAY"
    link_secret: tuple[Secret, ...] = ()
    public_url: BaseUrl | None = None
    cors_origins: tuple[Origin, ...] = ()
    """The origins whose pages may use the API from a browser.

    The store has a setting of its own for this.
    """
    upload_url_ttl: timedelta = timedelta(minutes=15)
    upload_ttl: timedelta = timedelta(hours=24)
    upload_grace: timedelta = timedelta(minutes=15)
    max_file_bytes: Bytes = Bytes(5 * 1024**4)
    multipart_above: Bytes = Bytes(64 * 1024**2)
    """The size above which a file is sent in parts, unless its client asks for one PUT."""
    max_connections: Count = Count(4096)
    """The limit of open connections of one API process.

    Above it, the connection that has been idle for the longest time is closed.
    """
    keep_alive: timedelta = timedelta(seconds=75)
    """How long a connection may be idle between two requests.

    The default is longer than a proxy keeps an idle connection (nginx: 60 s), so that the proxy
    closes it first.
    """
    min_upload_rate: Bytes = Bytes(4 * 1024)
    """A rate in bytes per second. A streamed upload that is slower for 30 s gets 408."""
    download_buffers: Bytes = Bytes(32 * 1024**2)
    """The memory budget of all downloads of a process."""
    s3_reader_access_key: Secret | None = None
    s3_reader_secret_key: Secret | None = None
    accel_redirect: Location | None = None
    """The location of nginx that reads the vault, as `/vault/`.

    If it is set, nginx sends the bytes of downloads (service/downloads/handover.py).
    """
    accel_secret: HeaderSecret | None = None
    """What nginx sends with each request. Without it, a request is answered as usual."""
    accel_min_bytes: Bytes = Bytes(1024**2)
    """The length below which the API itself sends the bytes."""
    accel_direct_owners: tuple[Name, ...] = ()
    """The owners of files whose bytes the API itself sends."""

    @property
    def public_endpoint(self) -> str:
        """Return the endpoint by which clients reach the store.

        A signature covers the host, so a signed URL is never rewritten.
        """
        return self.s3_public_endpoint or self.s3_endpoint

    @property
    def base_path(self) -> str:
        """Return the path of PUBLIC_URL, which is the prefix of every path in a response."""
        return urlsplit(self.public_url or "").path.rstrip("/")

    @property
    def page_origin(self) -> str | None:
        """Return the origin of Assay's own page, or None if PUBLIC_URL is not set."""
        return None if self.public_url is None else read_origin(self.public_url)

    def secrets(self) -> list[str]:
        """Return every value that must never reach a log."""
        named = (
            self.s3_access_key,
            self.s3_secret_key,
            self.s3_signer_access_key,
            self.s3_signer_secret_key,
        )
        optional = (self.s3_reader_access_key, self.s3_reader_secret_key, self.accel_secret)
        return [
            *named,
            *filter(None, optional),
            *self.webhook_token,
            *self.link_secret,
            self.database_url,
            self.listen_url,
        ]


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of `bootstrap`, which alone reads the credentials of the store's root and of
    PostgreSQL's administrator.

    `webhook_id` is the ID in the store's `MINIO_NOTIFY_WEBHOOK_…_<ID>` variables.
    """

    database_admin_url: DatabaseUrl | None = None
    """The URL of a role that may create roles and databases.

    Without it, bootstrap does not change the database.
    """
    database_url: DatabaseUrl | None = None
    """The URL that the other processes use. It names the role and the database to create."""
    s3_endpoint: Url
    s3_region: str = "us-east-1"
    s3_root_access_key: Secret
    s3_root_secret_key: Secret
    s3_access_key: Secret
    s3_secret_key: Secret
    s3_signer_access_key: Secret
    s3_signer_secret_key: Secret
    s3_reader_access_key: Secret | None = None
    """The identity whose requests nginx sends. Without it, bootstrap creates none."""
    s3_reader_secret_key: Secret | None = None
    incoming_bucket: BucketName = BucketName("assay-incoming")
    vault_bucket: BucketName = BucketName("assay-vault")
    webhook_id: str = "ASSAY"

    def __repr__(self) -> str:
        # The key ids are secrets, like the secret keys.
        return f"Deployment({self.s3_endpoint}, {self.incoming_bucket}, {self.vault_bucket})"

    @property
    def webhook_arn(self) -> str:
        return f"arn:minio:sqs::{self.webhook_id}:webhook"

    @property
    def signer_policy_name(self) -> str:
        return f"{self.incoming_bucket}-signer"

    @property
    def service_policy_name(self) -> str:
        return f"{self.vault_bucket}-service"

    @property
    def reader_policy_name(self) -> str:
        return f"{self.vault_bucket}-reader"


KINDS: Final = (DatabaseSettings, WorkerSettings, ImportSettings, Settings, Deployment)


def list_variables() -> set[str]:
    return {PREFIX + field.upper() for kind in KINDS for field in kind.__struct_fields__}


def read_settings(environ: Mapping[str, str], kind: type[S]) -> S:
    """Read settings of this kind from the environment.

    Raises SettingsError, which names every wrong variable, not only the first.
    """
    values: dict[str, Any] = {}
    errors = list(find_unknown(environ))
    hints = typing.get_type_hints(kind)
    required = {field.name for field in msgspec.structs.fields(kind) if field.required}
    for name in kind.__struct_fields__:
        variable = PREFIX + name.upper()
        try:
            text = read_variable(environ, variable)
            if text is not None:
                values[name] = parse_setting(name, text, parse=PARSERS[hints[name]])
            elif name in required:
                raise ValueError(
                    f"is required (or {variable}_FILE, the path of a file that holds it)"
                )
        except (ValueError, OSError) as error:
            errors.append(f"{variable} {error}")
    if not errors:
        errors.extend(find_contradictions(values, kind))
    if errors:
        raise SettingsError("\n".join(errors))
    return kind(**values)


def find_unknown(environ: Mapping[str, str]) -> list[str]:
    known = list_variables()
    return [
        f"{name} is not a setting; docs/settings.md lists them"
        for name in sorted(environ)
        if name.startswith(PREFIX)
        and name.removesuffix("_FILE") not in known | CLIENTS_VARIABLES
        and not name.startswith(TESTS_PREFIX)
    ]


def find_contradictions(values: Mapping[str, Any], kind: type[msgspec.Struct]) -> list[str]:
    errors = []
    if kind is not DatabaseSettings and values.get(
        "incoming_bucket", "assay-incoming"
    ) == values.get("vault_bucket", "assay-vault"):
        errors.append(
            "ASSAY_INCOMING_BUCKET and ASSAY_VAULT_BUCKET must differ: "
            "upload URLs write to the first and must never write to the second"
        )
    if kind is Deployment and "database_admin_url" in values and "database_url" not in values:
        errors.append(
            "ASSAY_DATABASE_URL is required with ASSAY_DATABASE_ADMIN_URL: "
            "it names the role and the database to create"
        )
    for needed, by in find_incomplete(values):
        errors.append(f"ASSAY_{needed.upper()} is required with ASSAY_{by.upper()}")
    return errors


def find_incomplete(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return each missing setting, and the one that needs it."""
    reader, accel = ("s3_reader_access_key", "s3_reader_secret_key"), "accel_redirect"
    importer = ("s3_import_access_key", "s3_import_secret_key")
    needs = {
        reader[0]: (reader[1],),
        reader[1]: (reader[0],),
        importer[0]: (importer[1],),
        importer[1]: (importer[0],),
        accel: ("accel_secret", *reader),
        **dict.fromkeys(("accel_secret", "accel_direct_owners"), (accel,)),
    }
    missing = {
        needed: by
        for by, all_needed in needs.items()
        if by in values
        for needed in all_needed
        if needed not in values
    }
    return list(missing.items())


def read_variable(environ: Mapping[str, str], variable: str) -> str | None:
    """Return the value, or the content of the file that `*_FILE` names, or None without either.

    Raises ValueError if both are set, and OSError if the file cannot be read.
    """
    path = environ.get(variable + "_FILE")
    if path is not None and variable in environ:
        raise ValueError(f"and {variable}_FILE are both set: set only one")
    if path is None:
        return environ.get(variable)
    return Path(path).read_text(encoding="utf-8").strip()


def parse_setting(name: str, text: str, *, parse: Callable[[str], Any]) -> Any:
    """Parse the value of a setting. Raises ValueError if it is malformed or not within BOUNDS."""
    value = parse(text)
    if name in BOUNDS:
        least, most = BOUNDS[name]
        if not parse(least) <= value <= parse(most):
            raise ValueError(f"must be at least {least} and at most {most}")
    return value


def parse_text(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text.strip()


def parse_several(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise ValueError("is empty, or has an empty value between its commas")
    return parts


def parse_secrets(text: str) -> tuple[str, ...]:
    """Parse secrets that sign or authenticate.

    The error texts omit the secrets.
    """
    secrets = parse_several(text)
    for secret in secrets:
        check_length(secret)
    return secrets


def check_length(secret: str) -> None:
    """Check the length of one secret. Raises ValueError, with a text that omits the secret."""
    if len(secret) < SHORTEST_SECRET:
        raise ValueError(
            f"has a secret of {len(secret)} characters, but each must have at least"
            f" {SHORTEST_SECRET}; a comma separates two secrets, so no secret may contain one;"
            " `openssl rand -hex 32` prints a good one"
        )


def parse_tokens(text: str) -> tuple[str, ...]:
    """Parse the tokens that the store may send with its events.

    The store sends `Bearer TOKEN` if its token is one word, and sends a token of two words as it
    is. For three words it sends no header. Of two words, the second is the secret, because the
    first names the scheme.
    """
    tokens = parse_several(text)
    if not all(re.fullmatch(r"[!-~]+( [!-~]+)?", token) for token in tokens):
        raise ValueError(
            "must be one or two words of ASCII characters without a comma; "
            "separate several tokens by commas"
        )
    for token in tokens:
        check_length(token.rpartition(" ")[2])
    return tokens


def parse_database_url(text: str) -> str:
    """Parse the URL of a database.

    The error text omits the value, because any part of it may hold a password.
    """
    wanted = (
        "must be a URL such as postgresql://user:password@host:5432/database, "
        "with special characters percent-encoded"
    )
    try:
        url = urlsplit(text.strip())
        ports = [
            place.rpartition(":")[2]
            for place in url.netloc.rpartition("@")[2].split(",")
            if re.search(r":[^\]]*$", place)
        ]
    except ValueError as error:
        raise ValueError(wanted) from error
    if (
        url.scheme not in ("postgresql", "postgres")
        or url.fragment
        or not all(is_port(port) for port in ports)
    ):
        raise ValueError(wanted)
    return text.strip()


def is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and 0 < int(text) < 65536


def parse_url(text: str) -> str:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise ValueError(f"must be a URL such as http://minio:9000 ({error})") from error
    if (
        url.scheme not in ("http", "https")
        or not url.hostname
        or port == 0
        or url.query
        or url.fragment
        or "@" in url.netloc
        or not re.fullmatch(r"[!-~]+", text)  # its path is part of headers
    ):
        raise ValueError("must be a URL such as http://minio:9000, in ASCII and without spaces")
    return text.rstrip("/")


def parse_endpoint_url(text: str) -> str:
    """Parse the URL of a store.

    It has no path, because a request's path is the bucket and the key, and the signature covers it.
    """
    url = parse_url(text)
    if urlsplit(url).path:
        raise ValueError("must be a URL without a path, such as http://minio:9000")
    return url


DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def parse_origins(text: str) -> tuple[str, ...]:
    """Parse origins as browsers send them in `Origin` (RFC 6454, section 6.2).

    They are in lower case, without a default port and without a path.
    """
    origins = parse_several(text)
    for origin in origins:
        parse_url(origin)
        scheme = urlsplit(origin).scheme
        if not re.fullmatch(r"https?://[a-z0-9.\[\]:-]+", origin) or origin.endswith(
            DEFAULT_PORTS[scheme]
        ):
            raise ValueError(
                "must be origins as browsers send them, such as https://app.example.com, "
                "without path or default port"
            )
    return origins


def read_origin(url: str) -> str:
    parts = urlsplit(url)
    place = parts.netloc.lower()
    return f"{parts.scheme}://{place.removesuffix(DEFAULT_PORTS[parts.scheme])}"


def parse_number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("must be a whole number")
    return int(text)


def parse_count(text: str) -> int:
    number = parse_number(text)
    if number == 0:
        raise ValueError("must be 1 or more")
    return number


def parse_switch(text: str) -> bool:
    if text.lower() not in ("yes", "no"):
        raise ValueError("must be yes or no")
    return text.lower() == "yes"


def parse_log_level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError("must be debug, info, warning or error")
    return text.lower()


UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
SIZES: Final = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}


def parse_duration(text: str) -> timedelta:
    duration = parse_delay(text)
    if not duration:
        raise ValueError(
            "must be a time above zero, in seconds or in a form such as 15m, 24h or 7d"
        )
    return duration


def parse_delay(text: str) -> timedelta:
    """Parse a duration that may be zero."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(s|m|h|d|)", text)
    if not match:
        raise ValueError("must be a time in seconds or in a form such as 15m, 24h or 7d")
    seconds = float(match[1]) * UNITS[match[2]]
    if seconds > LONGEST_DURATION.total_seconds():
        raise ValueError(f"must be {LONGEST_DURATION.days} days or less")
    return timedelta(seconds=seconds)


def parse_bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15})(KiB|MiB|GiB|TiB|)", text)
    if not match or int(match[1]) == 0:
        raise ValueError("must be a size above zero, in bytes or in a form such as 64MiB or 5GiB")
    return int(match[1]) * SIZES[match[2]]


def parse_location(text: str) -> str:
    if not re.fullmatch(r"/(?:[A-Za-z0-9_-]+/)+", text):
        raise ValueError(
            "must be the path of a location that begins and ends with /, such as /vault/"
        )
    return text


def parse_secret(text: str) -> str:
    """Parse a secret that one program sends to another."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise ValueError("must consist of letters, digits, - and _, because it is sent in a header")
    check_length(text)
    return text


def parse_bucket_name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", text):
        raise ValueError(
            "must be a bucket name: 3 to 63 lower-case letters, digits, dots and hyphens"
        )
    return text


PARSERS: Final[Mapping[Any, Callable[[str], Any]]] = {
    str: parse_text,
    Secret: parse_text,
    Secret | None: parse_text,
    HeaderSecret | None: parse_secret,
    tuple[Name, ...]: parse_several,
    Location | None: parse_location,
    DatabaseUrl: parse_database_url,
    DatabaseUrl | None: parse_database_url,
    tuple[Secret, ...]: parse_secrets,
    tuple[Token, ...]: parse_tokens,
    tuple[Origin, ...]: parse_origins,
    BaseUrl | None: parse_url,
    Url: parse_endpoint_url,
    Url | None: parse_endpoint_url,
    bool: parse_switch,
    int: parse_number,
    Count: parse_count,
    LogLevel: parse_log_level,
    Bytes: parse_bytes,
    timedelta: parse_duration,
    Delay: parse_delay,
    BucketName: parse_bucket_name,
}
