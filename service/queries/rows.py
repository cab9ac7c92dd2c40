"""Rows into structs."""

from typing import TypeVar

import asyncpg
import msgspec

from service.model import File, State, choose_type, decode_column

T = TypeVar("T")

Database = asyncpg.Pool | asyncpg.Connection
"""Whatever runs one statement: a pool takes a connection for it and gives it back."""


def read_row(row: asyncpg.Record, kind: type[T]) -> T:
    """One row as `kind`, column by name."""
    return msgspec.convert(row, kind, dec_hook=decode_column)


def read_row_if_any(row: asyncpg.Record | None, kind: type[T]) -> T | None:
    """The same for a statement that may hit nothing."""
    return None if row is None else read_row(row, kind)


def read_file(row: asyncpg.Record) -> File:
    """Return a row of `files` as the type of its state."""
    return read_row(row, choose_type(State(row["state"])))


def read_file_if_any(row: asyncpg.Record | None) -> File | None:
    """Do the same for a statement that may update no row."""
    return None if row is None else read_file(row)
