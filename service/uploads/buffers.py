"""The buffer budget of streamed uploads."""

import asyncio
from collections import deque
from typing import Final

from service import problems
from service.http.budget import Budget

BUFFER_BYTES: Final = 128 * 1024**2
WAIT_SECONDS: Final = 60.0


class UploadBuffers(Budget):
    """The budget of all streamed uploads of one process."""

    def __init__(self) -> None:
        super().__init__(BUFFER_BYTES, name="upload")
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Take `size` bytes from the upload buffer budget, in request order.

        The whole amount is granted at once, so that an upload that holds memory never waits for
        more. Raises Unavailable if the wait exceeds WAIT_SECONDS.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((size, turn))
        self.serve()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await turn
        except BaseException as error:
            if turn.cancelled() or turn.cancel():
                self.serve()  # the next request in the queue may fit
            else:
                self.give_back(size)  # it was granted at the same moment
            if isinstance(error, TimeoutError):
                raise problems.Unavailable("too many uploads are in progress: try again") from None
            raise

    def give_back(self, size: int) -> None:
        super().give_back(size)
        self.serve()

    def serve(self) -> None:
        """Grant the waiting requests that fit, in request order."""
        while self.waiting and (self.waiting[0][1].done() or self.waiting[0][0] <= self.bytes_left):
            size, turn = self.waiting.popleft()
            if not turn.done():
                self.bytes_left -= size
                turn.set_result(None)
