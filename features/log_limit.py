"""When the log may not grow any more: whoever appends asks, and the store is measured once a second."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from features.errors import FeatureError, LogFull
from features.events import ERASURE
from features.store import Applied, Record

LOOK_S: Final = 1.0  # by what comes in this time the limit may be passed


class LogLimit:
    """Keeps one writer within the bytes of the log.

    Args:
        max_bytes: 0: no limit, and nothing is measured.
        measure: Bytes of the log, as `FeatureStore.log_bytes`.
    """

    def __init__(self, max_bytes: int, measure: Callable[[], Awaitable[int]]) -> None:
        self._max_bytes = max_bytes
        self._measure = measure
        self._look_s = 0.0
        self._refusal: LogFull | None = None

    async def apply(
        self,
        records: Sequence[Record],
        write: Callable[[Sequence[Record]], Awaitable[list[Applied | FeatureError]]],
    ) -> list[Applied | FeatureError]:
        """Write what may be written; a `LogFull` stands in place of the rest. Erasures always may."""
        if self._max_bytes:
            await self._look()
        refusal = self._refusal
        if refusal is None:
            return await write(records)
        results = iter(await write([record for record in records if record.kind == ERASURE]))
        return [next(results) if record.kind == ERASURE else refusal for record in records]

    async def _look(self) -> None:
        now_s = time.monotonic()
        if now_s < self._look_s:
            return
        self._look_s = now_s + LOOK_S  # before it is known: nobody else measures meanwhile
        try:
            n_bytes = await self._measure()
        except FeatureError:
            return  # the store does not answer: the write will say so
        self._refusal = LogFull(n_bytes, self._max_bytes) if n_bytes > self._max_bytes else None
