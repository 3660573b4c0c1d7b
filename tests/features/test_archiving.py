"""The archive holds every entry once, whoever dies, and whoever else archives."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.archiving import READER, ArchiveLimits, Archiver
from features.errors import BadFile, FilesUnavailable, LogGap, ReaderMoved, StoreUnavailable
from features.events import Entry
from features.log_files import LogFiles
from features.memory_store import MemoryStore
from features.store import BulkStore, Record, decision_record, erasure_record, item_record, user_record
from tests.features.examples import (
    KEYS,
    SCHEMA,
    T0_MS,
    Both,
    applied,
    attributes,
    click,
    decision,
    erasure,
    log_of,
)

HOME = KEYS.user_partition("u1")
EVER = ArchiveLimits(age_s=1e9)


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    return LogFiles(str(tmp_path / "archive"))


@pytest.fixture
def memory() -> Both:
    store = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    return Both(store, store)


def of_all_kinds(n: int = 40) -> list[Record]:
    records: list[Record] = [click(f"u{number % 9}", f"i{number}", ts_ms=T0_MS + number // 3) for number in range(n)]
    return [
        *records,
        item_record(attributes("i1", price=3), KEYS),
        user_record(attributes("u2", segment="a"), KEYS),
        decision_record(decision("u3"), b"state", KEYS),
        erasure_record(erasure("u1"), KEYS),
        *records[:3],
    ]


def archiver(both: Both, files: LogFiles, limits: ArchiveLimits = EVER) -> Archiver:
    return Archiver(both.store, both.bulk, LogFiles(files.url), limits)


async def opened(both: Both, files: LogFiles, limits: ArchiveLimits = EVER) -> Archiver:
    made = archiver(both, files, limits)
    await made.open()
    return made


async def archive_all(both: Both, files: LogFiles) -> Archiver:
    made = await opened(both, files)
    await made.advance(0.0)
    await made.flush()
    return made


def archived(files: LogFiles) -> list[Entry]:
    """What anybody reads, in order of partition."""
    found = LogFiles(files.url)
    lots = [
        found.read(partition, found.segments_of(partition)[0].after, 1 << 30) for partition in sorted(found.reached())
    ]
    found.close()
    return [entry for lot in lots for entry in lot]


async def by_partition(both: Both) -> list[Entry]:
    return sorted(await log_of(both.store), key=lambda entry: (entry.partition, entry.id))


class Meddled:
    """A bulk store at which something happens, once, around the call of a method: `before` and `after`, by name."""

    def __init__(self, bulk: BulkStore) -> None:
        self._bulk = bulk
        self.before: dict[str, Callable[[], Awaitable[Any]]] = {}
        self.after: dict[str, Callable[[], Awaitable[Any]]] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._bulk, name)
        if name not in {*self.before, *self.after}:
            return method

        async def call(*arguments: Any) -> Any:
            if before := self.before.pop(name, None):
                await before()
            answer = await method(*arguments)
            if after := self.after.pop(name, None):
                await after()
            return answer

        return call


async def die() -> None:
    raise StoreUnavailable("the store went away")


async def test_the_archive_is_the_log_bit_for_bit(both: Both, files: LogFiles) -> None:
    await applied(both.store, *of_all_kinds())
    made = await archive_all(both, files)
    assert archived(files) == await by_partition(both)
    assert made.n_entries == len(await log_of(both.store))
    assert made.reached == files.reached() == await both.store.heads() == (await both.bulk.readers())[READER]
    assert made.oldest_ms is None


async def test_a_second_start_goes_on_where_the_first_was(both: Both, files: LogFiles) -> None:
    for number in range(3):
        await applied(both.store, *of_all_kinds())
        made = await archive_all(both, files)
        assert made.n_entries == len(of_all_kinds())
        assert archived(files) == await by_partition(both), number
    again = await archive_all(both, files)
    assert (again.n_entries, again.n_segments) == (0, 0)


async def test_one_partition_is_read_lot_by_lot(memory: Both, files: LogFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.archiving.LOT", 7)
    await applied(memory.store, *of_all_kinds())
    made = await opened(memory, files)
    n_entries = len([entry for entry in await log_of(memory.store) if entry.partition == HOME])
    lots = [await made.read_on(HOME, 0.0) for _ in range(n_entries // 7 + 2)]
    assert lots == [*[7] * (n_entries // 7), n_entries % 7, 0]
    await made.close(HOME)
    assert made.reached == {HOME: made.read_to(HOME)} == {HOME: (await memory.store.heads())[HOME]}


async def test_who_is_far_behind_reads_on_until_there_is_nothing(memory: Both, files: LogFiles) -> None:
    await applied(memory.store, *(click(ts_ms=T0_MS + n) for n in range(3000)))
    made = await opened(memory, files)
    assert await made.advance(0.0) == 3000
    assert await made.advance(0.0) == 0


async def test_a_segment_is_closed_when_it_is_large_or_old_enough(memory: Both, files: LogFiles) -> None:
    other = next(f"v{n}" for n in range(99) if KEYS.user_partition(f"v{n}") != HOME)

    async def after(limits: ArchiveLimits, *times: float) -> int:
        made = await opened(memory, files, limits)
        for now_s in times:
            await applied(memory.store, click(ts_ms=T0_MS), click(other))
            await made.advance(now_s)
        closed = made.n_segments
        await made.flush()
        return closed

    assert await after(EVER, 5.0, 6.0) == 0
    assert await after(ArchiveLimits(age_s=2.0), 5.0, 6.9) == 0
    assert await after(ArchiveLimits(age_s=2.0), 5.0, 6.0, 7.0) == 2
    assert await after(ArchiveLimits(segment_entries=2), 5.0) == 0
    assert await after(ArchiveLimits(segment_entries=2), 5.0, 6.0) == 2
    assert await after(ArchiveLimits(segment_bytes=1), 5.0) == 2
    assert archived(files) == await by_partition(memory)


async def test_memory_is_bounded_by_closing_the_largest(memory: Both, files: LogFiles) -> None:
    other = next(f"v{n}" for n in range(99) if KEYS.user_partition(f"v{n}") != HOME)
    await applied(memory.store, *(click() for _ in range(50)), click(other))
    made = await opened(memory, files, ArchiveLimits(memory_bytes=2000))
    await made.advance(0.0)
    assert list(made.reached) == [HOME] and made.oldest_ms is not None
    await made.flush()
    assert archived(files) == await by_partition(memory)


async def test_nothing_is_trimmed_before_it_is_archived(both: Both, files: LogFiles) -> None:
    await applied(both.store, *of_all_kinds())
    made = await opened(both, files)
    assert (await both.bulk.readers())[READER] == {}
    await made.advance(0.0)
    await made.close(HOME)
    assert (await both.bulk.readers())[READER] == {HOME: (await both.store.heads())[HOME]}


@pytest.mark.parametrize("has_moved", [False, True])
async def test_who_dies_between_file_and_position_goes_on_behind_the_file(
    both: Both, files: LogFiles, has_moved: bool
) -> None:
    await applied(both.store, *of_all_kinds())
    meddled = Meddled(both.bulk)
    (meddled.after if has_moved else meddled.before)["advance_reader"] = die
    first = Archiver(both.store, meddled, LogFiles(files.url), EVER)  # type: ignore[arg-type]
    await first.open()
    await first.advance(0.0)
    with pytest.raises(StoreUnavailable):
        await first.flush()
    assert len((await both.bulk.readers())[READER]) == has_moved
    assert len(LogFiles(files.url).segments()) == 1
    await applied(both.store, *of_all_kinds())
    second = await archive_all(both, files)
    assert archived(files) == await by_partition(both)
    assert second.reached == (await both.bulk.readers())[READER] == await both.store.heads()
    await first.open()
    assert await first.advance(0.0) == 0


async def test_whoever_is_killed_at_any_moment_loses_nothing(both: Both, files: LogFiles) -> None:
    rng = np.random.default_rng(3)
    for _ in range(15):
        await applied(both.store, *of_all_kinds(12))
        run = asyncio.create_task(archive_all(both, files))
        await asyncio.wait([run], timeout=float(rng.random()) * 0.05)
        run.cancel()
        await asyncio.wait([run])
        if LogFiles(files.url).segments():
            reached = (await both.bulk.readers())[READER]
            assert all(LogFiles(files.url).reached()[partition] >= at for partition, at in reached.items())
    await archive_all(both, files)
    assert archived(files) == await by_partition(both)


async def test_of_two_archivers_one_stops(both: Both, files: LogFiles) -> None:
    await applied(both.store, *of_all_kinds())
    one, other = await opened(both, files), await opened(both, files)
    await one.advance(0.0)
    await other.advance(0.0)
    await one.flush()
    with pytest.raises(ReaderMoved, match="another archiver"):
        await other.flush()
    assert (one.n_segments, other.n_segments) == (KEYS.n_partitions, 0)
    assert archived(files) == await by_partition(both)


@pytest.mark.parametrize("has_more", [False, True])
async def test_a_file_that_is_written_too_late_harms_nobody(both: Both, files: LogFiles, has_more: bool) -> None:
    """The loser has looked at the position before the winner moves it, and writes its file after that."""
    await applied(both.store, *(click(ts_ms=T0_MS + n) for n in range(3)))
    winner = await opened(both, files)
    meddled = Meddled(both.bulk)
    loser = Archiver(both.store, meddled, LogFiles(files.url), EVER)  # type: ignore[arg-type]
    await loser.open()
    meddled.before["trimmed"] = winner.flush
    await (winner if has_more else loser).advance(0.0)
    await applied(both.store, *(click(ts_ms=T0_MS + n) for n in range(3, 5)))
    await (loser if has_more else winner).advance(0.0)
    with pytest.raises(ReaderMoved, match=f"partition {HOME}"):
        await loser.flush()
    assert len(LogFiles(files.url)._paths()) == 2
    assert archived(files) == await by_partition(both)
    await winner.advance(0.0)
    await applied(both.store, *(click(ts_ms=T0_MS + n) for n in range(5, 9)))
    await winner.advance(0.0)
    await winner.flush()
    assert archived(files) == await by_partition(both)
    await loser.open()
    assert await loser.advance(0.0) == 0
    assert archived(files) == await by_partition(both)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_who_begins_while_another_writes_sees_no_gap(both: Both, files: LogFiles, when: str) -> None:
    """The other's file appears and the position moves as the one that begins looks for both; he may have to again."""
    await applied(both.store, *(click(ts_ms=T0_MS + n) for n in range(3)))
    other = await opened(both, files)
    await other.advance(0.0)
    meddled = Meddled(both.bulk)
    getattr(meddled, when)["readers"] = other.flush
    begins = Archiver(both.store, meddled, LogFiles(files.url), EVER)  # type: ignore[arg-type]
    with nullcontext() if when == "before" else pytest.raises(ReaderMoved):
        await begins.open()
    await begins.open()
    assert begins.reached == {HOME: (await both.store.heads())[HOME]}
    assert archived(files) == await by_partition(both)


