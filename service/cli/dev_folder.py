"""The data that `assay dev` keeps between runs, and the settings that it passes to the other parts.

FOLDER/identities   0600: key ids and secrets of both identities, the webhook's token, the link
secret FOLDER/api-key      0600: the API key that is printed
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

from service.auth.principals import digest_key, make_key
from service.cli.errors import CommandError
from service.embedded import Postgres, Store
from service.embedded.folder import keep_secret
from service.model import make_id
from service.queries import keys
from service.settings import (
    BucketName,
    DatabaseUrl,
    Deployment,
    Secret,
    Settings,
    Token,
    Url,
    parse_endpoint_url,
)

WEBHOOK_ID: Final = "ASSAY"
REGION: Final = "us-east-1"
INCOMING: Final = "assay-incoming"
VAULT: Final = "assay-vault"
OWNER: Final = "dev"
PUBLIC_ENDPOINT: Final = "ASSAY_S3_PUBLIC_ENDPOINT"


class Identities(msgspec.Struct, frozen=True, kw_only=True):
    """The secrets of one folder, which are generated once."""

    access_key: str
    secret_key: str
    signer_access_key: str
    signer_secret_key: str
    webhook_token: str
    link_secret: str

    def __repr__(self) -> str:
        return "Identities(…)"


class Development(msgspec.Struct, frozen=True, kw_only=True):
    """The running servers. `api` is the address by which this machine reaches the API."""

    folder: Path
    api: str
    postgres: Postgres
    store: Store
    identities: Identities

    def describe_death(self) -> str:
        """Return the message about a server that has exited by itself, or an empty text while both
        run.
        """
        for name, process in (
            ("PostgreSQL", self.postgres.process),
            ("the store", self.store.process),
        ):
            if process.poll() is not None:
                log = self.folder / ("postgres.log" if name == "PostgreSQL" else "store.log")
                return f"{name} has exited ({process.returncode}); its log is {log}"
        return ""


def choose_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the user's data folder (XDG base directories).

    For root, it is a place that the user `nobody` can reach, because PostgreSQL runs as that user.
    """
    if environ.get("XDG_DATA_HOME"):
        return Path(environ["XDG_DATA_HOME"]) / "assay"
    if os.geteuid() == 0:
        return Path("/var/lib/assay")
    try:
        return Path.home() / ".local" / "share" / "assay"
    except RuntimeError as error:
        raise CommandError(
            "this user has no home folder; choose a folder with --data DIR"
        ) from error


def keep_identities(folder: Path) -> Identities:
    return msgspec.json.decode(keep_secret(folder / "identities", make_identities), type=Identities)


def make_identities() -> str:
    """Return new secrets as JSON.

    Key ids have 20 characters and secrets 40, the most that MinIO accepts.
    """
    identities = Identities(
        access_key=secrets.token_hex(10),
        secret_key=secrets.token_urlsafe(30),
        signer_access_key=secrets.token_hex(10),
        signer_secret_key=secrets.token_urlsafe(30),
        webhook_token=secrets.token_urlsafe(32),
        link_secret=secrets.token_urlsafe(32),
    )
    return msgspec.json.encode(identities).decode()


async def keep_api_key(development: Development) -> str:
    """Return the key of the last run, or a new one if there was none or it was revoked."""
    path = development.folder / "api-key"
    connection = await asyncpg.connect(development.postgres.url)
    try:
        if path.exists() and await keys.find_grant(connection, digest_key(path.read_text())):
            return path.read_text()
        path.unlink(missing_ok=True)
        text, digest = make_key()
        scopes = ["read", "write"]
        await keys.create_key(
            connection,
            key_id=make_id(),
            owner=OWNER,
            name="assay dev",
            secret=digest,
            scopes=scopes,
            expires_at=None,
        )
        return keep_secret(path, lambda: text)
    finally:
        await connection.close()


def read_public_endpoint(environ: Mapping[str, str] = os.environ) -> Url | None:
    """Return the only setting of a deployment that `assay dev` reads.

    Raises CommandError if it is malformed.
    """
    text = environ.get(PUBLIC_ENDPOINT)
    try:
        return None if text is None else Url(parse_endpoint_url(text))
    except ValueError as error:
        raise CommandError(f"{PUBLIC_ENDPOINT} {error}") from error


def make_settings(development: Development) -> Settings:
    """Return the settings.

    The environment is not read, because it may configure another deployment.
    """
    identities = development.identities
    return Settings(
        database_url=DatabaseUrl(Secret(development.postgres.url)),
        s3_endpoint=Url(development.store.endpoint),
        s3_public_endpoint=read_public_endpoint(),
        s3_region=REGION,
        s3_access_key=Secret(identities.access_key),
        s3_secret_key=Secret(identities.secret_key),
        s3_signer_access_key=Secret(identities.signer_access_key),
        s3_signer_secret_key=Secret(identities.signer_secret_key),
        webhook_token=(Token(Secret(identities.webhook_token)),),
        webhook_id=WEBHOOK_ID,
        link_secret=(Secret(identities.link_secret),),
    )


def make_deployment(store: Store, identities: Identities) -> Deployment:
    return Deployment(
        s3_endpoint=Url(store.endpoint),
        s3_region=REGION,
        s3_root_access_key=Secret(store.root_access_key),
        s3_root_secret_key=Secret(store.root_secret_key),
        s3_access_key=Secret(identities.access_key),
        s3_secret_key=Secret(identities.secret_key),
        s3_signer_access_key=Secret(identities.signer_access_key),
        s3_signer_secret_key=Secret(identities.signer_secret_key),
        incoming_bucket=BucketName(INCOMING),
        vault_bucket=BucketName(VAULT),
        webhook_id=WEBHOOK_ID,
    )


def describe_json(development: Development, key: str) -> str:
    """Return one line of JSON for programs. The keys in `s3` are those of root."""
    store = development.store
    line = {
        "api": development.api,
        "key": key,
        "database": development.postgres.url,
        "s3": {
            "endpoint": store.endpoint,
            "access_key": store.root_access_key,
            "secret_key": store.root_secret_key,
        },
        "incoming": INCOMING,
        "vault": VAULT,
        "pids": {"assay": os.getpid(), "postgres": development.postgres.pid, "store": store.pid},
    }
    return msgspec.json.encode(line).decode()


def describe(development: Development, key: str) -> str:
    api = development.api
    return f"""
Assay runs at {api}   (data in {development.folder}; Ctrl-C stops everything)

    {make_page_address(api, key)}     opens the page, signed in

    KEY={key}
    curl -LT photo.jpg -H "Authorization: Bearer $KEY" {api}/upload/
    curl -H "Authorization: Bearer $KEY" "{api}/files?limit=1"
    sha256sum photo.jpg
"""


def make_page_address(api: str, key: str) -> str:
    """Return the address that opens the page and signs it in.

    The key is in the fragment, which browsers do not send to the server. The page removes it from
    the address (service/web/fragment.js).
    """
    return f"{api}/#key={key}"
