"""Records of sent files, so that a repeated command sends only what is missing.

They are in one SQLite file, `$XDG_STATE_HOME/assay/sent.sqlite`.

1. Before a file is declared, insert a row: the file on disk (its real path, size and modification
   time), its declaration (name, type, metadata), and a random Idempotency-Key. If the process is
   killed after that, the next run finds the row and declares the file with the same key. The server
   answers with the same file, and with what it still needs.
2. When the file is final, write its id and SHA-256 to the row.
3. The next run requests the file of the row. If it is `ready` and has the recorded name, size and
   digest, skip it. Otherwise, or if the size or time on disk has changed, replace the row, with a
   new key.
4. If the key leads to a file that was rejected, has expired or was deleted meanwhile, replace the
   row too.

A small file goes through the API, where a key has no effect. If its completion was not recorded,
the server is searched for its digest (sending.py).

With another owner's key, step 3 finds nothing, and the file is sent. Several processes may share
the database. Two that send the same file at the same time use the same key, so that they create one
file (or two, if it is small). If the database is lost or deleted, everything is sent again.

Without a home folder, or with one that cannot be written, the records are kept in memory. The files
are sent, but a repeated command sends them again.
"""

import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from service.cli.client.accounts import find_folder, make_private_folder
from service.cli.client.display import show
from service.cli.client.exit_codes import Failed

BUSY_SECONDS: Final = 30
SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS sent (
        server TEXT NOT NULL, path BLOB NOT NULL, declared TEXT NOT NULL,
        size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
        idempotency_key TEXT NOT NULL, file_id TEXT, sha256 TEXT,
        PRIMARY KEY (server, path, declared)
    ) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A file to send: what it is on disk, and its declaration.

    `path` is the real path, without links.
    """

    server: str
    path: str
    size: int
    mtime_ns: int
    filename: str
    content_type: str | None
    metadata: Mapping[str, str]
    sha256: str | None = None

    def digest_declaration(self) -> str:
        """Return a digest of the declaration.

        With another declaration, the same file on disk becomes another file.
        """
        declared = [self.filename, self.content_type, sorted(self.metadata.items()), self.sha256]
        return hashlib.sha256(json.dumps(declared).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Record:
    """The record of a file. `file_id` and `sha256` are None if its completion was not recorded."""

    idempotency_key: str
    file_id: str | None
    sha256: str | None


def find_state_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the path, or None if the user has no home folder."""
    return find_folder(environ, "XDG_STATE_HOME", ".local/state")


class Records:
    """The records, which threads can share. Each call is one statement and one commit.

    `uploads` is the folder for the client's journals of large files. It is None if the records are
    kept in memory. Each method raises Failed if the database fails.
    """

    def __init__(self, connection: sqlite3.Connection, *, place: str, uploads: Path | None) -> None:
        self.uploads = uploads
        self._place = place
        self._connection = connection
        self._lock = threading.Lock()

    FIND = """
        SELECT idempotency_key, file_id, sha256 FROM sent
        WHERE server = ? AND path = ? AND declared = ? AND size = ? AND mtime_ns = ?
    """

    def find(self, parcel: Parcel) -> Record | None:
        """Return the record of this file, or None if there is none or the file
        has changed since.
        """
        row = self._execute((self.FIND, key_of(parcel)))
        return Record(*row) if row else None

    BEGIN = """
        INSERT INTO sent (server, path, declared, size, mtime_ns, idempotency_key)
        VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns,
                                  idempotency_key = excluded.idempotency_key,
                                  file_id = NULL, sha256 = NULL
        WHERE sent.size <> excluded.size OR sent.mtime_ns <> excluded.mtime_ns
           OR sent.idempotency_key = ?
    """

    def begin(self, parcel: Parcel, replaced: Record | None = None) -> Record:
        """Insert a record, and return the one that is valid now.

        It replaces `replaced`, and the record of another size or time. If another process has
        inserted a record meanwhile, that one is returned.
        """
        key, old = secrets.token_hex(16), replaced.idempotency_key if replaced else None
        row = self._execute((self.BEGIN, (*key_of(parcel), key, old)), (self.FIND, key_of(parcel)))
        return Record(*row) if row else Record(key, None, None)

    FORGET = """
        DELETE FROM sent
        WHERE server = ? AND path = ? AND declared = ? AND size = ? AND mtime_ns = ?
    """

    def forget(self, parcel: Parcel) -> None:
        """Delete the record, so that the next run sends the file again."""
        self._execute((self.FORGET, key_of(parcel)))

    FINISH = """
        UPDATE sent SET file_id = ?, sha256 = ?
        WHERE server = ? AND path = ? AND declared = ? AND size = ? AND mtime_ns = ?
    """

    def finish(self, parcel: Parcel, *, file_id: str, sha256: str) -> None:
        self._execute((self.FINISH, (file_id, sha256, *key_of(parcel))))

    def _execute(self, *statements: tuple[str, tuple[Any, ...]]) -> Any:
        """Execute the statements, and return a row of the last one, or None."""
        try:
            with self._lock:
                for statement, values in statements:
                    row = self._connection.execute(statement, values).fetchone()
                return row
        except sqlite3.Error as error:
            raise describe_failure(self._place, error) from error


def key_of(parcel: Parcel) -> tuple[str, bytes, str, int, int]:
    from assay.sources import fold_time  # imported here, because the client takes 50 ms

    return (
        parcel.server,
        os.fsencode(parcel.path),
        parcel.digest_declaration(),
        parcel.size,
        fold_time(parcel.mtime_ns),
    )


def ignore(_: str) -> None:
    """Print no remark."""


@contextmanager
def open_records(
    environ: Mapping[str, str] = os.environ, *, note: Callable[[str], None] = ignore
) -> Iterator[Records]:
    """Open the records. If they cannot be kept, call `note` with the reason.

    Raises Failed if the database is damaged, because every file would be sent again.
    """
    connection, place, uploads = connect(note, find_state_folder(environ))
    with contextlib.closing(connection):
        yield Records(connection, place=place, uploads=uploads)


def connect(
    note: Callable[[str], None], folder: Path | None
) -> tuple[sqlite3.Connection, str, Path | None]:
    """Return a connection, the name of its database, and the folder for journals."""
    if folder is None:
        reason = "there is no home folder; XDG_STATE_HOME can name another"
    else:
        place = show(str(folder / "sent.sqlite"))
        try:
            make_private_folder(folder)
            uploads = make_private_folder(folder / "uploads")
            return prepare(folder / "sent.sqlite"), place, uploads
        except OSError as error:
            reason = f"{show(str(error.filename or folder))}: {error.strerror}"
        except sqlite3.OperationalError as error:
            reason = f"{place}: {error}"
        except sqlite3.Error as error:
            raise describe_failure(place, error) from error
    note(f"{reason}; no record is kept, so a repeated command sends the files again")
    return prepare(":memory:"), "the records in memory", None


def prepare(database: Path | str) -> sqlite3.Connection:
    """Return a connection to the database, with its table. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        database, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # kill -9 loses nothing; a power failure may lose the last rows
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def describe_failure(place: str, error: sqlite3.Error) -> Failed:
    return Failed(f"{place}: {error}; if you remove the file, files are sent again")
