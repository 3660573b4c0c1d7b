"""What time it is in the log, without asking the store on every request.

Wall clock: this machine's clock corrected by the store's, measured every few seconds. Event clock: the newest event
time that was observed, plus the wall time since.
"""

import asyncio
import logging
from typing import Final

from features.clock import EventClock, WallClock
from features.errors import StoreUnavailable
from features.events import Positions
from features.store import FeatureStore

MEASURE_S: Final = 5.0

logger = logging.getLogger(__name__)


class LogClock:
    """Log time as seen from a replica."""

    def __init__(self, store: FeatureStore, *, is_event_clock: bool) -> None:
        self._store = store
        self._wall = WallClock()
        self._event = EventClock() if is_event_clock else None
        self._ahead_ms = 0

    def now_ms(self) -> int:
        """Log time now."""
        return self._wall.now_ms() + self._ahead_ms if self._event is None else self._event.now_ms()

    def observe(self, heads: Positions) -> None:
        """Take note of the newest positions."""
        if self._event is not None and heads:
            self._event.observe(max(head.ms for head in heads.values()))

    async def run(self) -> None:
        """Measure for ever."""
        while True:
            try:
                await self.measure()
            except StoreUnavailable as error:
                logger.warning("log time goes on unmeasured: %s", error)
            await asyncio.sleep(MEASURE_S)

    async def measure(self) -> None:
        """Compare with the store's clock once."""
        if self._event is not None:
            self.observe(await self._store.heads())
            return
        before_ms = self._wall.now_ms()
        store_ms = await self._store.now_ms()
        self._ahead_ms = store_ms - (before_ms + self._wall.now_ms()) // 2
