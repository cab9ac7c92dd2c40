"""What was sent from here, so that the same command again sends only what is missing. One SQLite file, `$XDG_STATE_HOME/assay/sent.sqlite`.

1. Before a file is declared, a row is written: which file on disk (its real path, size and time of last change), as what it is declared
   (name, type, metadata), and a random Idempotency-Key. Killed at any moment after that, the next run finds the row and declares with the
   same key: the server answers with the same file, and what it still needs.
2. When the file is final, its id and SHA-256 go into the row.
3. The next run asks the server for the file that the row names. It is there, `ready`, and has the recorded name, size and digest: skipped.
   Anything else, or another size or time on disk: the row is replaced, with a new key.
4. What the key leads to was rejected, has expired or was deleted meanwhile: the same.

A small file goes through the API, where no key counts: of one that was not seen to end the server is asked by its digest (sending.py).

Another owner's key finds nothing in step 3, and sends. Several processes may share the database: two that send the same file at once get
the same key, so they make one file (two, when it is small). Lost or deleted, nothing breaks: everything is sent again.
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
        server TEXT NOT NULL, path BLOB NOT NULL, declared TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
        idempotency_key TEXT NOT NULL, file_id TEXT, sha256 TEXT,
        PRIMARY KEY (server, path, declared)
    ) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A file on its way: what it is on disk, and as what it is declared. `path` leads to it without links."""

    server: str
    path: str
    size: int
    mtime_ns: int
    filename: str
    content_type: str | None
    metadata: Mapping[str, str]
    sha256: str | None = None

    def digest_declaration(self) -> str:
        """Two that differ in this are two files, though they come from the same one on disk."""
        declared = [self.filename, self.content_type, sorted(self.metadata.items()), self.sha256]
        return hashlib.sha256(json.dumps(declared).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Record:
    """`file_id` and `sha256` None: it was not seen to end."""

    idempotency_key: str
    file_id: str | None
    sha256: str | None


def find_state_folder(environ: Mapping[str, str] = os.environ) -> Path:
    base = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "assay"


class Records:
    """Used from several threads; each call is one statement and one commit."""

    def __init__(self, connection: sqlite3.Connection, uploads: Path) -> None:
        self.uploads = uploads
        """The folder of the client's journals of large files."""
        self._connection = connection
        self._lock = threading.Lock()

    FIND = """
        SELECT idempotency_key, file_id, sha256 FROM sent
        WHERE server = ? AND path = ? AND declared = ? AND size = ? AND mtime_ns = ?
    """

    def find(self, parcel: Parcel) -> Record | None:
        """What is known of this very file, unchanged since."""
        with self._lock:
            row = self._connection.execute(self.FIND, key_of(parcel)).fetchone()
        return Record(*row) if row else None

    BEGIN = """
        INSERT INTO sent (server, path, declared, size, mtime_ns, idempotency_key) VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, idempotency_key = excluded.idempotency_key,
                                  file_id = NULL, sha256 = NULL
        WHERE sent.size <> excluded.size OR sent.mtime_ns <> excluded.mtime_ns OR sent.idempotency_key = ?
    """

    def begin(self, parcel: Parcel, replaced: Record | None = None) -> Record:
        """In the place of `replaced`, or of what was known of another size and time; what another process began meanwhile counts."""
        key, old = secrets.token_hex(16), replaced.idempotency_key if replaced else None
        with self._lock:
            self._connection.execute(self.BEGIN, (*key_of(parcel), key, old))
            row = self._connection.execute(self.FIND, key_of(parcel)).fetchone()
        return Record(*row) if row else Record(key, None, None)

    FORGET = "DELETE FROM sent WHERE server = ? AND path = ? AND declared = ? AND size = ? AND mtime_ns = ?"

    def forget(self, parcel: Parcel) -> None:
        """The next run begins anew: what this one made is no file any more."""
        with self._lock:
            self._connection.execute(self.FORGET, key_of(parcel))

    FINISH = """
        UPDATE sent SET file_id = ?, sha256 = ? WHERE server = ? AND path = ? AND declared = ? AND size = ? AND mtime_ns = ?
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
    """Raises Failed."""
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
            )  # kill -9 loses nothing; a power cut may lose the last rows
            connection.execute(SCHEMA)
            yield Records(connection, make_private_folder(folder / "uploads"))
        except sqlite3.Error as error:
            raise Failed(
                f"{show(str(folder / 'sent.sqlite'))}: {error}; when it is removed, files are sent anew"
            ) from error
