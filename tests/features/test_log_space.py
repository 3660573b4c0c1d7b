"""What goes from the log, and what stays, whoever reads it."""

from pathlib import Path

import pytest

from features import log_space
from features.archiving import Archiver
from features.deep_log import DeepLog
from features.events import Positions, StreamId
from features.log_files import LogFiles
from features.log_space import EASY, LogSpace
from features.memory_store import MemoryStore
from tests.features.examples import KEYS, SCHEMA, T0_MS, Both, applied, archived, click

USERS = [f"u{n}" for n in range(12)]
MAX_BYTES = 400_000


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    """An empty archive."""
    return LogFiles(str(tmp_path / "log"))


def space(both: Both, *, keep_s: float = 3600.0, max_bytes: int = MAX_BYTES) -> LogSpace:
    """Room for the log of a store."""
    return LogSpace(both.store, both.bulk, keep_s=keep_s, max_bytes=max_bytes)


async def fill(both: Both, n_entries: int, *, since_ms: int = T0_MS) -> None:
    """Append clicks, one each second."""
    for start in range(0, n_entries, 200):
        numbers = range(start, min(start + 200, n_entries))
        await applied(both.store, *(click(USERS[n % 12], f"i{n}", ts_ms=since_ms + 1000 * n) for n in numbers))


async def tight(both: Both, room: LogSpace) -> int:
    """Fill a log until there is little room; returns the number of entries."""
    n_entries = 0
    while not room.is_tight:
        await fill(both, 200, since_ms=T0_MS + 1000 * n_entries)
        n_entries += 200
        await room.look(n_entries)
    return n_entries


async def firsts(both: Both) -> Positions:
    """The first entry of each partition that the store still has."""
    return {entry.partition: entry.id for entry in await both.store.read_log({}, count=1)}


async def test_ordinarily_only_what_everybody_has_read_goes(both: Both) -> None:
    await fill(both, 400)
    heads, room = await both.store.heads(), space(both, keep_s=100.0, max_bytes=0)
    for partition in range(KEYS.n_partitions):
        await both.store.commit_rows(partition, {}, expected={}, reached=heads)
    await both.bulk.note_reader("somebody", {p: StreamId(T0_MS + 50_000, 0) for p in heads})
    await room.trim({})
    assert len(await both.store.read_log({}, count=400)) == 400
    await room.trim(heads)
    assert [entry.id.ms for entry in await both.store.read_log({}, count=400) if entry.id.ms <= T0_MS + 50_000] == []
    assert len(await both.store.read_log({}, count=400)) == 349
    await both.bulk.forget_reader("somebody")
    await room.trim(heads)
    left = await both.store.read_log({}, count=400)
    assert 98 <= len(left) <= 102
    await room.look(0.0)
    assert not room.is_tight and room.hours_left is None


async def test_what_is_archived_goes_the_oldest_first_though_nobody_has_learned_from_it(
    both: Both, files: LogFiles
) -> None:
    room, archiver = space(both), Archiver(both.store, both.bulk, files)
    n_entries = await tight(both, room)
    await archiver.open()
    wanted = await room.make_room(archived=archiver.reached)
    assert wanted is not None and min((await firsts(both)).values()) < wanted  # nothing is archived, and nothing gone
    while await archiver.advance(0.0):
        pass
    await archiver.close_to(wanted)
    assert await room.make_room(archived=archiver.reached) is None
    assert 0.5 * EASY * MAX_BYTES < await both.store.log_bytes() <= EASY * MAX_BYTES
    starts = [at.ms for at in (await firsts(both)).values()]
    assert max(starts) - min(starts) < 60_000
    assert len(await _everything(DeepLog(both.store, both.bulk, files))) == n_entries


async def _everything(log: DeepLog) -> set[tuple[int, StreamId]]:
    at: Positions = {}
    found = set()
    while entries := await log.read_log(at, count=64):
        at.update({entry.partition: entry.id for entry in entries})
        found |= {(entry.partition, entry.id) for entry in entries}
    return found


async def test_nobody_who_is_noted_is_passed_by(both: Both, files: LogFiles) -> None:
    room = space(both)
    await both.bulk.note_reader("backfill", {p: StreamId(T0_MS + 20_500, 0) for p in range(KEYS.n_partitions)})
    n_entries = await tight(both, room)
    archiver = await archived(both.store, both.bulk, files)
    assert await room.make_room(archived={}) is not None  # of another archive, whatever this one has noted
    assert len(await both.store.read_log({}, count=n_entries)) == n_entries
    assert await room.make_room(archived=archiver.reached) is not None
    assert min(at.ms for at in (await firsts(both)).values()) == T0_MS + 21_000
    await both.bulk.forget_reader("backfill")
    assert await room.make_room(archived=archiver.reached) is None


async def test_without_an_archive_what_everybody_has_read_goes_though_it_is_new(both: Both) -> None:
    room = space(both, keep_s=1e6)
    await tight(both, room)
    heads = await both.store.heads()
    assert await room.make_room(learned=heads) is not None  # the rows are not there yet
    for partition in range(KEYS.n_partitions):
        await both.store.commit_rows(partition, {}, expected={}, reached=heads)
    await room.trim(heads)
    assert room.is_tight
    assert await room.make_room(learned={p: StreamId(T0_MS, 1) for p in heads}) is not None
    assert await room.make_room(learned=heads) is None
    assert await both.store.log_bytes() <= EASY * MAX_BYTES


async def test_a_gap_in_time_keeps_nobody_from_making_room(both: Both, files: LogFiles) -> None:
    await applied(both.store, *(click(user, ts_ms=T0_MS - 90_000_000_000) for user in USERS))
    room = space(both)
    await tight(both, room)
    archiver = await archived(both.store, both.bulk, files)
    assert await room.make_room(archived=archiver.reached) is None


async def test_nothing_is_wanted_of_a_log_without_entries(both: Both) -> None:
    room = space(both, max_bytes=1)
    room.n_bytes = 2
    assert room.is_tight
    assert await room.make_room() is None


async def test_the_pace_is_that_of_appending_whatever_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_space, "PACE_S", 10.0)
    store = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    both = Both(store, store)
    room = space(both)
    await fill(both, 200)
    await room.look(0.0)
    assert (room.bytes_per_s, room.hours_left) == (0.0, None)
    per_entry = room.n_bytes / 200
    for second in range(1, 60):
        await fill(both, 1, since_ms=T0_MS + 1000 * (200 + second))
        await room.look(second)
        await store.trim({p: StreamId(T0_MS + 1000 * second, 0) for p in range(4)})
        room.n_bytes = await store.log_bytes()
    assert room.bytes_per_s == pytest.approx(per_entry, rel=0.3)
    assert room.hours_left == pytest.approx((MAX_BYTES - room.n_bytes) / room.bytes_per_s / 3600)
