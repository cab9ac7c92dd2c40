"""The store as one identity accesses it, with its connections and its threads for requests."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, TypeVar

from service.object_store.bucket import QUICK_SECONDS, Bucket
from service.object_store.client import Client
from service.object_store.errors import StoreError, StoreUnavailable
from service.object_store.messages import Deadline, Request

REQUEST_THREADS: Final = 64
HEALTH_PATH: Final = "/minio/health/cluster"
ANSWERS_OF_A_LIVING_STORE: Final = frozenset({"AccessDenied"})

Result = TypeVar("Result")


class ObjectStore:
    """A store, accessed as one identity. Threads and event loops can share it.

    Close it when none of its buckets is in use.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        access_key: str,
        secret_key: str,
        region: str,
        executor: Executor | None = None,
    ) -> None:
        """Create a store at `endpoint`, the address that the service uses, as `http://host[:port]`.

        If an `executor` is given, its owner shuts it down.
        """
        self._client = Client(endpoint, access_key=access_key, secret_key=secret_key, region=region)
        self._own_executor = (
            None
            if executor
            else ThreadPoolExecutor(REQUEST_THREADS, thread_name_prefix="store-request")
        )
        self._executor = executor or self._own_executor

    def __repr__(self) -> str:
        return f"ObjectStore({self._client.origin})"

    def bucket(self, name: str) -> Bucket:
        return Bucket(self._client, name, run=self._run)

    async def check_health(self, *, timeout_seconds: float = QUICK_SECONDS) -> None:
        """Raise StoreUnavailable unless the store can serve this identity."""
        await self._run(lambda: self._check_health(timeout_seconds))

    def _check_health(self, timeout_seconds: float) -> None:
        """Check MinIO's probe for the cluster, and then a signed request, which also works on other
        stores.

        MinIO's `/live` and `/ready` are not used, because they succeed before it can serve
        requests.
        """
        deadline = Deadline(timeout_seconds)
        status = self._client.probe(HEALTH_PATH, deadline)
        if status >= 500:
            raise StoreUnavailable(f"GET {HEALTH_PATH}: {status}", status=status)
        try:
            self._client.send(Request("GET"), deadline)  # the list of this identity's buckets
        except StoreError as error:
            if error.code not in ANSWERS_OF_A_LIVING_STORE:
                raise StoreUnavailable(str(error), status=error.status, code=error.code) from error

    def close(self) -> None:
        """Release threads and connections.

        Requests in progress are aborted, because their threads would keep the process from exiting.
        """
        if self._own_executor is not None:
            self._own_executor.shutdown(wait=False, cancel_futures=True)
        self._client.cut()

    async def _run(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)
