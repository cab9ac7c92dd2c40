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
"""

import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.cli.client.accounts import make_private_folder
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


def find_state_folder(environ: Mapping[str, str] = os.environ) -> Path:
    base = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "assay"


class Records:
    """The records, which threads can share. Each call is one statement and one commit."""

    def __init__(self, connection: sqlite3.Connection, uploads: Path) -> None:
        self.uploads = uploads
        """Folder for the client's journals of large files."""
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
        with self._lock:
            row = self._connection.execute(self.FIND, key_of(parcel)).fetchone()
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
        with self._lock:
            self._connection.execute(self.BEGIN, (*key_of(parcel), key, old))
            row = self._connection.execute(self.FIND, key_of(parcel)).fetchone()
        return Record(*row) if row else Record(key, None, None)

    FORGET = """
        DELETE FROM sent
        WHERE server = ? AND path = ? AND declared = ? AND size = ? AND mtime_ns = ?
    """

    def forget(self, parcel: Parcel) -> None:
        """Delete the record, so that the next run sends the file again."""
        with self._lock:
            self._connection.execute(self.FORGET, key_of(parcel))

    FINISH = """
        UPDATE sent SET file_id = ?, sha256 = ?
        WHERE server = ? AND path = ? AND declared = ? AND size = ? AND mtime_ns = ?
    """

    def finish(self, parcel: Parcel, *, file_id: str, sha256: str) -> None:
        with self._lock:
            self._connection.execute(self.FINISH, (file_id, sha256, *key_of(parcel)))


def key_of(parcel: Parcel) -> tuple[str, bytes, str, int, int]:
    return (
        parcel.server,
        os.fsencode(parcel.path),
        parcel.digest_declaration(),
        parcel.size,
        parcel.mtime_ns,
    )


@contextmanager
def open_records(environ: Mapping[str, str] = os.environ) -> Iterator[Records]:
    folder = find_state_folder(environ)
    try:
        make_private_folder(folder)
        connection = sqlite3.connect(
            folder / "sent.sqlite",
            timeout=BUSY_SECONDS,
            check_same_thread=False,
            isolation_level=None,
        )
    except OSError as error:
        raise Failed(f"{show(str(error.filename or folder))}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise Failed(f"{show(str(folder / 'sent.sqlite'))}: {error}") from error
    with contextlib.closing(connection):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(
                "PRAGMA synchronous = NORMAL"
            )  # kill -9 loses nothing; a power failure may lose the last rows
            connection.execute(SCHEMA)
            yield Records(connection, make_private_folder(folder / "uploads"))
        except sqlite3.Error as error:
            raise Failed(
                f"{show(str(folder / 'sent.sqlite'))}: {error};"
                " if you remove the file, files are sent again"
            ) from error
