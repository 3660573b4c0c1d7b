"""Serving as it makes decisions, simulated over a store in memory, with faults where a test wants them.

A decision comes in three steps, while the log goes on: the person's state is read; then every row is, each of a moment
of its own within the last half second; and some time after the answer the decision is logged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.clock import FakeClock
from features.encoding import Encoder, Request
from features.events import EVENT, Entry, LoggedAttributes, LoggedDecision, LoggedErasure, LoggedEvent, decode_event
from features.item_table import ItemTable
from features.keys import Keys
from features.memory_store import MemoryStore
from features.schema import Schema
from features.state import unpack
from features.store import all_of, decision_record, erasure_record, event_record, item_record, user_record
from tests.features.examples import T0_MS

KEYS = Keys(n_partitions=4)
USERS = [f"person-{n}" for n in range(5)]
ITEMS = list("abcdefgh")
DEVICES = ["tv", "phone", "tablet"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What serving does wrong."""

    stale_ms: int = 0
    """Rows are so much older."""
    encoder: Encoder | None = None
    """Encodes by another schema."""
    is_counted_twice: bool = False
    """Each row has its own events twice."""
    is_of_another: bool = False
    """Somebody else's state is looked at."""
    device: str | None = None
    """Looks at counts of this device."""
    dearer: float = 0.0
    """Prices are so much higher."""
    clock_ms: int = 0
    """Decays to so much later than it says."""
    is_confused: bool = False
    """Nothing but random numbers come out."""


@dataclass
class _Ranking:
    """A decision under way."""

    user: str
    state: bytes
    looks_ms: int
    logs_ms: int
    record: Any = None


class Serving:
    """A log with decisions in it: `await run`, then look at `entries`."""

    def __init__(self, schema: Schema, seed: int, fault: Fault | None = None, *, step_ms: int = 120) -> None:
        self.schema = schema
        self._rng = np.random.default_rng(seed)
        self._fault = fault or Fault()
        self._encoder = self._fault.encoder or Encoder(schema)
        self.clock = FakeClock(T0_MS)
        self._step_ms = step_ms
        self.store = MemoryStore(schema, keys=KEYS, time=self.clock)
        self._open: list[_Ranking] = []
        self._tables: dict[int, ItemTable] = {}
        self.entries: list[Entry] = []
        """In log order."""
        self.n_decisions = 0

    async def run(self, n_steps: int = 150) -> "Serving":
        """Live through some events, attributes, erasures and decisions."""
        for _ in range(n_steps):
            self.clock.set_ms(self.clock.now_ms() + int(self._rng.integers(0, self._step_ms)))
            await self._go_on()
            await self._act()
        while self._open:
            self.clock.advance(0.1)
            await self._go_on()
        await self._look_at_log()
        return self

    async def _act(self) -> None:
        what, user = self._rng.random(), str(self._rng.choice(USERS))
        item, now_ms = str(self._rng.choice(ITEMS)), self.clock.now_ms()
        if what < 0.65:
            kind = str(self._rng.choice(self.schema.event_types))
            late_ms = int(self._rng.choice([0, 0, 0, 700, 5000]))
            context = {"device": str(self._rng.choice(DEVICES))}
            event = LoggedEvent(kind, user, item, now_ms - late_ms, 1.0, context, None, None)
            await self._apply(event_record(event, self.schema, KEYS))
        elif what < 0.7:
            values = {"price": float(self._rng.integers(1, 100)), "tags": ["x"]}
            await self._apply(item_record(LoggedAttributes(item, values, now_ms), KEYS))
        elif what < 0.73:
            await self._apply(user_record(LoggedAttributes(user, {"segment": "gold"}, now_ms), KEYS))
        elif what < 0.75:
            await self._apply(erasure_record(LoggedErasure(user, now_ms), KEYS))
        else:
            await self._begin(user)

    async def _begin(self, user: str) -> None:
        read = USERS[(USERS.index(user) + 1) % len(USERS)] if self._fault.is_of_another else user
        (state,) = all_of((await self.store.read([read], []))[0])
        looks_ms = self.clock.now_ms() + int(self._rng.integers(0, 100))
        self._open.append(_Ranking(user, state, looks_ms, looks_ms + int(self._rng.integers(0, 400))))

    async def _go_on(self) -> None:
        """Take the next steps that are due."""
        now_ms = self.clock.now_ms()
        for ranking in self._open:
            if ranking.record is None and ranking.looks_ms <= now_ms:
                await self._look_at_log()
                ranking.looks_ms = min(ranking.looks_ms, now_ms)
                ranking.record = decision_record(self._decide(ranking), ranking.state, KEYS)
        for ranking in [r for r in self._open if r.record is not None and r.logs_ms <= now_ms]:
            self._open.remove(ranking)
            await self._apply(ranking.record)

    async def _apply(self, record: Any) -> None:
        all_of(await self.store.apply([record]))

    async def _look_at_log(self) -> None:
        self.entries = sorted(await self.store.read_log({}, count=100_000))

    def _decide(self, ranking: _Ranking) -> LoggedDecision:
        fault, ts_ms = self._fault, ranking.looks_ms
        n_shown = int(self._rng.integers(1, len(ITEMS)))
        shown = [str(item) for item in self._rng.permutation([*ITEMS, "nobody"])[:n_shown]]
        device = str(self._rng.choice(DEVICES))
        user, table = unpack(ranking.state, self.schema), ItemTable(self.schema)
        needed = list({*shown, *table.predecessors(user.history, ts_ms)})
        table.load(needed, [self._row(item, ts_ms) for item in needed])
        if fault.dearer:
            for item in shown:
                table.number[table.row(item)] += fault.dearer
        context = {"device": fault.device or device}
        asked = Request(user, context, ts_ms + fault.clock_ms, shown)
        dense = self._encoder.encode(table, [asked]).dense[0]
        if fault.is_confused:
            dense = self._rng.random(dense.shape)
        self.n_decisions += 1
        return LoggedDecision(
            f"d{self.n_decisions}",
            ranking.user,
            ts_ms,
            1,
            {"device": device},
            shown,
            [1.0] * n_shown,
            dense.astype(np.float16).tobytes(),
        )

    def _row(self, item: str, ts_ms: int) -> bytes:
        """The row as it was read: of some moment of the last half second."""
        until_ms = ts_ms - int(self._rng.integers(0, 501)) - self._fault.stale_ms
        entries = [entry for entry in self.entries if entry.id.ms < until_ms]
        if self._fault.is_counted_twice:
            table = ItemTable(self.schema)
            table.fold([again for entry in entries for again in [entry] * (1 + _is_about(entry, item))])
        else:
            table = self._folded(entries)
        row = table.rows.get(item)
        return b"" if row is None else table.pack(row)

    def _folded(self, entries: Sequence[Entry]) -> ItemTable:
        if len(entries) not in self._tables:
            table = ItemTable(self.schema)
            table.fold(entries)
            self._tables[len(entries)] = table
        return self._tables[len(entries)]


def _is_about(entry: Entry, item: str) -> bool:
    return entry.kind == EVENT and decode_event(entry.body).item == item
