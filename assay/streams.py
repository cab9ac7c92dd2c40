"""Streamed uploads from the client's side: one `POST /files/upload`, in constant memory.

They are for sources that cannot be read twice, and for callers that want a single request.

1. Read the first bytes, at most 1 MiB, and keep them. Until more is taken from the source, the
   request can be sent again from its start.
2. Read the rest once, send it as it comes, and compute the digest.
3. If the connection ends before the whole body was sent, nothing was stored, because the server
   refuses a body without its end.
   - *The kept bytes are all that was taken:* send the request again.
   - *More was taken:* raise ServerUnavailable.
4. If the connection ends after the whole body was sent, the file may have been stored or not.
   The request is not sent again, because there could then be two files. Raise ServerUnavailable
   with a message that says so.
5. Compare the digest in the response with the client's own. If they differ, the bytes were altered
   in transit: delete the file and raise DigestMismatch.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlencode
from uuid import UUID

import msgspec

from assay.api import Api, Declared, is_away, read_retry_after
from assay.errors import DigestMismatch, ServerUnavailable
from assay.files import File
from assay.progress import Meter
from assay.transport import PIECE, Answer, ConnectionLost

Read = Callable[[int], bytes]
"""A function that returns at most the given number of bytes, and b"" at the end."""


class Body:
    """A stream as the body of a request.

    It can be the body of a second request as long as only its first piece was taken.
    """

    def __init__(self, read: Read, meter: Meter) -> None:
        self._read = read
        self._meter = meter
        self._first = read_full(read)
        self.digest = hashlib.sha256()
        self.can_repeat = True
        self.ended = False

    def open(self) -> Iterator[bytes]:
        """Yield the body from its start. It must not be called unless `can_repeat` is set."""
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
    """Return a whole piece, or all bytes if there are fewer. A pipe returns less per read."""
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
    """Upload a stream and return the proved file.

    Raises DigestMismatch, ServerUnavailable, and the errors that any request raises.
    """
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
            f"{filename}: the server did not receive the bytes that were sent; the file was deleted"
        )
    meter.enter("done")
    return file


def upload_again(api: Api, file_id: UUID, read: Read, *, meter: Meter) -> File:
    """Send the bytes of a damaged file, and return the file, which is `ready` again.

    Raises DigestMismatch if they are not the proved bytes, AlreadyUploaded if the file is not
    damaged any more, ServerUnavailable, and the errors that any request raises.
    """
    meter.enter("sending")
    headers = {"Content-Type": "application/octet-stream"}
    body = Body(read, meter)
    answer = send(api, f"/files/{file_id}/upload", headers, body=body)
    file = api.decode(api.check_answer(answer), Declared).file
    meter.enter("done")
    return file


def send(api: Api, path: str, headers: dict[str, str], *, body: Body) -> Answer:
    """Run steps 2 to 4 of the protocol above, and return the response."""
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
                    f"the API: {error}: all bytes were sent, but the response was lost; "
                    "check whether the file exists"
                ) from error
            if not (body.can_repeat and retries.wait()):
                raise ServerUnavailable(
                    f"the API: {error}: nothing was stored, and the stream cannot be read again"
                ) from error
            continue
        if not is_away(answer) or not body.can_repeat or not retries.wait(read_retry_after(answer)):
            return answer


def write_digest(sha256: str) -> str:
    """Return the value of Repr-Digest (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
