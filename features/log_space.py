"""What of the log is dropped, and when; how full it is, and how long that will do.

    ordinarily       what every reader has committed, but for the newest `keep_s`
    above `TIGHT`    down to `EASY`, the oldest first: what is archived, though a reader has still to read it;
                     without an archive what everybody has read, though it is newer

What others note as theirs in the store (a history that is being put in) is never passed by. It is measured before and
after each step, since nobody knows what an entry takes: so `bytes_per_s` tells what is appended, not what remains.

No Ray, no clock.
"""

from collections.abc import Iterable
from typing import Final

from features.archiving import READER
from features.events import START, Positions, StreamId
from features.store import BulkStore, FeatureStore

TIGHT: Final = 0.7  # of what the log may take
EASY: Final = 0.5
PACE_S: Final = 600.0  # over which the rate of appending is averaged


class LogSpace:
    """Call `look`, then `trim` now and then, and `make_room` whenever it `is_tight`.

    Args:
        keep_s: Log time kept although everybody has read it.
        max_bytes: What the log may take; 0: anything.
    """

    def __init__(self, store: FeatureStore, bulk: BulkStore, *, keep_s: float, max_bytes: int = 0) -> None:
        self._store = store
        self._bulk = bulk
        self._keep_ms = round(keep_s * 1000)
        self._max_bytes = max_bytes
        self._looked_s: float | None = None
        self._weight_s = 0.0
        self.n_bytes = 0
        """As of the last look."""
        self.bytes_per_s = 0.0
        """How much is appended, lately."""

    @property
    def is_tight(self) -> bool:
        """Whether room has to be made."""
        return self._max_bytes > 0 and self.n_bytes > TIGHT * self._max_bytes

    @property
    def hours_left(self) -> float | None:
        """How long the log can grow as it does if nothing is dropped; None: it has no limit, or does not grow."""
        if not self._max_bytes or not self.bytes_per_s:
            return None
        return max(0.0, self._max_bytes - self.n_bytes) / self.bytes_per_s / 3600.0

    async def look(self, now_s: float) -> None:
        """Measure, at an instant of a monotonic clock."""
        before, self.n_bytes = self.n_bytes, await self._store.log_bytes()
        if self._looked_s is not None and now_s > self._looked_s:
            passed_s = now_s - self._looked_s
            self._weight_s = min(self._weight_s + passed_s, PACE_S)
            rate = max(0, self.n_bytes - before) / passed_s
            self.bytes_per_s += (rate - self.bytes_per_s) * min(1.0, passed_s / self._weight_s)
        self._looked_s = now_s

    async def trim(self, learned: Positions) -> None:
        """Drop what everybody has read and is old enough.

        Args:
            learned: Positions that the learners have committed.
        """
        kept_from = StreamId(max(await self._store.now_ms() - self._keep_ms, 0), 0)
        read = await self.read_by_all(learned)
        await self._drop({partition: min(position, kept_from) for partition, position in read.items()})

    async def make_room(
        self, *, archived: Positions | None = None, learned: Positions | None = None
    ) -> StreamId | None:
        """Drop what may go, the oldest first, until the log is easy or nothing may.

        Args:
            archived: What is in files that every reader finds; None: there is no archive.
            learned: As of `trim`, if there is none.
        Returns:
            Up to where entries have to be archived, or read, before more can go; None if the log is easy.
        """
        easy_bytes = EASY * self._max_bytes
        while self.n_bytes > easy_bytes:
            firsts = {entry.partition: entry.id for entry in await self._store.read_log({}, count=1)}
            if not firsts:
                break
            heads = await self._store.heads()
            oldest_ms = min(at.ms for at in firsts.values())
            span_ms = max(heads[partition].ms for partition in firsts) - oldest_ms
            wanted = StreamId(oldest_ms + round(span_ms * (1 - easy_bytes / self.n_bytes)) + 1, 0)
            allowed = await (self.read_by_all(learned or {}) if archived is None else self._nobodys(archived))
            going = {partition: min(allowed.get(partition, START), wanted) for partition in firsts}
            going = {partition: position for partition, position in going.items() if position >= firsts[partition]}
            if not going:
                return wanted
            await self._drop(going)
        return None

    async def read_by_all(self, learned: Positions) -> Positions:
        """Up to where nobody needs the log any more; arguments as of `trim`."""
        rows, readers = await self._store.projected(), (await self._bulk.readers()).values()
        return {p: min(at, _least(p, (*rows, *readers))) for p, at in learned.items()}

    async def _nobodys(self, archived: Positions) -> Positions:
        """Up to where nobody has noted anything as still his."""
        readers = [positions for name, positions in (await self._bulk.readers()).items() if name != READER]
        return {p: min(at, _least(p, readers)) if readers else at for p, at in archived.items()}

    async def _drop(self, positions: Positions) -> None:
        await self._store.trim({partition: position for partition, position in positions.items() if position > START})
        self.n_bytes = await self._store.log_bytes()


def _least(partition: int, readers: Iterable[Positions]) -> StreamId:
    return min((positions.get(partition, START) for positions in readers), default=START)
