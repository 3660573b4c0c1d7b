"""The log from archive and store as one: as if nothing had ever been trimmed."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import log_segments
from features.archiving import READER, ArchiveLimits, Archiver
from features.clock import FakeClock
from features.deep_log import DeepLog
from features.errors import BadFile, LogGap
from features.events import START, Entry, Positions, StreamId
from features.log_files import LogFiles
from features.memory_store import MemoryStore
from features.projection import Projection
from features.store import FeatureStore, all_of
from features.ticks import TickReader
from tests.features.examples import KEYS, SCHEMA, T0_MS, Both, applied, click, log_of

HOME = KEYS.user_partition("u1")
USERS = [f"u{n}" for n in range(8)]


class Counting:
    """A bulk store that counts how often it is asked what is gone."""

    def __init__(self, bulk: Any) -> None:
        self._bulk = bulk
        self.n_asked = 0

    def __getattr__(self, name: str) -> Any:
        self.n_asked += name == "trimmed"
        return getattr(self._bulk, name)


class Meddled:
    """A store at which something happens before and after each read of its log."""

    def __init__(self, store: FeatureStore, meddle: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._meddle = meddle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read_log(self, positions: Positions, *, count: int, block_s: float = 0.0) -> list[Entry]:
        """As the store's."""
        await self._meddle()
        entries = await self._store.read_log(positions, count=count, block_s=block_s)
        await self._meddle()
        return entries


async def archive(both: Both, files: LogFiles, *partitions: int) -> None:
    """All partitions, or these."""
    archiver = Archiver(both.store, both.bulk, LogFiles(files.url), ArchiveLimits(age_s=1e9))
    await archiver.open()
    await archiver.advance(0.0)
    for partition in partitions or range(KEYS.n_partitions):
        await archiver.close(partition)


async def trim_some(both: Both, rng: np.random.Generator) -> None:
    """Trim behind the archive: somewhere, and not everywhere."""
    archived = (await both.bulk.readers()).get(READER, {})
    log = await both.store.read_log({}, count=1 << 20)
    for partition, reached in archived.items():
        ids = [entry.id for entry in log if entry.partition == partition and entry.id <= reached]
        if ids and rng.random() < 0.5:
            await both.store.trim({partition: ids[rng.integers(len(ids))]})


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    return LogFiles(str(tmp_path / "archive"))


def deep(both: Both, files: LogFiles, bulk: Any = None) -> DeepLog:
    return DeepLog(both.store, bulk or both.bulk, LogFiles(files.url))


async def test_what_is_gone_from_the_store_is_read_from_the_archive(both: Both, files: LogFiles) -> None:
    await applied(both.store, *(click(USERS[n % 8], f"i{n}", ts_ms=T0_MS + n) for n in range(200)))
    whole = sorted(await log_of(both.store))
    await archive(both, files)
    await applied(both.store, *(click(USERS[n % 8], f"i{n}", ts_ms=T0_MS + n) for n in range(200, 230)))
    whole = sorted(await log_of(both.store))
    await both.store.trim({p: at for p, at in (await both.bulk.readers())[READER].items() if p != HOME})
    log = deep(both, files)
    assert sorted(await log.read_log({}, count=1000)) == whole
    for count in (1, 7, 64):
        at, found = dict.fromkeys(range(KEYS.n_partitions), START), []
        while entries := await log.read_log(at, count=count):
            counts = np.bincount([entry.partition for entry in entries])
            assert counts.max() <= count
            found += entries
            at.update({entry.partition: entry.id for entry in entries})
        assert sorted(found) == whole


