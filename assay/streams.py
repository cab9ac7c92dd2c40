"""What cannot be read twice, or should take one request only, goes through the API: `POST /files/upload`. Constant memory.

1. The first bytes are read and kept, 1 MiB at most: until more were taken, the request may be sent again from its start.
2. The rest is read once and sent as it comes. The digest is counted on the way.
3. No answer before all was sent: nothing was stored, for the server refuses a body without its end. The kept bytes suffice: again. They do
   not: ServerUnavailable.
4. No answer after all was sent: the file may be there or not. It is not sent again, lest there be two: ServerUnavailable, saying so.
5. The server's digest is not ours: something between us altered bytes. The file is deleted, and that is a DigestMismatch.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlencode

import msgspec

from assay.api import AWAY, Api, read_retry_after
from assay.errors import DigestMismatch, ServerUnavailable
from assay.files import File
from assay.progress import Meter
from assay.transport import PIECE, Answer, ConnectionLost

Read = Callable[[int], bytes]
"""So many bytes or fewer; b"" at the end."""


class Body:
    """A stream as the body of a request, and of the next one as long as no more than its first piece was taken."""

    def __init__(self, read: Read, meter: Meter) -> None:
        self._read = read
        self._meter = meter
        self._first = read_full(read)
        self.digest = hashlib.sha256()
        self.can_repeat = True
        self.ended = False

    def open(self) -> Iterator[bytes]:
        """From the start. Only while `can_repeat`."""
        self.digest, self.ended, sent = hashlib.sha256(), False, 0
        piece = self._first
        try:
            while piece:
                self.digest.update(piece)
                yield piece
                sent += len(piece)
                self._meter.add(len(piece))
                piece = self._read(PIECE)
                self.can_repeat = self.can_repeat and not piece
            self.ended = True
        finally:
            if self.can_repeat and not self.ended:
                self._meter.add(-sent)


def read_full(read: Read) -> bytes:
    """A pipe gives what it has: as much as makes a piece, or all."""
    pieces, left = [], PIECE
    while left and (piece := read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def upload_stream(
    api: Api,
    read: Read,
    *,
    filename: str,
    content_type: str | None,
    metadata: Mapping[str, str],
    sha256: str | None,
    meter: Meter,
) -> File:
    """The proved file. Raises DigestMismatch, ServerUnavailable, and what a request raises."""
    about = {"filename": filename} | (
        {"metadata": msgspec.json.encode(metadata)} if metadata else {}
    )
    path = f"/files/upload?{urlencode(about)}"
    headers = {"Content-Type": content_type or "application/octet-stream"} | (
        {} if sha256 is None else {"Repr-Digest": write_digest(sha256)}
    )
    meter.enter("sending")
    body = Body(read, meter)
    file = api.decode(api.check_answer(send(api, path, headers, body=body)), File)
    if file.hash != body.digest.hexdigest():
        api.delete(file.id)
        raise DigestMismatch(
            f"{filename}: the server received other bytes than were sent; nothing was kept"
        )
    meter.enter("done")
    return file


def send(api: Api, path: str, headers: dict[str, str], *, body: Body) -> Answer:
    """Steps 2 to 4."""
    retries = api.new_retry_policy()
    while True:
        try:
            answer = api.transport.send(
                "POST",
                api.url + path,
                headers=api.authorize() | headers,
                body=body.open(),
                chunked=True,
            )
        except ConnectionLost as error:
            if body.ended:
                raise ServerUnavailable(
                    f"the API: {error}: all was sent, but not confirmed; look whether the file is there"
                ) from error
            if not (body.can_repeat and retries.wait()):
                raise ServerUnavailable(
                    f"the API: {error}: a stream cannot be sent again from its start; nothing was stored"
                ) from error
            continue
        if (
            answer.status not in AWAY
            or not body.can_repeat
            or not retries.wait(read_retry_after(answer))
        ):
            return answer


def write_digest(sha256: str) -> str:
    """RFC 9530."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
