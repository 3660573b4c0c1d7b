"""Ticks hold what the log holds, in one order, however it is read."""

import numpy as np
import pytest

from features.clock import FakeClock
from features.errors import LogMoved
from features.events import Entry
from features.keys import Keys
from features.memory_store import MemoryStore
from features.store import event_record
from features.ticks import Gapless, Tick, TickReader
from tests.features.examples import SCHEMA, T0_MS, event

KEYS = Keys(n_partitions=4)
START_MS = T0_MS // 200 * 200


class Source:
    """A store with a clock of its own, and a reader of it."""

    def __init__(self) -> None:
        self.clock = FakeClock(START_MS)
        self.store = MemoryStore(SCHEMA, keys=KEYS, time=self.clock)
        self.reader = TickReader(self.store, {})

    async def write(self, *users: str) -> None:
        await self.store.apply([event_record(event(user), SCHEMA, KEYS) for user in users])


class IdleStore(MemoryStore):
    """A store in which nothing has happened for a while of wall time."""

    idle_ms = 0

    async def now_ms(self) -> int:
        return await super().now_ms() + self.idle_ms


def ids(tick: Tick | None) -> list[tuple[int, int]]:
    return [(entry.id.ms - START_MS, entry.partition) for entry in tick.entries] if tick else []


async def test_a_tick_is_handed_out_when_its_end_has_passed_and_not_before() -> None:
    source = Source()
    assert (tick := await source.reader.next()) is not None and not tick.entries
    source.clock.set_ms(START_MS + 50)
    await source.write("u1")
    source.clock.set_ms(START_MS + 199)
    assert await source.reader.next() is None
    source.clock.set_ms(START_MS + 200)
    tick = await source.reader.next()
    assert tick is not None and tick.end_ms == START_MS + 200
    assert [ms for ms, _ in ids(tick)] == [50]
    assert await source.reader.next() is None


async def test_what_is_written_within_an_open_tick_waits_for_its_end() -> None:
    source = Source()
    source.clock.set_ms(START_MS + 210)
    await source.write("u1", "u2")
    tick = await source.reader.next()
    assert tick is not None and tick.end_ms == START_MS + 200 and not tick.entries
    source.clock.set_ms(START_MS + 399)
    await source.write("u3")
    source.clock.set_ms(START_MS + 400)
    assert [ms for ms, _ in ids(await source.reader.next())] == [210, 210, 399]


async def test_entries_are_merged_by_id_then_partition() -> None:
    source = Source()
    for ms in (0, 3, 3, 90, 150):
        source.clock.set_ms(START_MS + ms)
        await source.write(*(f"u{n}" for n in range(20)))
    source.clock.set_ms(START_MS + 200)
    tick = await source.reader.next()
    assert tick is not None and len(tick.entries) == 100
    keys = [(entry.id, entry.partition) for entry in tick.entries]
    assert keys == sorted(keys) and len(set(keys)) == 100


async def test_however_often_one_looks_the_sequence_is_the_same() -> None:
    rng = np.random.default_rng(0)
    eager, lazy = Source(), Source()
    seen: dict[str, list[Entry]] = {"eager": [], "lazy": []}
    for step in range(200):
        ms = START_MS + 37 * step
        users = [f"u{n}" for n in rng.integers(0, 30, 3)]
        for source, name, is_looking in ((eager, "eager", True), (lazy, "lazy", step % 71 == 0)):
            source.clock.set_ms(ms)
            await source.write(*users)
            if is_looking and (tick := await source.reader.next()) is not None:
                seen[name] += tick.entries
    for source, name in ((eager, "eager"), (lazy, "lazy")):
        for _ in range(10):  # a look takes in so many entries of a partition and no more
            source.clock.advance(10.0)
            tick = await source.reader.next()
            seen[name] += tick.entries if tick else []
    assert seen["eager"] == seen["lazy"] and len(seen["eager"]) == 600


async def test_reading_goes_on_after_given_positions() -> None:
    source = Source()
    await source.write("u1", "u2", "u3")
    source.clock.set_ms(START_MS + 10)
    heads = await source.store.heads()
    await source.write("u4")
    source.clock.set_ms(START_MS + 400)
    tick = await TickReader(source.store, heads).next()
    assert [ms for ms, _ in ids(tick)] == [10]


async def test_a_reader_far_behind_gets_only_what_is_complete() -> None:
    """One partition gives a full read; others must not run ahead of it."""
    source = Source()
    await source.write(*["crowd"] * 1500)
    source.clock.set_ms(START_MS + 250)
    await source.write(*["crowd"] * 1500, *(f"u{n}" for n in range(8)))
    source.clock.set_ms(START_MS + 5000)
    ends, entries = [], list[Entry]()
    for _ in range(50):
        if (tick := await source.reader.next()) is not None:
            ends.append(tick.end_ms - START_MS)
            entries += tick.entries
    assert ends == sorted(set(ends)) and len(ends) > 1 and ends[-1] == 5000
    keys = [(entry.id, entry.partition) for entry in entries]
    assert keys == sorted(keys) and len(keys) == 3008


async def test_ticks_of_a_millisecond_hand_out_what_is_older_and_wait_only_when_nothing_is_held() -> None:
    source = Source()
    source.reader = TickReader(source.store, {}, tick_ms=1)
    await source.write("u1")
    assert ids(await source.reader.next(wait_s=20.0)) == []  # there is an entry, of the current millisecond
    source.clock.set_ms(START_MS + 1)
    assert [ms for ms, _ in ids(await source.reader.next(wait_s=20.0))] == [0]


async def test_what_arrives_behind_a_tick_on_the_event_clock_is_handed_out_at_once() -> None:
    """After an idle hour the event clock stands an hour ahead; the stream that goes on must not wait that long."""
    store = IdleStore(SCHEMA, keys=KEYS, clock="event")
    reader = TickReader(store, {}, tick_ms=1)
    await store.apply([event_record(event("u1", ts_ms=START_MS), SCHEMA, KEYS)])
    store.idle_ms = 3_600_000
    assert [ms for ms, _ in ids(await reader.next())] == [0]
    store.idle_ms = 0
    await store.apply([event_record(event("u2", ts_ms=START_MS + ms), SCHEMA, KEYS) for ms in (1000, 2000)])
    assert [ms for ms, _ in ids(await reader.next())] == [1000, 2000]
    assert await reader.next() is None


async def test_who_needs_every_entry_is_told_when_some_went_before_they_were_read() -> None:
    source = Source()
    await source.write("u1", "u2", "u3")
    log = Gapless(source.store, source.store.trimmed)
    entries = await log.read_log({}, count=1)
    positions = {entry.partition: entry.id for entry in entries}
    await source.store.trim(positions)
    assert await log.read_log(positions, count=10) == await source.store.read_log(positions, count=10)
    await source.store.trim(await source.store.heads())
    with pytest.raises(LogMoved, match="are gone"):
        await log.read_log({}, count=10)
    assert await log.now_ms() == START_MS


async def test_a_reader_is_behind_while_a_partition_holds_more_than_it_reads_at_once() -> None:
    """One person who floods holds back everybody's ticks; so nobody rests before that partition is read."""
    source = Source()
    reader = TickReader(source.store, {}, count=8)
    await source.write(*["u1"] * 40, "u2")
    source.clock.set_ms(START_MS + 200)
    n_read, seen = 0, []
    while (tick := await reader.next()) is None or not tick.entries:
        n_read += 1
        seen.append(reader.is_behind)
    assert seen == [True] * 5 and not reader.is_behind
    assert len(tick.entries) == 41
