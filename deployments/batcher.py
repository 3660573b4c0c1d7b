"""Micro-batching without waiting: whatever arrived while the last batch ran is the next batch.

Owns the queue between requests and one handler. Does not know what an item is. An idle batcher starts at once, so a
lone request waits for nothing; under load the batch grows by itself, up to `max_batch`.

    answer = await batcher.submit(item)

Invariant: one batch runs at a time, in order of arrival, and every future is settled exactly once, also when its client
has gone, the handler raises, or the batcher closes. The price: a batch is as slow as its slowest item.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from deployments.errors import OverloadedError, UnavailableError

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

BatchHandler = Callable[[list[T]], Awaitable[list[R | Exception]]]
"""Takes a batch, returns as many results in the same order; an exception in the list fails its item only."""


class MicroBatcher(Generic[T, R]):
    """Drain-while-busy batching on one event loop.

    Args:
        handler: What a batch is given to.
        max_batch: Most items in a batch.
        max_depth: Most items waiting; one more is refused at once (429).
        between: Called before each batch, never during one, and by `run_between` when idle. Must be quick and
            synchronous: it is where a new set of weights takes the place of the old.
    """

    def __init__(
        self,
        handler: BatchHandler[T, R],
        *,
        max_batch: int = 64,
        max_depth: int = 1024,
        between: Callable[[], None] | None = None,
    ) -> None:
        self._handler = handler
        self._max_batch = max_batch
        self._max_depth = max_depth
        self._between = between
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._drain: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def depth(self) -> int:
        """Items waiting, without those in the running batch."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether no batch runs and none is about to."""
        return self._drain is None

    async def submit(self, item: T) -> R:
        """Wait for this item's result.

        Raises:
            OverloadedError: `max_depth` items wait already.
            UnavailableError: the batcher was closed.
        """
        if self._is_closed:
            raise UnavailableError("this replica is stopping")
        if len(self._waiting) >= self._max_depth:
            raise OverloadedError(f"{self._max_depth} requests wait already")
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._drain is None:
            self._drain = asyncio.create_task(self._run())
        return await future

    def run_between(self) -> bool:
        """Call the `between` hook now if no batch runs; else it runs before the next one. Say which."""
        if self._drain is not None:
            return False
        self._call_between()
        return True

    async def close(self) -> None:
        """Refuse new items, fail the waiting ones, and let the running batch finish."""
        self._is_closed = True
        while self._waiting:
            _, future = self._waiting.popleft()
            _fail(future, UnavailableError("this replica is stopping"))
        if self._drain is not None:
            await asyncio.wait([self._drain])

    async def _run(self) -> None:
        try:
            while self._waiting:
                self._call_between()
                batch = self._take()
                if batch:
                    await self._run_batch(batch)
        finally:
            self._drain = None
        self._call_between()

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < self._max_batch:
            entry = self._waiting.popleft()
            if not entry[1].done():  # its client has gone: do not compute for nobody
                batch.append(entry)
        return batch

    async def _run_batch(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._handler([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"batch handler returned {len(results)} results for {len(batch)} items")
        except Exception as error:  # noqa: BLE001  handed to every waiter, whose ingress logs it
            for _, future in batch:
                _fail(future, error)
            return
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), result in zip(batch, results, strict=True):
            _settle(future, result)

    def _call_between(self) -> None:
        if self._between is None:
            return
        try:
            self._between()
        except Exception:  # a failed swap leaves the old weights in place; it must not end the draining
            logger.exception("the hook between two batches failed")


def _settle(future: asyncio.Future[R], result: R | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def _fail(future: asyncio.Future[R], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
