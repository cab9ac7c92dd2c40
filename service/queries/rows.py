"""Rows into structs."""

from typing import TypeVar

import asyncpg
import msgspec

from service.model import decode_column

T = TypeVar("T")

Database = asyncpg.Pool | asyncpg.Connection
"""Whatever runs one statement: a pool takes a connection for it and gives it back."""


def read_row(row: asyncpg.Record, kind: type[T]) -> T:
    """One row as `kind`, column by name."""
    return msgspec.convert(row, kind, dec_hook=decode_column)


def read_row_if_any(row: asyncpg.Record | None, kind: type[T]) -> T | None:
    """The same for a statement that may hit nothing."""
    return None if row is None else read_row(row, kind)
