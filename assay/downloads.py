"""Receiving a file: nothing unproved is ever seen under its final name.

1. Ask for the metadata: size and digest. Not `ready`: refused, with the reason.
2. To a path: open a partial file beside it, whose name holds the file's id, and lock it. What it holds already was received by an earlier
   run, which was killed: it is hashed, and the rest is asked for (Range, If-Range). Longer than the file: begin anew.
3. Read, hash, write. The connection ends too early: ask for the rest (Range, If-Match), with growing waits while nothing comes.
   412, or another ETag: the file is another now (FileChanged). 404, 410: it was taken away. The server ignores Range: skip what is here.
4. Compare the digest of all. Another: the partial file goes; if an earlier run had left it, begin anew, once; else DigestMismatch.
5. fsync, rename, fsync the folder.

(a) A write fails (the disk is full): TargetFailed. The partial file stays: when there is room, the next run goes on from it.
(b) The target is no regular file (a pipe, /dev/null), or a file object: steps 1, 3 and 4, straight into it.
(c) Killed anywhere: the partial file, or the whole one. Never a half under the final name.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from assay.api import AWAY, Api, read_retry_after
from assay.errors import (
    Damaged,
    DigestMismatch,
    FileChanged,
    Gone,
    NotReady,
    Rejected,
    ServerUnavailable,
    TargetFailed,
)
from assay.files import GONE, UNPROVED, File
from assay.locks import is_still, lock
from assay.progress import Meter
from assay.transport import PIECE, Answer, ConnectionLost, read_some

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

Writable = str | os.PathLike[str] | BinaryIO
Write = Callable[[bytes], object]
LONGEST_NAME_BYTES: Final = 255


class Receiving:
    """One download under way: how much of it is here, and the digest of that."""

    def __init__(self, api: Api, file: File, write: Write, *, meter: Meter) -> None:
        self.api = api
        self.file = file
        self.etag = f'"{file.hash}"'
        self.meter = meter
        self.place = 0
        self.digest = hashlib.sha256()
        self._write = write

    def take(self, piece: bytes) -> None:
        """Raises TargetFailed."""
        self.digest.update(piece)
        try:
            self._write(piece)
        except OSError as error:
            raise TargetFailed(
                f"{self.file.filename} cannot be written after {self.place} bytes: {error.strerror or error}"
            ) from error
        self.place += len(piece)
        self.meter.add(len(piece))


def download_file(api: Api, file: File, target: Writable, *, meter: Meter) -> None:
    """Steps 1 to 5."""
    check_ready(file)
    if not isinstance(target, str | os.PathLike):
        return receive_into(api, file, target, meter=meter)
    path = Path(os.path.realpath(target))
    kind = find_kind(path)
    if kind is not None and not stat.S_ISREG(kind):
        return receive_into_device(api, file, path, meter=meter)
    return receive_at(api, file, path, meter=meter)


def check_ready(file: File) -> None:
    """Raises NotReady, Rejected, Gone, Damaged."""
    if file.state in UNPROVED:
        raise NotReady(f"{file.filename} is not proved yet: it is {file.state}")
    if file.state == "rejected":
        raise Rejected(file)
    if file.state in GONE:
        raise Gone(f"{file.filename} is {file.state}")
    if file.hash is None or file.state == "damaged":
        raise Damaged(f"{file.filename} is {file.state}")


def find_kind(path: Path) -> int | None:
    """The mode of what lies there. Raises TargetFailed for a folder."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TargetFailed(f"{path}: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise TargetFailed(f"{path}: is a folder")
    return mode


def receive_into_device(api: Api, file: File, path: Path, *, meter: Meter) -> None:
    try:
        opened = path.open("wb", buffering=0)
    except OSError as error:
        raise TargetFailed(f"{path}: {error.strerror}") from error
    with opened:
        receive_into(api, file, opened, meter=meter)


def receive_into(api: Api, file: File, target: BinaryIO, *, meter: Meter) -> None:
    """Into a file object, from where it stands. Raises DigestMismatch when all is written."""
    receiving = Receiving(api, file, lambda piece: write_all(target, piece), meter=meter)
    receive(receiving, "If-Match")
    if receiving.digest.hexdigest() != file.hash:
        raise DigestMismatch(f"{file.filename}: other bytes were received than the server proved")
    meter.enter("done")


def receive_at(api: Api, file: File, path: Path, *, meter: Meter) -> None:
    """Steps 2 to 5."""
    partial = name_partial(path, file)
    descriptor = open_partial(partial, path)
    with os.fdopen(descriptor, "r+b", buffering=0) as opened:
        receiving = Receiving(api, file, lambda piece: write_all(opened, piece), meter=meter)
        resumed = go_on(receiving, opened)
        receive(receiving, "If-Range")
        if resumed and receiving.digest.hexdigest() != file.hash:
            meter.add(-receiving.place)
            opened.truncate(0)
            opened.seek(0)
            receiving = Receiving(api, file, lambda piece: write_all(opened, piece), meter=meter)
            receive(receiving, "If-Match")
        if receiving.digest.hexdigest() != file.hash:
            partial.unlink(missing_ok=True)
            raise DigestMismatch(
                f"{file.filename}: other bytes were received than the server proved; nothing was kept"
            )
        publish(opened, partial, path)
    meter.enter("done")


