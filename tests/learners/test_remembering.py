"""A restored learner remembers the decisions of the last window, wherever they are; what is gone costs no more."""

from pathlib import Path

import pytest

from features.deep_log import DeepLog
from features.log_files import LogFiles
from features.memory_store import MemoryStore
from features.store import Record, all_of
from features.ticks import Log
from learners.actor import remember
from learners.reading import ExampleReader
from tests.features.examples import archived
from tests.learners.examples import CONFIG, KEYS, SCHEMA, shown

N_BEFORE = 40


class Told(ExampleReader):
    """A reader that counts what it is reminded of."""

    def __init__(self, store_heads: object) -> None:
        super().__init__(SCHEMA, CONFIG)
        self.positions = dict(store_heads)  # type: ignore[call-overload]
        self.n_told = 0

    def remember(self, entries: object) -> None:
        """Count them."""
        self.n_told += len(list(entries))  # type: ignore[call-overload]


async def lived() -> MemoryStore:
    """Decisions and what came of them, the first of them gone before there was an archive."""
    store = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    for number, entry in enumerate(shown(120, seed=3)):
        record = Record(entry.kind, entry.partition, entry.body, entry.id.ms, state=entry.state)
        all_of(await store.apply([record]))
        if number == N_BEFORE:
            await store.trim(await store.heads())
    return store


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    """An empty archive."""
    return LogFiles(str(tmp_path))


async def told(store: MemoryStore, log: Log) -> int:
    reader = Told(await store.heads())
    await remember(reader, log, window_s=1e9)
    return reader.n_told


async def test_what_is_archived_is_remembered_and_what_is_gone_is_passed_over(files: LogFiles) -> None:
    store = await lived()
    n_left = len(await store.read_log({}, count=1000))
    assert await told(store, store) == n_left
    assert await told(store, DeepLog(store, store, files)) == n_left
    await archived(store, store, files)
    await store.trim(await store.heads())
    assert await told(store, store) == 0
    assert await told(store, DeepLog(store, store, files)) == n_left
