"""The log read again, from its archive and its tail, gives the same features and weights as it gave live."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from features.deep_log import DeepLog
from features.events import EVENT, Entry, Positions
from features.item_table import ItemTable
from features.log_files import LogFiles
from features.memory_store import MemoryStore
from features.store import Record, all_of, event_record
from features.ticks import Log, TickReader
from learners.evaluation import one_thread
from learners.online import OnlineLearner
from tests.learners.examples import CONFIG, KEYS, SCHEMA, shown, stream


async def lived() -> MemoryStore:
    """Clicks, and decisions with what came of them, in a log."""
    store = MemoryStore(SCHEMA, keys=KEYS, clock="event")
    for event in stream(300, seed=2):
        all_of(await store.apply([event_record(event, SCHEMA, KEYS)]))
    last_ms = max(at.ms for at in (await store.heads()).values())
    for entry in shown(120, seed=3):
        all_of(await store.apply([_record(entry, last_ms + entry.id.ms - shown_start())]))
    return store


def shown_start() -> int:
    return shown(1, seed=3)[0].id.ms


def _record(entry: Entry, ts_ms: int) -> Record:
    """An entry once more, as of another time of the log."""
    return Record(kind=entry.kind, partition=entry.partition, body=entry.body, ts_ms=ts_ms, state=entry.state)


async def read(log: Log, heads: Positions) -> tuple[OnlineLearner, ItemTable]:
    """What a learner and a table of items make of a log."""
    learner, table, reader = OnlineLearner(SCHEMA, CONFIG), ItemTable(SCHEMA), TickReader(log, {}, count=16)
    with one_thread():
        async with asyncio.timeout(20):
            while learner.positions != heads:  # the last tick closes with the time that passes
                tick = await reader.next(wait_s=0.01)
                for entry in tick.entries if tick is not None else ():
                    learner.read(entry)
                    table.fold([entry])
        learner.close_tick(1 << 42)
    return learner, table


@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
async def test_archive_and_tail_are_the_log(tmp_path: Path, share: float) -> None:
    store = await lived()
    entries = await store.read_log({}, count=1 << 30)
    assert {entry.kind for entry in entries} > {EVENT}
    live_learner, live_table = await read(store, await store.heads())
    files = LogFiles(str(tmp_path))
    for partition in range(KEYS.n_partitions):
        log = [entry for entry in entries if entry.partition == partition]
        archived = log[: round(share * len(log))]
        for start in range(0, len(archived), 37):
            after = log[start - 1].id if start else archived[0].id._replace(ms=0, seq=0)
            files.write(archived[start : start + 37], after, SCHEMA)
        await store.trim({partition: archived[len(archived) // 2].id})
    learner, table = await read(DeepLog(store, store, LogFiles(str(tmp_path))), await store.heads())
    assert learner.n_events == live_learner.n_events > 300
    assert np.array_equal(learner.model.flat.numpy(), live_learner.model.flat.numpy())
    assert list(table.pack_all(range(1, len(table) + 1))) == list(live_table.pack_all(range(1, len(live_table) + 1)))
