"""Item rows as a fold of the log, written back so that every entry counts exactly once.

`Projection` reads the log in its one order (ticks of a millisecond), folds what it read into an `ItemTable`, and
commits the touched rows of each item partition together with the positions they reach. So rows depend on the log alone,
not on how it was cut into reads: a bounded set of successors would otherwise hold others every time. The store refuses
a commit whose starting positions are not the stored ones, so two projectors can never both count an entry; whoever is
refused loads the positions anew.

After a crash some item partitions may be ahead of others. Then entries are read from the earliest position, and each
partition's rows take only what lies beyond their own.

It knows no Ray. One projection holds every item it has met: memory grows with the catalogue.
"""

import logging
from collections.abc import Sequence
from functools import partial
from itertools import islice

import msgspec

from features.errors import FeatureError
from features.events import (
    EVENT,
    ITEM,
    START,
    Entry,
    LoggedAttributes,
    LoggedEvent,
    Positions,
    decode_attributes,
    logged_event,
)
from features.history import NOTHING, History
from features.item_table import ItemTable
from features.schema import Schema
from features.state import apply_update, history_in, update_for
from features.store import FeatureStore, all_of
from features.ticks import Log, TickReader

logger = logging.getLogger(__name__)

_Change = tuple[Entry, LoggedEvent | LoggedAttributes, History]
"""An entry, its body, and the recent items of the event's user from just before."""