@pytest.mark.parametrize("seed", range(3))
async def test_a_reader_in_ticks_sees_an_untrimmed_log(both: Both, files: LogFiles, seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole: list[Entry] = []
    read: list[Entry] = []

    async def meddle() -> None:
        if rng.random() < 0.3:
            await archive(both, files, int(rng.integers(KEYS.n_partitions)))
        if rng.random() < 0.3:
            await trim_some(both, rng)

    log = DeepLog(Meddled(both.store, meddle), both.bulk, LogFiles(files.url))  # type: ignore[arg-type]
    reader = TickReader(log, {}, tick_ms=1, count=int(rng.integers(1, 20)))
    for number in range(30):
        records = [
            click(USERS[rng.integers(8)], "a", ts_ms=T0_MS + 10 * number + n) for n in range(int(rng.integers(8)))
        ]
        results = await applied(both.store, *records)
        whole += [
            Entry(result.id, record.partition, record.kind, record.body, b"")
            for result, record in zip(results, records, strict=True)
        ]
        if number > 15 and (tick := await reader.next()):
            read += tick.entries
    await applied(both.store, click("other", ts_ms=T0_MS + 100_000))
    async with asyncio.timeout(20):
        while len(read) < len(whole):
            if tick := await reader.next():
                read += [entry for entry in tick.entries if entry.id.ms < T0_MS + 100_000]
    assert [entry._replace(state=b"") for entry in read] == sorted(whole)


Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "archive", "trim", "read", "read", "time"]), st.integers(0, 1 << 16)),
    min_size=5,
    max_size=40,
)


