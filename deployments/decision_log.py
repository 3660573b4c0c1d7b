"""Decisions are logged after the answer, in batches, from a bounded queue; what does not fit is counted as lost.

A lost decision costs its feedback the slate it was chosen from, never an answer or an event.
"""

import asyncio
import logging
from collections import deque
from typing import Final

from features.errors import FeatureError
from features.store import FeatureStore, Record

MAX_QUEUED: Final = 4096
BATCH: Final = 8  # what is sent at once is read by the store at once, and a ranking that reads meanwhile waits for it
PAUSE_S: Final = 0.01
RETRY_S: Final = 0.5

logger = logging.getLogger(__name__)


class DecisionLog:
    """`keep` from the request path; `run` as a task."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._queue: deque[Record] = deque()
        self.n_logged = 0
        self.n_lost = 0

    def keep(self, record: Record) -> None:
        """Queue a decision; a full queue loses it."""
        if len(self._queue) >= MAX_QUEUED:
            self.n_lost += 1
        else:
            self._queue.append(record)

    async def run(self) -> None:
        """Append for ever, one batch at a time."""
        while True:
            await asyncio.sleep(PAUSE_S if await self.flush() else RETRY_S)

    async def flush(self) -> bool:
        """Append what is queued; False if the store would not take it."""
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            results = await self._store.apply(batch)
            failed = [result for result in results if isinstance(result, FeatureError)]
            self.n_logged += len(results) - len(failed)
            self.n_lost += len(failed)
            if failed:
                logger.warning("%d decisions lost: %s", len(failed), failed[0])
                return False
        return True
