"""Decisions are logged after the answer, in batches, from a bounded queue; what does not fit is counted as lost.

A lost decision costs its feedback the slate it was chosen from, never an answer or an event. One that has waited for
long, since the store was away, is lost too: nobody who was erased meanwhile comes back with it (`features.people`).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from features.errors import FeatureError
from features.store import FeatureStore, Record

MAX_QUEUED: Final = 4096
BATCH: Final = 8  # what is sent at once is read by the store at once, and a ranking that reads meanwhile waits for it
PAUSE_S: Final = 0.01
RETRY_S: Final = 0.5
LATE_S: Final = 20.0  # with what the store takes for an answer less than `LATE_MS` of `features.people`

logger = logging.getLogger(__name__)


class DecisionLog:
    """`keep` from the request path; `run` as a task."""

    def __init__(self, store: FeatureStore, now_s: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._now_s = now_s
        self._queue: deque[tuple[float, Record]] = deque()
        """With when it was made, of `now_s`."""
        self.n_logged = 0
        self.n_lost = 0

    def keep(self, record: Record) -> None:
        """Queue a decision; a full queue loses it."""
        if len(self._queue) >= MAX_QUEUED:
            self.n_lost += 1
        else:
            self._queue.append((self._now_s(), record))

    def _batch(self) -> list[Record]:
        """What is logged next, and not too late."""
        late_s = self._now_s() - LATE_S
        while self._queue and self._queue[0][0] < late_s:
            self._queue.popleft()
            self.n_lost += 1
        return [self._queue.popleft()[1] for _ in range(min(BATCH, len(self._queue)))]

    async def run(self) -> None:
        """Append for ever, one batch at a time."""
        while True:
            await asyncio.sleep(PAUSE_S if await self.flush() else RETRY_S)

    async def flush(self) -> bool:
        """Append what is queued; False if the store would not take it."""
        while batch := self._batch():
            results = await self._store.apply(batch)
            failed = [result for result in results if isinstance(result, FeatureError)]
            self.n_logged += len(results) - len(failed)
            self.n_lost += len(failed)
            if failed:
                logger.warning("%d decisions lost: %s", len(failed), failed[0])
                return False
        return True
