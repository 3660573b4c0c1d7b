"""The store in dicts: the same contract as in Redis, for tests and for evaluation without servers.

One process, one event loop, nothing kept on disk. The log grows until it is trimmed. `features/state.py` does the
update here, and the function library of the Redis store agrees with it bit for bit.
"""

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from time import monotonic
from typing import Final, Literal

from features.clock import Clock, EventClock, WallClock
from features.erasures import Erased, Erasing, end
from features.errors import FeatureError, LogMoved, ProjectionConflict, ReaderMoved, RowsHeld
from features.events import ERASURE, START, Entry, Positions, StreamId
from features.keys import Keys
from features.log_limit import LogLimit
from features.schema import Schema
from features.seen import Seen
from features.sources import Quarantine
from features.state import apply_update, with_attributes
from features.store import Applied, Read, Record, RowListener

HEARD_S: Final = 0.02


class MemoryStore:
    """A `FeatureStore` and `BulkStore` in memory.

    Args:
        clock: With `event`, ids follow event time.
        dedupe_window_s: How long an event id is remembered, at least.
        time: What the wall says: it stamps ids of the wall clock and forgets event ids on both.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        keys: Keys | None = None,
        clock: Literal["wall", "event"] = "wall",
        dedupe_window_s: float = 3600.0,
        time: Clock | None = None,
    ) -> None:
        self.schema = schema
        self.keys = keys or Keys()
        self.clock = clock
        self._time = time or WallClock()
        self._event_clock = EventClock()
        self._seen = Seen(round(dedupe_window_s * 1000))
        self._users: dict[str, bytes] = {}
        self._rows: dict[str, bytes] = {}
        self._logs: defaultdict[int, list[Entry]] = defaultdict(list)
        self._heads: Positions = {}
        self._projected: defaultdict[int, Positions] = defaultdict(dict)
        self._trimmed: Positions = {}
        self._trimming: Positions = {}
        self._readers: dict[str, Positions] = {}
        self._quarantined: dict[str, Quarantine] = {}
        self._erasing: dict[str, Erasing] = {}
        self._erased: dict[str, Erased] = {}
        self._erased_to: Positions = {}
        self._holder = ""
        self._limit = LogLimit(0, self.log_bytes)
        self._has_appended = asyncio.Event()
        self._listeners: list[RowListener] = []

    def limit_log(self, max_bytes: int) -> None:
        """Append nothing but erasures while the log takes more; 0: no limit."""
        self._limit = LogLimit(max_bytes, self.log_bytes)

    async def apply(self, records: Sequence[Record]) -> list[Applied | FeatureError]:
        """Apply records in order, each judged by itself."""
        return await self._limit.apply(records, self._write)

    async def _write(self, records: Sequence[Record]) -> list[Applied | FeatureError]:
        results: list[Applied | FeatureError] = []
        for record in records:
            try:
                results.append(self._apply(record))
            except FeatureError as error:
                results.append(error)
        self._has_appended.set()
        return results

    async def read(self, users: Sequence[str], items: Sequence[str]) -> tuple[list[Read], list[Read]]:
        """Packed user states and item rows."""
        states: list[Read] = [self._users.get(user, b"") for user in users]
        return states, [self._rows.get(item, b"") for item in items]

    async def read_log(self, positions: Positions, *, count: int, block_s: float = 0.0) -> list[Entry]:
        """Entries after the positions."""
        entries = self._after(positions, count)
        if entries or block_s <= 0:
            return entries
        try:
            async with asyncio.timeout(block_s):
                while not entries:
                    self._has_appended.clear()
                    await self._has_appended.wait()
                    entries = self._after(positions, count)
        except TimeoutError:
            return []
        return entries

    async def heads(self) -> Positions:
        """The newest position of every partition that ever had an entry."""
        return dict(self._heads)

    async def log_bytes(self) -> int:
        """Bytes of the entries."""
        return sum(len(entry.body) + len(entry.state) for log in self._logs.values() for entry in log)

    async def now_ms(self) -> int:
        """Log time: the injected clock, or the newest event time plus the wall time since it arrived."""
        return self._time.now_ms() if self.clock == "wall" else self._event_clock.now_ms()

    async def trim(self, positions: Positions) -> None:
        """Drop the entries up to and including each position."""
        for partition, position in positions.items():
            self._trimming[partition] = max(position, self._trimming.get(partition, START))
            log = self._logs[partition]
            n_gone = _index_after(log, position)
            if n_gone:
                self._trimmed[partition] = log[n_gone - 1].id
                del log[:n_gone]

    async def commit_rows(
        self,
        item_partition: int,
        rows: Mapping[str, bytes],
        *,
        expected: Positions,
        reached: Positions,
        holder: str = "",
    ) -> None:
        """Write item rows and positions; only the partitions in `expected` are compared.

        Raises:
            ProjectionConflict: If a stored position is another, or the rows are held by another; nothing was written.
        """
        self._check_holder(holder)
        positions = self._projected[item_partition]
        for partition, position in expected.items():
            stored = positions.get(partition, START)
            if stored != position:
                raise ProjectionConflict(
                    f"item partition {item_partition}: log partition {partition} is at {stored}, "
                    f"expected {position}; reload and go on"
                )
        for item, row in rows.items():
            _put(self._rows, item, row)
        positions.update(reached)
        for listener in self._listeners:
            listener.changed(list(rows))

    async def projected(self) -> list[Positions]:
        """For every item partition, the position of every log partition up to which it is folded.

        Raises:
            RowsHeld: If they are being replaced.
        """
        if self._holder:
            raise RowsHeld(f"item rows are held by {self._holder!r}")
        return [dict(self._projected[partition]) for partition in range(self.keys.n_partitions)]

    async def follow_rows(self, listener: RowListener) -> None:
        """Tell which item rows are written, at once."""
        self._listeners.append(listener)
        listener.began()
        try:
            while True:
                await asyncio.sleep(HEARD_S)
                listener.heard(monotonic())
        finally:
            self._listeners.remove(listener)

    async def trimmed(self) -> Positions:
        """The last entry that is gone from each log partition."""
        return dict(self._trimmed)

    async def trimming(self) -> Positions:
        """Up to where entries of each log partition may be gone."""
        return dict(self._trimming)

    async def put_users(self, partition: int, states: Mapping[str, bytes], head: StreamId) -> None:
        """Replace states of users of a partition.

        Raises:
            LogMoved: If its newest entry is another.
        """
        stored = self._heads.get(partition, START)
        if stored != head:
            raise LogMoved(f"partition {partition}: the log is at {stored}, expected {head}; read on and try again")
        for user, state in states.items():
            _put(self._users, user, state)

    async def hold_rows(self, holder: str) -> None:
        """Keep everybody else from writing item rows."""
        self._holder = holder

    async def holder(self) -> str:
        """By whom the rows are held."""
        return self._holder

    async def put_rows(self, item_partition: int, rows: Mapping[str, bytes], holder: str) -> None:
        """Replace rows.

        Raises:
            ProjectionConflict: If they are held by another.
        """
        await self.commit_rows(item_partition, rows, expected={}, reached={}, holder=holder)

    async def items(self) -> AsyncIterator[list[str]]:
        """Every item that has a row."""
        yield list(self._rows)

    async def users(self) -> AsyncIterator[list[str]]:
        """Every user who has a state."""
        yield list(self._users)

    async def release_rows(self, reached: Positions, holder: str) -> None:
        """Let others write rows again, from here on.

        Raises:
            ProjectionConflict: If they are held by another.
        """
        self._check_holder(holder)
        self._holder = ""
        for partition in range(self.keys.n_partitions):
            self._projected[partition] = dict(reached)

    async def note_reader(self, name: str, positions: Positions) -> None:
        """Note how far somebody has read."""
        self._readers[name] = dict(positions)

    async def advance_reader(self, name: str, expected: Positions, reached: Positions) -> None:
        """Note how far somebody has read, if that was at `expected` before.

        Raises:
            ReaderMoved: If it was elsewhere, or there is no such reader; nothing was noted.
        """
        if name not in self._readers:
            raise ReaderMoved(f"there is no reader {name!r}; it has been forgotten")
        for partition, position in expected.items():
            stored = self._readers[name].get(partition, START)
            if stored != position:
                raise ReaderMoved(f"reader {name!r}: partition {partition} is at {stored}, expected {position}")
        self._readers[name].update(reached)

    async def forget_reader(self, name: str) -> None:
        """Trim without regard to this reader."""
        self._readers.pop(name, None)

    async def readers(self) -> dict[str, Positions]:
        """How far everybody who was noted has read."""
        return {name: dict(positions) for name, positions in self._readers.items()}

    async def quarantine(self, source: str, quarantine: Quarantine) -> bool:
        """Have what a source sends kept, and nothing else; False if that is so already."""
        if source in self._quarantined:
            return False
        self._quarantined[source] = quarantine
        return True

    async def release(self, source: str) -> bool:
        """Have what a source sends count again; False if it does."""
        return self._quarantined.pop(source, None) is not None

    async def quarantined(self) -> dict[str, Quarantine]:
        """The sources in quarantine."""
        return dict(self._quarantined)

    async def erasing(self) -> dict[str, Erasing]:
        """The erasures that are under way, by name."""
        return dict(self._erasing)

    async def note_erasing(self, erasure: str, erasing: Erasing) -> None:
        """Note how far an erasure is."""
        self._erasing[erasure] = erasing

    async def end_erasing(self, erasure: str, erasing: Erasing, done_ms: int) -> None:
        """Note that an erasure is done."""
        self._erased[erasure] = end(erasing, done_ms)
        self._erasing.pop(erasure, None)

    async def erasure(self, erasure: str) -> Erasing | Erased | None:
        """An erasure that is under way or done."""
        return self._erasing.get(erasure) or self._erased.get(erasure)

    async def note_erased(self, partition: int, at: StreamId) -> None:
        """Note that of a log partition not all entries up to here are there any more."""
        self._erased_to[partition] = max(at, self._erased_to.get(partition, START))

    async def erased_to(self) -> Positions:
        """Up to where entries were erased."""
        return dict(self._erased_to)

    async def drop_entries(self, partition: int, entries: Collection[StreamId], digests: Collection[bytes]) -> None:
        """Have entries of a log partition no more, and events of these digests not known as seen."""
        gone = set(entries)
        self._logs[partition] = [entry for entry in self._logs[partition] if entry.id not in gone]
        self._seen.discard(partition, digests)

    async def close(self) -> None:
        """Nothing to release."""

    def _check_holder(self, holder: str) -> None:
        if self._holder != holder:
            raise ProjectionConflict(f"the rows are held by {self._holder!r}, not by {holder!r}; reload and go on")

    def _apply(self, record: Record) -> Applied:
        if record.digest and self._seen.has(record.partition, record.digest, self._time.now_ms()):
            return Applied(self._heads.get(record.partition, START), True)
        before, after = self._change(record)
        position = self._next_id(record)
        self._heads[record.partition] = position
        self._logs[record.partition].append(Entry(position, record.partition, record.kind, record.body, before))
        if record.user is not None:
            _put(self._users, record.user, after)
        if record.user is not None and record.erasure:
            self._erasing[record.erasure] = Erasing(record.user, record.partition, position)
        if record.digest:
            self._seen.add(record.partition, record.digest)
        self._event_clock.observe(position.ms)
        return Applied(position, False)

    def _change(self, record: Record) -> tuple[bytes, bytes]:
        """The state to log, and the state to keep."""
        if record.user is None:
            return record.state, b""
        if record.kind == ERASURE:
            if record.state and record.state != self._users.get(record.user):
                raise LogMoved(f"partition {record.partition}: the state is another meanwhile")
            return b"", b""
        before = self._users.get(record.user, b"")
        if record.update is not None:
            return before, apply_update(before, record.update, self.schema)
        return before, with_attributes(before, record.attributes or b"", self.schema)

    def _next_id(self, record: Record) -> StreamId:
        last = self._heads.get(record.partition, START)
        ms = record.ts_ms if self.clock == "event" else self._time.now_ms()
        return StreamId(ms, 0) if ms > last.ms else StreamId(last.ms, last.seq + 1)

    def _after(self, positions: Positions, count: int) -> list[Entry]:
        entries = []
        for partition, log in self._logs.items():
            start = _index_after(log, positions.get(partition, START))
            entries += log[start : start + count]
        return entries


def _put(values: dict[str, bytes], name: str, value: bytes) -> None:
    """Keep a value; an empty one is none."""
    if value:
        values[name] = value
    else:
        values.pop(name, None)


def _index_after(log: list[Entry], position: StreamId) -> int:
    # A shorter tuple sorts before every entry that begins with it.
    return bisect_left(log, ((position.ms, position.seq + 1),))