def name_partial(path: Path, file: File) -> Path:
    """Hidden, and another for each file: what belongs to one is never taken for another's."""
    end = f".{file.id.hex}.part"
    name = os.fsencode(path.name)[: LONGEST_NAME_BYTES - len(end) - 1]
    return path.with_name(f".{os.fsdecode(name)}{end}")


def open_partial(partial: Path, path: Path) -> int:
    """Raises TargetFailed, InProgress."""
    while True:
        try:
            descriptor = os.open(
                partial,
                os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0),
                0o666,
            )
        except OSError as error:
            raise TargetFailed(f"{path}: {error.strerror}") from error
        try:
            lock(descriptor, f"the download to {path}")
        except BaseException:
            os.close(descriptor)
            raise
        if is_still(descriptor, partial):
            return descriptor
        os.close(descriptor)  # whoever held it has just finished


def go_on(receiving: Receiving, opened: BinaryIO) -> bool:
    """Hash what an earlier run left; False when there is nothing."""
    left = os.fstat(opened.fileno()).st_size
    if left > receiving.file.size:
        opened.truncate(0)
        left = 0
    if not left:
        return False
    receiving.meter.enter("checking")
    while piece := opened.read(PIECE):
        receiving.digest.update(piece)
        receiving.place += len(piece)
        receiving.meter.add(len(piece))
    return True


def receive(receiving: Receiving, condition: str) -> None:
    """Step 3, until all is here. `condition` holds for the first request; later ones ask by If-Match."""
    receiving.meter.enter("receiving")
    retries = receiving.api.new_retry_policy()
    while receiving.place < receiving.file.size:
        begun = receiving.place
        pause = receive_some(receiving, condition)
        condition = "If-Match"
        if receiving.place == receiving.file.size:
            return
        if receiving.place > begun:
            retries.renew()
        if not retries.wait(pause):
            raise ServerUnavailable(
                f"the download of {receiving.file.filename} was cut after {receiving.place} of {receiving.file.size} bytes: try again"
            )


def receive_some(receiving: Receiving, condition: str) -> float:
    """One request, and as much as it brings; seconds that the server asks to wait before the next. Raises what the API refuses."""
    api = receiving.api
    asked = {condition: receiving.etag} | (
        {"Range": f"bytes={receiving.place}-"} if receiving.place else {}
    )
    headers = api.authorize() | {
        name: value for name, value in asked.items() if receiving.place or name == "If-Match"
    }
    try:
        response = api.transport.open(
            "GET", f"{api.url}/files/{receiving.file.id}", headers=headers
        )
    except ConnectionLost:
        return 0.0
    try:
        if response.status not in (200, 206):
            return read_refusal(receiving, response)
        if response.headers.get("ETag") != receiving.etag:
            raise FileChanged(f"{receiving.file.filename} is another file now")
        skip(response, receiving.place - read_start(response))
        while piece := read_some(response, PIECE):
            receiving.take(piece)
    except ConnectionLost:
        response.close()
    except BaseException:
        response.close()
        raise
    finally:
        response.release_conn()
    return 0.0


def read_refusal(receiving: Receiving, response: "BaseHTTPResponse") -> float:
    """Raises the refusal, unless the API is only away."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    answer = Answer(response.status, headers, read_some(response, None))
    if answer.status == 412:
        raise FileChanged(f"{receiving.file.filename} is another file now")
    if answer.status in AWAY:
        return read_retry_after(answer)
    raise receiving.api.read_refusal(answer)


def read_start(response: "BaseHTTPResponse") -> int:
    """Of the bytes that come: Content-Range says it, as `bytes 100-199/200`."""
    if response.status == 200:
        return 0
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdigit() else 0


def skip(response: "BaseHTTPResponse", size: int) -> None:
    """What is here already. Raises ConnectionLost when it does not come, or what comes begins behind it."""
    if size < 0:
        raise ConnectionLost("the server sends another range than was asked for")
    while size:
        piece = read_some(response, min(size, PIECE))
        if not piece:
            raise ConnectionLost("the answer is too short")
        size -= len(piece)


def write_all(target: BinaryIO, piece: bytes) -> None:
    """A raw file may take less than it is given."""
    view = memoryview(piece)
    while view:
        written: int | None = target.write(view)
        view = view[len(view) if written is None else written :]


def publish(opened: BinaryIO, partial: Path, path: Path) -> None:
    """Step 5. Raises TargetFailed."""
    try:
        os.fsync(opened.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise TargetFailed(f"{path}: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """So that the name, too, outlives a power cut."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
