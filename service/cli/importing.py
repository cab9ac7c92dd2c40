"""`assay import`: takes the objects of another bucket of the same store."""

import contextlib
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cyclopts import Parameter

from service import database
from service.cli.client.display import show
from service.cli.errors import CommandError
from service.database.reserved_keys import open_reserved_keys
from service.files.validation import is_owner
from service.object_store import ObjectStore, StoreError
from service.operations.importing import Importer, Outcome, import_all
from service.operations.importing.candidates import Candidate, Skipped
from service.operations.importing.copying import HASHING_THREADS
from service.operations.importing.objects import list_candidates
from service.operations.importing.table import TableError, read_candidates
from service.resources import open_worker_resources
from service.settings import ImportSettings, read_settings
from service.telemetry.logs import configure_logs

SOURCE: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.DOTALL)
REPORT_SECONDS: Final = 10.0


async def import_objects(
    source: str, /, *, owner: str, table: Annotated[Path | None, Parameter(name="--table")] = None
) -> None:
    """Copy the objects of another bucket into the vault, and make them files of an owner.

    Every copy is hashed before its file exists. The source is only read. A second run continues
    where the first ended, and does not import deleted files again for as long as their metadata is
    kept. Objects that cannot be imported are listed on standard error.

    Parameters
    ----------
    source
        The bucket and the beginning of the keys, as s3://bucket/prefix.
    owner
        The owner of the files.
    table
        A CSV file with the columns id, filename, size, content_type, hash, upload_date and
        minio_object_name. Files keep their ids and dates, and sizes and digests are compared. Only
        objects in the table are imported. Their keys are the prefix and `minio_object_name`.
    """
    settings = read_settings(os.environ, ImportSettings)
    configure_logs(settings.log_level)
    bucket, prefix = parse_source(source, settings)
    if not is_owner(owner):
        raise CommandError("--owner must be a name of 1 to 200 bytes, without control characters")
    tally = Tally()
    async with open_importer(settings, bucket) as importer:
        candidates = (
            list_candidates(importer.source, prefix, owner=owner)
            if table is None
            else read_candidates(table, bucket, prefix, owner=owner)
        )
        await report_all(importer, candidates, tally)
    print(tally.describe())
    if tally.failed:
        raise CommandError("")


def parse_source(text: str, settings: ImportSettings) -> tuple[str, str]:
    """Return the bucket and the prefix. Raises CommandError."""
    match = SOURCE.fullmatch(text)
    if match is None:
        raise CommandError(f"{show(text)} is not a source such as s3://bucket/prefix")
    bucket, prefix = match[1], match[2] or ""
    if bucket in (settings.incoming_bucket, settings.vault_bucket):
        raise CommandError(f"{bucket} is a bucket of Assay itself, and cannot be imported")
    return bucket, prefix


@contextlib.asynccontextmanager
async def open_importer(settings: ImportSettings, bucket: str) -> AsyncIterator[Importer]:
    """Yield an importer that uses the identity of the settings for the source and the vault."""
    async with (
        open_worker_resources(settings) as resources,
        open_reserved_keys(resources.pool, resources.notifications) as reserved_keys,
    ):
        await database.check_version(resources.pool)
        store = ObjectStore(
            settings.s3_endpoint,
            access_key=settings.s3_import_access_key or settings.s3_access_key,
            secret_key=settings.s3_import_secret_key or settings.s3_secret_key,
            region=settings.s3_region,
        )
        hashing = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="hash")
        try:
            yield Importer(
                resources=msgspec.structs.replace(
                    resources,
                    store=store,
                    incoming=store.bucket(bucket),
                    vault=store.bucket(settings.vault_bucket),
                ),
                reserved_keys=reserved_keys,
                hashing=hashing,
            )
        finally:
            hashing.shutdown(wait=False, cancel_futures=True)
            store.close()


class Tally:
    """The numbers of files so far."""

    def __init__(self) -> None:
        self.new = self.known = self.failed = self.size = 0

    def add(self, outcome: Outcome) -> None:
        self.new += outcome.is_new
        self.size += outcome.size if outcome.is_new else 0
        self.failed += outcome.failure is not None
        self.known += not outcome.is_new and outcome.failure is None

    def describe(self) -> str:
        return (
            f"{self.new} files imported ({self.size} bytes),"
            f" {self.known} existed already, {self.failed} could not be imported"
        )


async def report_all(
    importer: Importer, candidates: AsyncIterator[Candidate | Skipped], tally: Tally
) -> None:
    """Import everything, and write failures and, at intervals, numbers to standard error."""
    reported_at = time.monotonic()
    try:
        async for outcome in import_all(importer, candidates):
            tally.add(outcome)
            if outcome.failure is not None:
                print(f"{show(outcome.key)}: {show(outcome.failure)}", file=sys.stderr)
            if time.monotonic() - reported_at > REPORT_SECONDS:
                reported_at = time.monotonic()
                print(tally.describe(), file=sys.stderr)
    except TableError as error:
        raise CommandError(f"{tally.describe()}; {error}") from error
    except database.UNREACHABLE as error:
        raise CommandError(
            f"{tally.describe()}; the database is not available ({type(error).__name__}): run the"
            " import again"
        ) from error
    except StoreError as error:
        raise CommandError(
            f"{tally.describe()}; the source cannot be listed: {error}. Check the bucket's name,"
            " and that ASSAY_S3_IMPORT_ACCESS_KEY names an identity that may list and read it"
        ) from error
