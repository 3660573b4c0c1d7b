"""Reading the log in ticks: fixed spans of log time, handed out only when nothing can be added to them any more.

A tick is closed when the store's clock has passed its end and everything up to there has been read; its entries are
merged by (id, partition). So what a tick holds depends on the log alone, never on when a reader happened to wake up.
With the event clock this holds for a single sender in time order; what arrives behind a tick already handed out, there,
is handed out at once.
"""

import heapq
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from features.errors import LogMoved
from features.events import START, Entry, Positions

TICK_MS: Final = 200
READ_COUNT: Final = 64  # entries per partition and read: bounds memory when a reader is far behind


class Log(Protocol):
    """What can be read in ticks: the log of a `FeatureStore`, or one that goes back further."""

    async def read_log(self, positions: Positions, *, count: int, block_s: float = 0.0) -> list[Entry]:
        """As `FeatureStore.read_log`."""
        ...

    async def now_ms(self) -> int:
        """As `FeatureStore.now_ms`."""
        ...


class WholeLog(Log, Protocol):
    """A log of which no entry is missing, behind where it begins."""

    async def begins(self) -> Positions:
        """Where it begins; partitions that begin with their first entry are not there."""
        ...


class Gapless:
    """A log of which no entry may go before it is read.

    Args:
        trimmed: Tells what is gone of it, as `BulkStore.trimmed`.
    """

    def __init__(self, log: Log, trimmed: Callable[[], Awaitable[Positions]]) -> None:
        self._log = log
        self._trimmed = trimmed

    async def read_log(self, positions: Positions, *, count: int, block_s: float = 0.0) -> list[Entry]:
        """As the log's.

        Raises:
            LogMoved: If entries after the positions are gone.
        """
        entries = await self._log.read_log(positions, count=count, block_s=block_s)
        for partition, gone in (await self._trimmed()).items():  # asked afterwards: nothing went in between
            at = positions.get(partition, START)
            if gone > at:
                raise LogMoved(f"partition {partition}: entries up to {gone} are gone, expected those after {at}")
        return entries

    async def now_ms(self) -> int:
        """As the log's."""
        return await self._log.now_ms()

    async def begins(self) -> Positions:
        """Behind what is gone."""
        return await self._trimmed()


@dataclass(frozen=True, slots=True)
class Tick:
    """Entries whose log time lies before `end_ms` and not before the previous tick's end.

    A reader that is behind gets several ticks' worth at once; `end_ms` is the end of the last of them.
    """

    entries: list[Entry]
    end_ms: int


class TickReader:
    """Reads all partitions from given positions. Call `next` in a loop.

    Args:
        tick_ms: Length of a tick; 1: as soon as may be, still in one order.
        count: Entries read per partition at once.
    """

    def __init__(self, log: Log, positions: Positions, *, tick_ms: int = TICK_MS, count: int = READ_COUNT) -> None:
        self._log = log
        self._read = dict(positions)
        self._held: list[Entry] = []
        self._tick_ms = tick_ms
        self._count = count
        self._end_ms = 0
        self._full: list[int] = []
        """Partitions that may hold more than was read last."""

    @property
    def is_behind(self) -> bool:
        """Whether there may be more to read right now: then it is not time to rest."""
        return bool(self._full)

    async def next(self, *, wait_s: float = 0.0) -> Tick | None:
        """The entries of all ticks that closed since the last call; None when none did.

        Args:
            wait_s: How long to wait for a first entry if none is held.
        """
        now_ms = await self._log.now_ms()
        is_drained = await self._fill(0.0 if self._held else wait_s)
        end_ms = now_ms if is_drained else min(now_ms, self._complete_ms())
        end_ms = max(end_ms // self._tick_ms * self._tick_ms, self._end_ms)
        entries = []
        while self._held and self._held[0].id.ms < end_ms:
            entries.append(heapq.heappop(self._held))
        if end_ms == self._end_ms and not entries:
            return None
        self._end_ms = end_ms
        return Tick(entries, end_ms)

    async def _fill(self, wait_s: float) -> bool:
        """Read once; True when every partition gave all it had."""
        counts: dict[int, int] = {}
        for entry in await self._log.read_log(self._read, count=self._count, block_s=wait_s):
            heapq.heappush(self._held, entry)
            self._read[entry.partition] = max(entry.id, self._read.get(entry.partition, entry.id))
            counts[entry.partition] = counts.get(entry.partition, 0) + 1
        self._full = [partition for partition, n in counts.items() if n >= self._count]
        return not self._full

    def _complete_ms(self) -> int:
        """Up to here every partition has been read, although some hold more."""
        return min(self._read[partition].ms for partition in self._full)
