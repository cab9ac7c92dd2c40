"""Downloads: no bytes appear under the final name before their SHA-256 has been checked.

1. Read the metadata, which has the size and the digest. If the file is not `ready`, raise the error
   for its state.
2. If the target is a path, open a partial file beside it, whose name contains the file's id, and
   lock it. Bytes in it come from an earlier run that was killed. Hash them, and request only the
   rest (Range, If-Range). If they are more than the whole file, truncate the partial file.
3. Read, hash and write the bytes.
   - *The connection ends too early:* request the rest (Range, If-Match). The delay grows as long as
     no bytes arrive.
   - *The response is 412 or has another ETag:* the file was replaced. Raise FileChanged.
   - *The response is 404 or 410:* the file was deleted. Raise NotFound or Gone.
   - *The server ignores Range:* skip the bytes that have already been received.
4. Compare the digest of all bytes.
   - *It differs, and an earlier run left some of the bytes:* truncate the partial file and repeat
     step 3, once.
   - *It differs otherwise:* remove the partial file and raise DigestMismatch.
5. Set the modification time, if it is to be kept. Sync the partial file, rename it to the final
   name, and sync the folder. If the name existed, the new file has its mode and, as far as the
   process may set it, its owner.

If a write fails (the disk is full), raise TargetFailed. The partial file stays, and the next run
continues from it.
If the target is a file object, or no regular file (a pipe, /dev/null), steps 1, 3 and 4 write
directly into it.
If the process is killed at any point, the final name has its previous content or the whole file.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from assay.api import Api, is_away, read_retry_after
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
from assay.times import restore_time
from assay.transport import PIECE, Answer, ConnectionLost, read_some
from assay.waiting import flush_when_ready, write_when_ready

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

Writable = str | os.PathLike[str] | BinaryIO
Write = Callable[[bytes], object]
LONGEST_NAME_BYTES: Final = 255


class Receiving:
    """A download in progress. `place` is the number of bytes received, `digest` is their digest."""

    def __init__(self, api: Api, file: File, write: Write, *, meter: Meter) -> None:
        self.api = api
        self.file = file
        self.etag = f'"{file.hash}"'
        self.meter = meter
        self.place = 0
        self.digest = hashlib.sha256()
        self._write = write

    def take(self, piece: bytes) -> None:
        """Hash and write a piece. Raises TargetFailed if it cannot be written."""
        self.digest.update(piece)
        self.attempt(lambda: self._write(piece))
        self.place += len(piece)
        self.meter.add(len(piece))

    def attempt(self, write: Callable[[], object]) -> None:
        """Run the write. Raises TargetFailed if it fails."""
        try:
            write()
        except OSError as error:
            raise TargetFailed(
                f"{self.file.filename} cannot be written after {self.place} bytes: "
                f"{error.strerror or error}"
            ) from error


def download_file(api: Api, file: File, target: Writable, *, keep_time: bool, meter: Meter) -> None:
    """Run the protocol above for a file whose metadata has been read."""
    check_ready(file)
    if not isinstance(target, str | os.PathLike):
        return receive_into(api, file, target, meter=meter)
    kind = find_kind(Path(target))
    if kind is not None and not stat.S_ISREG(kind):
        # The real path of a pipe, such as /dev/stdout, is not one that can be opened.
        return receive_into_device(api, file, Path(target), meter=meter)
    path = Path(os.path.realpath(target))
    return receive_at(api, file, path, keep_time=keep_time, meter=meter)


def check_ready(file: File) -> None:
    """Raise NotReady, Rejected, Gone or Damaged, unless the file is `ready`."""
    if file.state in UNPROVED:
        raise NotReady(f"{file.filename} is not proved yet: it is {file.state}")
    if file.state == "rejected":
        raise Rejected(file)
    if file.state in GONE:
        raise Gone(f"{file.filename} is {file.state}")
    if file.hash is None or file.state == "damaged":
        raise Damaged(f"{file.filename} is {file.state}")


def find_kind(path: Path) -> int | None:
    """Return the mode of the file at a path, or None. Raises TargetFailed for a folder."""
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
    """Download into a file object, from its position on.

    Raises DigestMismatch only after all bytes have been written.
    """
    receiving = Receiving(api, file, lambda piece: write_all(target, piece), meter=meter)
    receive(receiving, "If-Match")
    receiving.attempt(lambda: flush_when_ready(target))
    if receiving.digest.hexdigest() != file.hash:
        raise DigestMismatch(
            f"{file.filename}: the received bytes are not those that the server proved"
        )
    meter.enter("done")


def receive_at(api: Api, file: File, path: Path, *, keep_time: bool, meter: Meter) -> None:
    """Run steps 2 to 5 of the protocol above."""
    partial = name_partial(path, file)
    descriptor = open_partial(partial, path)
    copy_rights(path, descriptor, and_mode=0o600)  # before the bytes that others may not read
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
                f"{file.filename}: the received bytes are not those that the server proved; "
                "the partial file was removed"
            )
        if keep_time:
            restore_time(partial, path, file.metadata)
        publish(opened, partial, path)
    meter.enter("done")


def name_partial(path: Path, file: File) -> Path:
    """Return the path of the partial file. It is hidden, and differs for each file id."""
    end = f".{file.id.hex}.part"
    name = os.fsencode(path.name)[: LONGEST_NAME_BYTES - len(end) - 1]
    return path.with_name(f".{os.fsdecode(name)}{end}")


def open_partial(partial: Path, path: Path) -> int:
    """Open and lock the partial file, and return its descriptor.

    Raises TargetFailed, and InProgress if another process has locked it.
    """
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
        os.close(descriptor)  # another process finished its download and renamed this file


def go_on(receiving: Receiving, opened: BinaryIO) -> bool:
    """Hash the bytes that an earlier run left. Return False if there are none."""
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
    """Run step 3 of the protocol above until all bytes have been received.

    `condition` is the header of the first request's condition. Later requests use If-Match.
    """
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
                f"the download of {receiving.file.filename} was interrupted after "
                f"{receiving.place} of {receiving.file.size} bytes: try again"
            )


def receive_some(receiving: Receiving, condition: str) -> float:
    """Send one request, and receive as many bytes as it brings.

    Return the seconds that the server asks the client to wait before the next request. Raises the
    error of a refusal, and FileChanged.
    """
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
            raise FileChanged(f"{receiving.file.filename} was replaced during the download")
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
    """Raise the error of a refusal. If the API is only unavailable, return the delay instead."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    answer = Answer(response.status, headers, read_some(response, None))
    if answer.status == 412:
        raise FileChanged(f"{receiving.file.filename} was replaced during the download")
    if is_away(answer):
        return read_retry_after(answer)
    raise receiving.api.read_refusal(answer)


