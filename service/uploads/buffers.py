"""What all streamed uploads of one process share: memory for parts, and threads that send them."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from service import problems

THREADS: Final = 16
BUFFER_BYTES: Final = 128 * 1024**2
WAIT_SECONDS: Final = 60.0

Result = TypeVar("Result")


class UploadBuffers:
    """One an app, for one event loop."""

    def __init__(self) -> None:
        self.bytes_left = BUFFER_BYTES
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="upload")

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *arguments)

    async def take(self, size: int) -> None:
        """Memory for a part, all of it at once and in the order of asking: whoever holds some waits for no more. Raises Unavailable."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((size, turn))
        self.serve()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await turn
        except BaseException as error:
            if turn.cancelled() or turn.cancel():
                self.serve()  # whoever is next need not wait for us
            else:
                self.give_back(size)  # it came a moment too late
            if isinstance(error, TimeoutError):
                raise problems.Unavailable("too many uploads are under way: try again") from None
            raise

    def give_back(self, size: int) -> None:
        self.bytes_left += size
        self.serve()

    def serve(self) -> None:
        while self.waiting and (self.waiting[0][1].done() or self.waiting[0][0] <= self.bytes_left):
            size, turn = self.waiting.popleft()
            if not turn.done():
                self.bytes_left -= size
                turn.set_result(None)

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