@given(STEPS, st.lists(st.integers(0, 12), min_size=4, max_size=4), st.integers(1, 6), st.integers(1, 5))
def test_ticks_are_those_of_a_twin_that_trims_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step], starts: list[int], count: int, group: int
) -> None:
    """Random logs, cuts of segments, trims (also while a read is under way), positions and counts: tick for tick."""
    files = LogFiles(str(tmp_path_factory.mktemp("archive")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_segments, "GROUP_ENTRIES", group)
        asyncio.run(_live(steps, starts, count, files))


async def _live(steps: list[Step], starts: list[int], count: int, files: LogFiles) -> None:
    clock = FakeClock(T0_MS)
    store, twin = (MemoryStore(SCHEMA, keys=KEYS, time=clock) for _ in range(2))
    both = Both(store, store)
    meddling = np.random.default_rng(count)

    async def append(number: int) -> None:
        records = [click(USERS[(number + n) % 8], f"i{n}") for n in range(number % 7)]
        await applied(store, *records)
        await applied(twin, *records)

    async def meddle() -> None:
        if meddling.random() < 0.3:
            await trim_some(both, meddling)

    for number in range(20):
        await append(number)
        clock.advance(0.01)
    ids = {p: [entry.id for entry in await log_of(twin) if entry.partition == p] for p in range(KEYS.n_partitions)}
    positions = {p: ids[p][number] for p, number in enumerate(starts) if number and number < len(ids[p])}
    log = DeepLog(Meddled(store, meddle), store, LogFiles(files.url))  # type: ignore[arg-type]
    reader, other = (TickReader(one, positions, tick_ms=50, count=count) for one in (log, twin))
    for what, number in [*steps, ("time", 1000), *[("read", 0)] * 200]:
        if what == "append":
            await append(number)
        elif what == "archive":
            await archive(both, files, number % KEYS.n_partitions)
        elif what == "trim":
            await trim_some(both, np.random.default_rng(number))
        elif what == "time":
            clock.advance(number % 1000 / 1000)
        else:
            assert await reader.next() == await other.next()
    log._files.close()
    assert sorted(await log.read_log(positions, count=1 << 20)) == sorted(await twin.read_log(positions, count=1 << 20))


async def test_in_the_normal_case_it_does_not_ask_what_is_gone(both: Both, files: LogFiles) -> None:
    results = await applied(both.store, *(click(ts_ms=T0_MS + n) for n in range(20)))
    await archive(both, files)
    bulk = Counting(both.bulk)
    log = deep(both, files, bulk)
    at = {HOME: results[9].id}
    for _ in range(5):
        await log.read_log(at, count=2)
    assert bulk.n_asked == 1
    await both.store.trim({HOME: results[9].id})
    assert [entry.id for entry in await log.read_log(at, count=2)] == [results[10].id, results[11].id]
    assert bulk.n_asked == 1
    await both.store.trim({HOME: results[10].id})
    assert [entry.id for entry in await log.read_log(at, count=2)] == [results[10].id, results[11].id]
    assert bulk.n_asked == 2


async def test_entries_that_went_between_two_reads_are_not_skipped_whatever_came_meanwhile(
    both: Both, files: LogFiles
) -> None:
    log, (first,) = deep(both, files), await applied(both.store, click(ts_ms=T0_MS))
    assert len(await log.read_log({}, count=9)) == 1
    later = await applied(both.store, *(click(ts_ms=T0_MS + n) for n in range(1, 4)))
    await archive(both, files)
    await both.store.trim({HOME: later[1].id})
    assert [entry.id for entry in await log.read_log({HOME: first.id}, count=9)] == [one.id for one in later]
    await both.store.trim({HOME: later[2].id})
    assert [entry.id for entry in await log.read_log({HOME: first.id}, count=9, block_s=0.01)] == [
        one.id for one in later
    ]
    assert await log.read_log({HOME: later[2].id}, count=9, block_s=0.01) == []


async def test_a_read_waits_for_the_first_entry(both: Both, files: LogFiles) -> None:
    (first,) = await applied(both.store, click(ts_ms=T0_MS))
    log = deep(both, files)
    waiting = asyncio.create_task(log.read_log({HOME: first.id}, count=9, block_s=20.0))
    await asyncio.sleep(0)
    (second,) = await applied(both.store, click(ts_ms=T0_MS + 1))
    assert [entry.id for entry in await waiting] == [second.id]


async def test_what_neither_has_is_an_error_that_names_it(both: Both, files: LogFiles) -> None:
    results = await applied(both.store, *(click(ts_ms=T0_MS + n) for n in range(9)))
    await both.store.trim({HOME: results[1].id})
    with pytest.raises(LogGap, match=f"after {results[0].id} up to {results[1].id} are gone from the store") as gap:
        await deep(both, files).read_log({HOME: results[0].id}, count=9)
    assert (gap.value.partition, gap.value.until) == (HOME, results[1].id)
    await archive(both, files)
    await both.store.trim({HOME: results[4].id})
    log = deep(both, files)
    with pytest.raises(LogGap, match=f"after {results[0].id} up to {results[1].id} .*the archive begins after them"):
        await log.read_log({HOME: results[0].id}, count=9)
    assert len(await log.read_log({HOME: results[1].id}, count=9)) == 7
    assert len(await log.read_log({HOME: StreamId(T0_MS + 1, 5)}, count=9)) == 7


async def test_who_has_no_position_begins_where_the_archive_does(both: Both, files: LogFiles) -> None:
    results = await applied(both.store, *(click(ts_ms=T0_MS + n) for n in range(9)))
    await both.store.trim({HOME: results[1].id})
    assert [entry.id for entry in await deep(both, files).read_log({}, count=9)] == [one.id for one in results[2:]]
    await archive(both, files)
    await both.store.trim({HOME: results[4].id})
    assert [entry.id for entry in await deep(both, files).read_log({}, count=9)] == [one.id for one in results[2:]]


async def test_a_damaged_segment_stops_its_readers(both: Both, files: LogFiles) -> None:
    results = await applied(both.store, *(click(ts_ms=T0_MS + n) for n in range(9)))
    await archive(both, files)
    await both.store.trim({HOME: results[4].id})
    (segment,) = LogFiles(files.url).segments()
    raw = bytearray(Path(segment.path).read_bytes())
    raw[len(raw) // 8] ^= 1
    Path(segment.path).write_bytes(raw)
    with pytest.raises(BadFile):
        await deep(both, files).read_log({}, count=9)
    assert len(await deep(both, files).read_log({HOME: results[4].id}, count=9)) == 4


async def test_item_rows_are_folded_from_it_as_from_a_whole_log(both: Both, files: LogFiles) -> None:
    records = [click(USERS[n % 8], f"i{n % 5}", type="view", ts_ms=T0_MS + 10 * n) for n in range(150)]
    await applied(both.store, *records)
    await archive(both, files)
    await both.store.trim(await both.store.heads())
    twin = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    await applied(twin, *records)
    rows = []
    for store, log in ((both.store, deep(both, files)), (twin, None)):
        projection = Projection(store, SCHEMA, log=log)
        await projection.load()
        async with asyncio.timeout(20):
            while projection.n_entries < len(records):
                await projection.advance()
        rows.append(all_of((await store.read([], [f"i{n}" for n in range(5)]))[1]))
    assert rows[0] == rows[1] and all(rows[0])
