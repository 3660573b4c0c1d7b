"""Item rows as a fold of the log, written back so that every entry counts exactly once.

`Projection` reads the log by position, folds what it read into an `ItemTable`, and commits the touched rows of each
item partition together with the positions they reach. The store refuses a commit whose starting positions are not the
stored ones, so two projectors can never both count an entry; whoever is refused loads the positions anew.

After a crash some item partitions may be ahead of others. Then entries are read from the earliest position, and each
partition's rows take only what lies beyond their own.

It knows no Ray. One projection holds every item it has met: memory grows with the catalogue.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from features.events import EVENT, ITEM, START, Entry, LoggedEvent, Positions, decode_attributes, decode_event
from features.item_table import ItemTable
from features.schema import Schema
from features.state import Recent, unpack
from features.store import FeatureStore


@dataclass(frozen=True, slots=True)
class _Step:
    entry: Entry
    event: LoggedEvent
    recent: Sequence[Recent]


class Projection:
    """Call `load` once, then `advance` in a loop; on `ProjectionConflict` or an outage call `load` again."""

    def __init__(self, store: FeatureStore, schema: Schema) -> None:
        self._store = store
        self._schema = schema
        self._table = ItemTable(schema)
        self._stored: list[Positions] = []
        self._is_even = True
        self.reached: Positions = {}
        self.n_entries = 0

    async def load(self) -> None:
        """Forget everything and start from what the store says."""
        self._stored = await self._store.projected()
        self._table = ItemTable(self._schema)
        partitions = {partition for positions in self._stored for partition in positions}
        self.reached = {p: min(stored.get(p, START) for stored in self._stored) for p in partitions}
        self._is_even = all(stored == self.reached for stored in self._stored)

    async def advance(self, *, count: int = 2000, block_s: float = 0.0, everywhere: bool = True) -> int:
        """Read, fold and commit once.

        Args:
            everywhere: Also move the positions of item partitions of which nothing was touched.
        Returns:
            Number of entries folded.
        Raises:
            ProjectionConflict, StoreUnavailable: `load` before the next call.
        """
        entries = await self._store.read_log(self.reached, count=count, block_s=block_s)
        if entries:
            await self._fold(entries)
        for entry in entries:
            self.reached[entry.partition] = max(entry.id, self.reached.get(entry.partition, START))
        await self._commit(everywhere)
        self.n_entries += len(entries)
        return len(entries)

    async def _fold(self, entries: list[Entry]) -> None:
        steps = [
            _Step(entry, decode_event(entry.body), unpack(entry.state, self._schema).recent)
            for entry in entries
            if entry.kind == EVENT
        ]
        await self._fetch(steps, [entry for entry in entries if entry.kind == ITEM])
        for entry in entries:
            if entry.kind == ITEM and self._takes(decode_attributes(entry.body).entity, entry):
                self._table.fold(entry)
        for step in steps:
            self._fold_event(step)

    def _fold_event(self, step: _Step) -> None:
        if self._is_even:
            self._table.fold_event(step.event, step.recent)
        else:
            self._table.fold_event(step.event, step.recent, takes=lambda item: self._takes(item, step.entry))

    def _takes(self, item: str, entry: Entry) -> bool:
        stored = self._stored[self._store.keys.item_partition(item)]
        return entry.id > stored.get(entry.partition, START)

    async def _fetch(self, steps: list[_Step], items: list[Entry]) -> None:
        """Bring the rows that these entries touch into the table."""
        wanted = {decode_attributes(entry.body).entity for entry in items}
        for step in steps:
            wanted.add(step.event.item)
            wanted.update(self._table.predecessors(step.recent, step.event.ts_ms, step.event.item))
        missing = [item for item in wanted if item not in self._table.rows]
        if missing:
            _, rows = await self._store.read([], missing)
            self._table.load(missing, rows)

    async def _commit(self, everywhere: bool) -> None:
        touched: dict[int, dict[str, bytes]] = {}
        for row in self._table.touched:
            item = self._table.ids[row]
            touched.setdefault(self._store.keys.item_partition(item), {})[item] = self._table.pack(row)
        due = [
            partition
            for partition, stored in enumerate(self._stored)
            if partition in touched or (everywhere and stored != self.reached)
        ]
        commits = (self._commit_partition(partition, touched.get(partition, {})) for partition in due)
        # All of them end before anything is loaded anew: one that is still under way would move what was loaded.
        failures = [failure for failure in await asyncio.gather(*commits, return_exceptions=True) if failure]
        if failures:
            raise failures[0]
        self._table.touched.clear()
        self._is_even = self._is_even or all(stored == self.reached for stored in self._stored)

    async def _commit_partition(self, partition: int, rows: dict[str, bytes]) -> None:
        stored = self._stored[partition]
        # A partition that was ahead after a crash stays ahead until the others have caught up.
        moved = {p: id for p, id in self.reached.items() if id > stored.get(p, START)}
        expected = {p: stored.get(p, START) for p in moved}
        await self._store.commit_rows(partition, rows, expected=expected, reached=moved)
        self._stored[partition] = {**stored, **moved}
