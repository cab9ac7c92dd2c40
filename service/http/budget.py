"""The budget: memory and threads that all streams of one kind in a process share."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

Result = TypeVar("Result")
THREADS: Final = 16


class Budget:
    """A budget of `bytes_left` bytes of memory and THREADS threads, for one event loop."""

    def __init__(self, size_bytes: int, *, name: str) -> None:
        self.bytes_left = size_bytes
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix=name)

    def give_back(self, size: int) -> None:
        self.bytes_left += size

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *arguments)

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