async def test_many_archivers_at_once_make_one_archive(both: Both, files: LogFiles) -> None:
    async def live(limits: ArchiveLimits) -> None:
        while True:
            made = archiver(both, files, limits)
            try:
                await made.open()
                while True:
                    await made.advance(0.0)
                    await asyncio.sleep(0)
            except ReaderMoved:
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(live(ArchiveLimits(segment_entries=n))) for n in (1, 3, 4)]
    for _ in range(10):
        await applied(both.store, *of_all_kinds(20))
        await asyncio.sleep(0)
    heads = await both.store.heads()
    async with asyncio.timeout(20):
        while (await both.bulk.readers()).get(READER) != heads:
            assert not any(task.done() for task in tasks)
            await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await archive_all(both, files)
    assert archived(files) == await by_partition(both)


async def test_an_archive_begins_behind_what_is_gone(both: Both, files: LogFiles) -> None:
    results = await applied(both.store, *(click(ts_ms=T0_MS + n) for n in range(5)))
    await both.store.trim({HOME: results[1].id})
    await archive_all(both, files)
    assert LogFiles(files.url).segments()[0].after == results[1].id
    assert archived(files) == await by_partition(both)


async def test_a_trim_that_was_under_way_as_it_began_moves_the_beginning(both: Both, files: LogFiles) -> None:
    results = await applied(both.store, *(click(ts_ms=T0_MS + n) for n in range(5)))
    made = await opened(both, files)
    await made.advance(0.0)
    await both.store.trim({HOME: results[1].id})
    await made.flush()
    assert archived(files) == await by_partition(both)
    await applied(both.store, click(ts_ms=T0_MS + 9))
    await made.advance(0.0)
    await both.store.trim({HOME: (await both.store.heads())[HOME]})
    with pytest.raises(LogGap):
        await made.flush()


