"""Micro-batching without waiting: whatever arrived while the last batch ran is the next batch.

Owns the queue between requests and one handler. Does not know what an item is. An idle batcher starts at once, so a
lone request waits for nothing; under load the batch grows by itself, up to `max_batch` items or `max_cost`.

    answer = await batcher.submit(item, deadline_s=0.25)

Admission: each batch teaches what a unit of cost takes, so a new item's wait is known when it arrives. An item that
would be late is refused at once, when its client can still ask elsewhere; one that is late nevertheless, because a
batch took longer than those before it, is refused when its turn comes instead of being computed for nobody.

Invariant: one batch runs at a time, in order of arrival, and every future is settled exactly once, also when its client
has gone, the handler raises, or the batcher closes. The price: a batch is as slow as its slowest item.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from deployments.errors import OverloadedError, UnavailableError

MEMORY: Final = 0.9  # what a batch before counts for beside the one after it; half is forgotten in seven batches
TREND: Final = 2.0  # a batch that took longer than this many times the expected counts as if it took so: a stall is
# no trend, and a trend is followed all the same, in a few batches

TURNS: Final = 3  # of the event loop between two batches: to read from a socket, to begin a request, to submit it.
# Without them whoever arrived while a batch computed would miss the next one: many small batches, at twice the latency

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

BatchHandler = Callable[[list[T]], Awaitable[list[R | Exception]]]
"""Takes a batch, returns as many results in the same order; an exception in the list fails its item only."""


class Pace:
    """Seconds that a unit of cost takes, by the last batches; a large batch says more than a small one."""

    def __init__(self) -> None:
        self._cost = 0.0
        self._took_s = 0.0

    def observe(self, cost: float, took_s: float) -> None:
        """Learn from a finished batch."""
        if self._cost:
            took_s = min(took_s, TREND * self.expect_s(cost))
        self._cost = MEMORY * self._cost + cost
        self._took_s = MEMORY * self._took_s + took_s

    def expect_s(self, cost: float) -> float:
        """How long so much would take; 0 as long as nothing is known."""
        return cost * self._took_s / self._cost if self._cost else 0.0


@dataclass(slots=True, eq=False)
class _Entry(Generic[T, R]):
    item: T
    cost: float
    due_s: float
    future: asyncio.Future[R]


class MicroBatcher(Generic[T, R]):
    """Drain-while-busy batching on one event loop.

    Args:
        handler: What a batch is given to.
        max_batch: Most items in a batch.
        max_cost: Most that a batch may cost, which is its dearest item's cost for each, for items are padded to the
            longest; an item that costs more is a batch of its own.
        max_depth: Most items waiting; one more is refused at once (429).
        cost: What an item costs, in any unit; positive.
        between: Called before each batch, never during one, and by `run_between` when idle. Must be quick and
            synchronous: it is where a new set of weights takes the place of the old.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        handler: BatchHandler[T, R],
        *,
        max_batch: int = 64,
        max_cost: float = math.inf,
        max_depth: int = 1024,
        cost: Callable[[T], float] = lambda _item: 1.0,
        between: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handler = handler
        self._max_batch = max_batch
        self._max_cost = max_cost
        self._max_depth = max_depth
        self._cost = cost
        self._between = between
        self._clock = clock
        self._pace = Pace()
        self._waiting: deque[_Entry[T, R]] = deque()
        self._waiting_cost = 0.0
        self._running_until_s = 0.0
        self._drain: asyncio.Task[None] | None = None
        self._is_closed = False
        self.n_shed = 0

    @property
    def depth(self) -> int:
        """Items waiting, without those in the running batch."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether no batch runs and none is about to."""
        return self._drain is None

    def estimate_s(self, cost: float) -> float:
        """How long an item of this cost that came now would wait and take.

        0 for an idle batcher: it takes what comes, or an estimate that is too long would never be corrected.
        """
        if self._drain is None:
            return 0.0
        running_s = max(0.0, self._running_until_s - self._clock())
        return running_s + self._pace.expect_s(self._waiting_cost + cost)

    async def submit(self, item: T, deadline_s: float | None = None) -> R:
        """Wait for this item's result.

        Args:
            deadline_s: From now until the result is of no use; None means that it always is.
        Raises:
            OverloadedError: `max_depth` items wait already, or the result would come, or its computing begin, too late.
            UnavailableError: the batcher was closed.
        """
        if self._is_closed:
            raise UnavailableError("this replica is stopping")
        if len(self._waiting) >= self._max_depth:
            raise self._shed(f"{self._max_depth} requests wait already")
        cost, due_s = self._cost(item), math.inf
        if deadline_s is not None:
            if (estimate_s := self.estimate_s(cost)) > deadline_s:
                raise self._shed(
                    f"an answer would take {1000 * estimate_s:.0f} ms, expected within {1000 * deadline_s:.0f} ms",
                    estimate_s - deadline_s,
                )
            due_s = self._clock() + deadline_s
        entry: _Entry[T, R] = _Entry(item, cost, due_s, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._waiting_cost += cost
        if self._drain is None:
            self._drain = asyncio.create_task(self._run())
        return await entry.future

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
            _fail(self._pop().future, UnavailableError("this replica is stopping"))
        if self._drain is not None:
            await asyncio.wait([self._drain])

    async def _run(self) -> None:
        try:
            while self._waiting:
                self._call_between()
                batch = self._take()
                if batch:
                    await self._run_batch(batch)
                for _ in range(TURNS):
                    await asyncio.sleep(0)
        finally:
            self._drain = None
        self._call_between()

    def _take(self) -> list[_Entry[T, R]]:
        batch: list[_Entry[T, R]] = []
        dearest, now_s = 0.0, self._clock()
        while self._waiting and len(batch) < self._max_batch:
            dearest = max(dearest, self._waiting[0].cost)
            if batch and (len(batch) + 1) * dearest > self._max_cost:
                break
            entry = self._pop()
            if entry.future.done():  # its client has gone: do not compute for nobody
                continue
            if entry.due_s <= now_s:
                _fail(entry.future, self._shed("its turn came after its deadline"))
                continue
            batch.append(entry)
        return batch

    def _pop(self) -> _Entry[T, R]:
        entry = self._waiting.popleft()
        self._waiting_cost = self._waiting_cost - entry.cost if self._waiting else 0.0
        return entry

    async def _run_batch(self, batch: list[_Entry[T, R]]) -> None:
        cost, start_s = len(batch) * max(entry.cost for entry in batch), self._clock()
        self._running_until_s = start_s + self._pace.expect_s(cost)
        try:
            results = await self._handler([entry.item for entry in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"batch handler returned {len(results)} results for {len(batch)} items")
        except Exception as error:  # noqa: BLE001  handed to every waiter, whose ingress logs it
            for entry in batch:
                _fail(entry.future, error)
            return
        except BaseException:
            for entry in batch:
                entry.future.cancel()
            raise
        self._pace.observe(cost, self._clock() - start_s)
        for entry, result in zip(batch, results, strict=True):
            _settle(entry.future, result)

    def _shed(self, why: str, retry_after_s: float = 1.0) -> OverloadedError:
        self.n_shed += 1
        return OverloadedError(why, retry_after_s=retry_after_s)

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
