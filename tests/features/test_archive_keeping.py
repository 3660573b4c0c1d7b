"""An archive is kept for so long, and everybody goes on with what is left."""

from pathlib import Path

import pytest

from features.archive_keeping import drop_old
from features.archiving import READER
from features.connect import StoreConfig
from features.deep_log import DeepLog
from features.errors import LogGap, SchemaError
from features.events import START, Positions, StreamId
from features.log_files import LogFiles
from features.memory_store import MemoryStore
from features.store import Applied
from tests.features.examples import KEYS, SCHEMA, T0_MS, applied, archived, click

HOME = KEYS.user_partition("u1")
ALL = dict.fromkeys(range(KEYS.n_partitions), StreamId(1 << 60, 0))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(SCHEMA, keys=KEYS, clock="event")


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    return LogFiles(str(tmp_path / "archive"))


async def three_segments(store: MemoryStore, files: LogFiles) -> list[Applied]:
    """Of two entries each, a second after one another; nothing of them is in the store."""
    made = []
    for n in range(3):
        made += await applied(store, *(click(ts_ms=T0_MS + 1000 * n + k) for k in range(2)))
        await archived(store, store, files)
        await store.trim(await store.heads())
    return made


async def read_on(store: MemoryStore, files: LogFiles, at: StreamId = START) -> list[StreamId]:
    positions: Positions = {HOME: at}
    return [entry.id for entry in await DeepLog(store, store, LogFiles(files.url)).read_log(positions, count=99)]


async def test_what_is_old_goes_whole_segments_at_a_time(store: MemoryStore, files: LogFiles) -> None:
    made = await three_segments(store, files)
    assert drop_old(files, made[1].id.ms, ALL) == 0
    assert drop_old(files, made[2].id.ms, ALL) == 1
    assert await read_on(store, files) == [one.id for one in made[2:]]
    assert drop_old(files, made[2].id.ms, ALL) == 0


async def test_the_last_segment_is_emptied_and_tells_how_far_the_archive_is(
    store: MemoryStore, files: LogFiles
) -> None:
    made = await three_segments(store, files)
    assert drop_old(files, made[-1].id.ms + 1, ALL) == 3
    assert drop_old(files, made[-1].id.ms + 1, ALL) == 0
    assert [segment.last for segment in LogFiles(files.url).segments()] == [made[-1].id]
    assert await read_on(store, files) == []
    (after,) = await applied(store, click(ts_ms=T0_MS + 9000))
    assert await read_on(store, files) == [after.id]
    archiver = await archived(store, store, files)
    await store.trim(await store.heads())
    assert archiver.reached == {HOME: after.id} == (await store.readers())[READER]
    assert await read_on(store, files) == [after.id] == await read_on(store, files, made[-1].id)
    assert drop_old(files, after.id.ms, ALL) == 1 and await read_on(store, files) == [after.id]


@pytest.mark.parametrize(("n_read", "n_gone"), [(0, 0), (2, 0), (3, 1), (5, 2), (6, 2)])
async def test_nothing_goes_that_somebody_has_still_to_read(
    store: MemoryStore, files: LogFiles, n_read: int, n_gone: int
) -> None:
    made = await three_segments(store, files)
    read = {HOME: made[n_read - 1].id} if n_read else {}
    assert drop_old(files, made[-1].id.ms + 1, read) == n_gone


async def test_who_was_behind_is_told_and_does_not_take_it_for_a_damaged_file(
    store: MemoryStore, files: LogFiles
) -> None:
    made = await three_segments(store, files)
    reader = LogFiles(files.url)
    assert reader.read(HOME, START, 1)[0].id == made[0].id
    drop_old(files, made[4].id.ms, ALL)
    reader.close()
    with pytest.raises(LogGap, match="begins after them"):
        reader.read(HOME, START, 1)
    assert [entry.id for entry in reader.read(HOME, made[3].id, 9)] == [one.id for one in made[4:]]


def test_how_long_is_days_of_an_archive() -> None:
    assert StoreConfig(url="", archive="a", archive_keep_days=30).archive_keep_days == 30
    for wrong in ({"archive_keep_days": 30}, {"archive": "a", "archive_keep_days": -1}):
        with pytest.raises(SchemaError, match="archive_keep_days"):
            StoreConfig(url="", **wrong)  # type: ignore[arg-type]
