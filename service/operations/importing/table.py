"""The rows of a table of files: a CSV file whose first line names its columns.

The columns are those of the design that Assay comes from: id, filename, size, content_type, hash,
upload_date and minio_object_name, in any order. `content_type` and `hash` may be empty. The file
keeps its id and its date, and its digest is compared with `hash`.
"""

import csv
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO, TypeVar
from uuid import UUID

from service.files.validation import check_filename, parse_content_type, parse_sha256
from service.operations.importing.candidates import Candidate, Skipped, name_origin
from service.problems import InvalidRequest
from service.queries.importing import ImportedFile

Value = TypeVar("Value")
COLUMNS: Final = (
    "id",
    "filename",
    "size",
    "content_type",
    "hash",
    "upload_date",
    "minio_object_name",
)
BOM: Final = "utf-8-sig"


class TableError(Exception):
    """A file that cannot be read, or is not a table with these columns."""


async def read_candidates(
    path: Path, bucket: str, prefix: str, *, owner: str
) -> AsyncIterator[Candidate | Skipped]:
    """Yield a file for each row. Keys are `prefix` and the row's `minio_object_name`.

    Raises TableError.
    """
    with open_table(path) as opened:
        reader = csv.DictReader(opened, strict=True)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise TableError(
                f"{path}: the first line has no column {', '.join(missing)};"
                f" expected {','.join(COLUMNS)}"
            )
        try:
            for row in reader:
                yield describe_row(row, bucket, prefix, owner=owner, line=reader.line_num)
        except (csv.Error, UnicodeDecodeError) as error:
            raise TableError(f"{path}, line {reader.line_num}: {error}") from error


def open_table(path: Path) -> TextIO:
    try:
        return path.open(encoding=BOM, newline="")
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from error


def describe_row(
    row: Mapping[str, str | None], bucket: str, prefix: str, *, owner: str, line: int
) -> Candidate | Skipped:
    if None in row or None in row.values():
        return Skipped(f"line {line}", "does not have as many fields as the first line")
    fields = {name: value or "" for name, value in row.items()}
    key = prefix + fields["minio_object_name"]
    try:
        date = read_field(fields, "upload_date", parse_date)
        digest = fields["hash"]
        file = ImportedFile(
            id=read_field(fields, "id", UUID),
            owner=owner,
            filename=check_filename(fields["filename"]),
            size=read_field(fields, "size", parse_size),
            content_type=parse_content_type(fields["content_type"], field="content_type"),
            declared_sha256=parse_sha256(digest, field="hash") if digest else None,
            metadata={},
            created_at=date,
            upload_date=date,
            why=name_origin(bucket, key),
        )
    except (InvalidRequest, ValueError) as error:
        return Skipped(f"line {line}", str(error))
    if not fields["minio_object_name"]:
        return Skipped(f"line {line}", "minio_object_name: is empty")
    return Candidate(key, None, file, has_type=True)


def read_field(fields: Mapping[str, str], name: str, parse: Callable[[str], Value]) -> Value:
    """Parse a field. Raises ValueError with the name of the field."""
    try:
        return parse(fields[name])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def parse_size(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text[:40]!r} is not a number of bytes")
    return int(text)


def parse_date(text: str) -> datetime:
    """Parse a date of ISO 8601. One without an offset is in UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a date such as 2026-11-29T12:00:00Z") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