async def test_entries_that_went_before_they_were_archived_are_an_error(both: Both, files: LogFiles) -> None:
    await applied(both.store, *(click(ts_ms=T0_MS + n) for n in range(3)))
    made = await archive_all(both, files)
    reached = made.reached[HOME]
    later = await applied(both.store, *(click(ts_ms=T0_MS + n) for n in range(3, 6)))
    await both.store.trim({HOME: later[1].id})
    await made.advance(0.0)
    says = f"log partition {HOME}: entries after {reached} up to {later[1].id} were trimmed before they were archived"
    for attempt in (made.flush, made.open, archiver(both, files).open):
        with pytest.raises(LogGap, match=says):
            await attempt()
    assert LogFiles(files.url).reached() == {HOME: reached}


async def test_another_folder_is_refused_until_the_archive_is_forgotten(
    both: Both, files: LogFiles, tmp_path: Path
) -> None:
    await applied(both.store, click())
    made = await archive_all(both, files)
    await applied(both.store, click())
    other = LogFiles(str(tmp_path / "other"))
    with pytest.raises(LogGap, match=f"after 0-0 up to {made.reached[HOME]} were archived, but not to .*other"):
        await opened(both, other)
    await both.bulk.forget_reader(READER)
    await archive_all(both, other)
    assert archived(other) == await by_partition(both)


