"""The conversion of rows to structs."""

from typing import TypeVar

import asyncpg
import msgspec

from service.model import File, State, choose_type, decode_column

T = TypeVar("T")

Database = asyncpg.Pool | asyncpg.Connection
"""A connection, or a pool that takes a connection for each statement."""


def read_row(row: asyncpg.Record, kind: type[T]) -> T:
    """Convert a row to the struct `kind`, by the names of the columns."""
    return msgspec.convert(row, kind, dec_hook=decode_column)


def read_row_if_any(row: asyncpg.Record | None, kind: type[T]) -> T | None:
    """Convert a row to the struct `kind`. Return None if there is no row."""
    return None if row is None else read_row(row, kind)


def read_file(row: asyncpg.Record) -> File:
    """Convert a row of `files` to the type that belongs to its state."""
    return read_row(row, choose_type(State(row["state"])))


def read_file_if_any(row: asyncpg.Record | None) -> File | None:
    """Convert a row of `files` to the type of its state. Return None if there is no row."""
    return None if row is None else read_file(row)