class Projection:
    """Call `load` once, then `advance` in a loop; on `ProjectionConflict` or an outage call `load` again.

    Args:
        count: Entries read per log partition at once.
        log: What is read; None: the store's own log.
    """

    def __init__(self, store: FeatureStore, schema: Schema, *, count: int = 64, log: Log | None = None) -> None:
        self._store = store
        self._count = count
        self._schema = schema
        self._table = ItemTable(schema)
        self._stored: list[Positions] = []
        self._waiting: dict[int, None] = {}  # item partitions, the one committed longest ago first
        self._is_even = True
        self._log: Log = store if log is None else log
        self._reader = TickReader(self._log, {})
        self.reached: Positions = {}
        self.n_entries = self.n_passed_over = 0
        self.n_unheard = 0
        """Events that had no voice."""

    @staticmethod
    def warm_up(schema: Schema) -> None:
        """Load the compiled loops, for which the first entry would wait."""
        table, event = ItemTable(schema, 4), LoggedEvent(schema.event_types[0], "u", "i", 1, 1.0, {}, None, None)
        table.fold_events([(event, NOTHING)])
        table.voices.has_voice(event, apply_update(b"", update_for(event, schema), schema))
        ItemTable(schema, 4).load(["i"], list(table.pack_all(table.take_touched().tolist())))

    async def load(self) -> None:
        """Forget everything and start from what the store says."""
        self._stored = await self._store.projected()
        self._waiting = dict.fromkeys(range(len(self._stored)))
        self._table = ItemTable(self._schema)
        partitions = {partition for positions in self._stored for partition in positions}
        self.reached = {p: min(stored.get(p, START) for stored in self._stored) for p in partitions}
        self._is_even = all(stored == self.reached for stored in self._stored)
        self._reader = TickReader(self._log, self.reached, tick_ms=1, count=self._count)

    @property
    def is_behind(self) -> bool:
        """Whether the log may hold more than was read last: one partition that is behind holds back all rows."""
        return self._reader.is_behind

    async def advance(self, *, block_s: float = 0.0, n_untouched: int | None = None) -> int:
        """Read, fold and commit once; entries of the current millisecond wait for the next call.

        Args:
            n_untouched: How many item partitions of which nothing was touched get their positions all the same, those
                that waited longest first; None: all of them.
        Returns:
            Number of entries folded.
        Raises:
            ProjectionConflict, StoreUnavailable: `load` before the next call.
        """
        tick = await self._reader.next(wait_s=block_s)
        entries = tick.entries if tick is not None else []
        await self._fold(entries)
        for entry in entries:
            self.reached[entry.partition] = entry.id
        await self._commit(n_untouched)
        self.n_entries += len(entries)
        return len(entries)

    async def _fold(self, entries: Sequence[Entry]) -> None:
        changes = [change for change in map(self._decode, entries) if change is not None]
        await self._fetch(changes)
        events: list[tuple[Entry, LoggedEvent, History]] = []
        for entry, body, recent in changes:
            if isinstance(body, LoggedEvent):
                events.append((entry, body, recent))
                continue
            self._fold_events(events)
            events = []
            if self._takes(body.entity, entry):
                self._table.set_attributes(body.entity, body.attributes)
        self._fold_events(events)

    def _fold_events(self, events: Sequence[tuple[Entry, LoggedEvent, History]]) -> None:
        if self._is_even:
            self._table.fold_events([(event, recent) for _, event, recent in events])
            return
        for entry, event, recent in events:
            self._table.fold_events([(event, recent)], takes=partial(self._takes, entry=entry))

    def _decode(self, entry: Entry) -> _Change | None:
        """What an entry does to items; None for nothing.

        One that can't be read (another schema, corrupt) is logged, counted and passed over: it must not stop the rows.
        """
        try:
            if entry.kind == EVENT:
                event, recent = logged_event(entry.body, self._schema), history_in(entry.state, self._schema)
                if self._table.voices.has_voice(event, entry.state):
                    return entry, event, recent
                self.n_unheard += 1
            if entry.kind == ITEM:
                return entry, decode_attributes(entry.body), NOTHING
        except (FeatureError, msgspec.DecodeError) as error:
            self.n_passed_over += 1
            logger.error("entry %s of partition %d is passed over: %s", entry.id, entry.partition, error)
        return None

    def _takes(self, item: str, entry: Entry) -> bool:
        stored = self._stored[self._store.keys.item_partition(item)]
        return entry.id > stored.get(entry.partition, START)

    async def _fetch(self, changes: Sequence[_Change]) -> None:
        """Bring the rows that these changes touch into the table."""
        wanted: set[str] = set()
        for _, body, recent in changes:
            if isinstance(body, LoggedAttributes):
                wanted.add(body.entity)
            else:
                wanted.add(body.item)
                wanted.update(self._table.predecessors(recent, body.ts_ms, body.item))
        missing = [item for item in wanted if item not in self._table.rows]
        if missing:
            _, rows = await self._store.read([], missing)
            self._table.load(missing, all_of(rows))

    async def _commit(self, n_untouched: int | None) -> None:
        """Commit one item partition after the other: the store answers readers in between."""
        touched: dict[int, dict[str, bytes]] = {}
        rows = self._table.take_touched().tolist()
        for row, packed in zip(rows, self._table.pack_all(rows), strict=True):
            item = self._table.ids[row]
            touched.setdefault(self._store.keys.item_partition(item), {})[item] = packed
        lagging = (p for p in self._waiting if p not in touched and self._stored[p] != self.reached)
        # Who commits hears if the rows were replaced; who has nothing to commit asks.
        for partition in [*touched, *islice(lagging, n_untouched)] or [*islice(self._waiting, 1)]:
            await self._commit_partition(partition, touched.get(partition, {}))
            self._waiting[partition] = self._waiting.pop(partition)
        self._is_even = self._is_even or all(stored == self.reached for stored in self._stored)

    async def _commit_partition(self, partition: int, rows: dict[str, bytes]) -> None:
        stored = self._stored[partition]
        # A partition that was ahead after a crash stays ahead until the others have caught up.
        moved = {p: id for p, id in self.reached.items() if id > stored.get(p, START)}
        expected = {p: stored.get(p, START) for p in moved or stored}
        await self._store.commit_rows(partition, rows, expected=expected, reached=moved)
        self._stored[partition] = {**stored, **moved}