async def test_a_segment_that_is_missing_at_the_end_is_noticed(both: Both, files: LogFiles) -> None:
    for _ in range(2):
        await applied(both.store, click())
        made = await archive_all(both, files)
    first, second = LogFiles(files.url).segments()
    Path(second.path).unlink()
    with pytest.raises(LogGap, match=f"after {first.last} up to {made.reached[HOME]} were archived"):
        await opened(both, files)


async def test_old_segments_may_be_deleted(memory: Both, files: LogFiles) -> None:
    for n in range(3):
        await applied(memory.store, click(ts_ms=T0_MS + n))
        await archive_all(memory, files)
    Path(LogFiles(files.url).segments()[0].path).unlink()
    await applied(memory.store, click(ts_ms=T0_MS + 9))
    await archive_all(memory, files)
    assert archived(files) == (await by_partition(memory))[1:]


async def test_who_was_forgotten_stops_and_a_new_one_goes_on(both: Both, files: LogFiles) -> None:
    await applied(both.store, click())
    made = await archive_all(both, files)
    await applied(both.store, click())
    await made.advance(0.0)
    await both.bulk.forget_reader(READER)
    with pytest.raises(ReaderMoved, match="or this one was forgotten"):
        await made.flush()
    await archive_all(both, files)
    assert archived(files) == await by_partition(both)


async def test_the_archive_of_another_log_is_refused(memory: Both, files: LogFiles) -> None:
    await applied(memory.store, click(ts_ms=T0_MS + 9))
    await archive_all(memory, files)
    other = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    await applied(other, click(ts_ms=T0_MS))
    with pytest.raises(LogGap, match="which is the archive of another log"):
        await opened(Both(other, other), files)
    assert await other.readers() == {}


async def test_a_damaged_file_that_the_position_has_not_passed_is_named(memory: Both, files: LogFiles) -> None:
    await applied(memory.store, *of_all_kinds())
    meddled = Meddled(memory.bulk)
    meddled.before["advance_reader"] = die
    first = Archiver(memory.store, meddled, LogFiles(files.url), EVER)  # type: ignore[arg-type]
    await first.open()
    await first.advance(0.0)
    with pytest.raises(StoreUnavailable):
        await first.flush()
    (segment,) = LogFiles(files.url).segments()
    raw = bytearray(Path(segment.path).read_bytes())
    raw[len(raw) * 4 // 5] ^= 1  # what the file says of its columns: pages are looked at by who reads them
    Path(segment.path).write_bytes(raw)
    with pytest.raises(BadFile, match=r"partition=.*parquet"):
        await opened(memory, files)
    assert await memory.bulk.readers() == {READER: {}}
    Path(segment.path).unlink()
    await archive_all(memory, files)
    assert archived(files) == await by_partition(memory)


async def test_a_folder_that_cannot_be_written_moves_nothing(memory: Both, files: LogFiles, tmp_path: Path) -> None:
    await applied(memory.store, *of_all_kinds())
    made = await opened(memory, files)
    await made.advance(0.0)
    (tmp_path / "archive").write_bytes(b"in the way")
    with pytest.raises(FilesUnavailable, match="archive"):
        await made.flush()
    assert await memory.bulk.readers() == {READER: {}}
    (tmp_path / "archive").unlink()
    await made.open()
    await made.advance(0.0)
    await made.flush()
    assert archived(files) == await by_partition(memory)