def read_start(response: "BaseHTTPResponse") -> int:
    """Return the offset of the first byte of the response, from Content-Range or 0 for a 200."""
    if response.status == 200:
        return 0
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdigit() else 0


def skip(response: "BaseHTTPResponse", size: int) -> None:
    """Read and discard the bytes that have already been received.

    Raises ConnectionLost if the response is shorter, or begins after the requested place.
    """
    if size < 0:
        raise ConnectionLost("the server did not send the requested range")
    while size:
        piece = read_some(response, min(size, PIECE))
        if not piece:
            raise ConnectionLost("the response is too short")
        size -= len(piece)


def write_all(target: BinaryIO, piece: bytes) -> None:
    """Write all bytes. A raw file may accept fewer than it is given."""
    view = memoryview(piece)
    while view:
        view = view[write_when_ready(target, view) :]


def copy_rights(path: Path, descriptor: int, *, and_mode: int = 0) -> None:
    """Give the open file the mode and owner of the file at the path, if there is one.

    `and_mode` is added to the mode. Only root may change an owner, and some file systems have no
    modes. Neither is an error.
    """
    if not hasattr(os, "fchmod"):  # Windows
        return
    try:
        found = path.stat()
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.fchown(descriptor, found.st_uid, found.st_gid)
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, found.st_mode & 0o777 | and_mode)


def publish(opened: BinaryIO, partial: Path, path: Path) -> None:
    """Run step 5 of the protocol above. Raises TargetFailed."""
    try:
        copy_rights(path, opened.fileno())
        os.fsync(opened.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise TargetFailed(f"{path}: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Sync the folder, so that the new name survives a power failure."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
