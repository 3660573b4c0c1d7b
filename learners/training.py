"""A model trained on a history, as a Ray task that tells how far it is and goes on where it was interrupted.

What is learned is told in `learners.warm_start`. The result is a file among those of the backfill.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, Final

import numpy as np
import pyarrow as pa
import ray
from threadpoolctl import threadpool_limits

from features.backfill import stages
from features.backfill.leaving_out import Retelling
from features.backfill.pieces import Folder
from features.backfill.planning import Plan
from features.connect import StoreConfig, bulk_of, connect
from features.events import ITEM, START, USER, Entry, LoggedAttributes, Positions, StreamId, encode_body
from features.item_table import ItemTable
from features.log_files import LogFiles
from features.schema import Schema
from features.state import unpack
from features.store import all_of
from learners import snapshots
from learners.memory import keep_memory
from learners.online import LearnerConfig
from learners.warm_start import WarmStart

TIMEOUT_S: Final = 30.0  # of the store
TELL_S: Final = 1.0
SAVE_S: Final = 30.0  # at least, between two saves of a training
SAVED: Final = "training.saved"
SNAPSHOT: Final = "training.snapshot"


@ray.remote(num_cpus=1, num_returns="streaming", max_retries=0)
def train(
    plan: Plan,
    timed: Sequence[str],
    touched: Sequence[str],
    skipped: Any,
    store: StoreConfig,
    cut: Positions,
    config: LearnerConfig,
) -> Iterator[tuple[int, str]]:
    """Train, and tell once a second how far it is; the result is a file.

    Args:
        timed, touched: Pieces, as `stages.CheckReport` has them.
        skipped: Numbers of rows that count for nothing.
    """
    keep_memory()
    folder = Folder(plan.folder)
    warm = WarmStart(plan.schema, config, plan.keys)
    if SAVED in folder.names():
        warm.resume(folder.read(SAVED))
    else:
        warm.know(asyncio.run(_known(store, plan.schema)))
    pace, told_s = _Pace(), time.monotonic()
    with threadpool_limits(1):
        for _ in _learned(warm, plan, timed, touched, skipped):
            if warm.is_settled and pace.is_due():
                folder.write(SAVED, warm.save())
                pace.rest()
            if time.monotonic() - told_s >= TELL_S:
                told_s = time.monotonic()
                yield warm.n_taken, f"MRR {warm.metrics['mrr']:.3f}"
        folder.write(SNAPSHOT, snapshots.pack(warm.finish(1, cut)))
    yield warm.n_taken, f"MRR {warm.metrics['mrr']:.3f}"


def _learned(warm: WarmStart, plan: Plan, timed: Sequence[str], touched: Sequence[str], skipped: Any) -> Iterator[None]:
    """Learn from all of the history but what was learned before, event by event."""
    n_before = warm.n_taken
    for table in stages.in_time_order(plan, timed):
        rows = table.filter(pa.array(~np.isin(table["row"].to_numpy(), skipped)))
        n_known = min(n_before, rows.num_rows)
        n_before -= n_known
        yield from warm.take(rows.slice(n_known))
    # What was learned before is told again: so the states that entries would have are there when it goes on.
    retelling, folder = Retelling(plan.choice, plan.schema, warm.state_of), Folder(plan.folder)
    retelling.touch(
        user for name in touched for users in folder.read_column(name, "user") for user in users.to_pylist()
    )
    known: deque[Entry] = deque()
    for entry in retelling.tell(_archived(plan)):
        if n_before:
            n_before -= 1
            known.append(entry)
            while known[0].id.ms < entry.id.ms - 1000 * warm.attribution_s:
                known.popleft()
            continue
        if known:
            warm.remember(known)
            known.clear()
        warm.read(entry)
        yield


def _archived(plan: Plan) -> Iterator[Entry]:
    """Every entry of the archives up to the cut, in the order of the log."""
    files, cut = [LogFiles(url) for url in plan.archives], plan.cut
    try:
        yield from heapq.merge(*(_until(one.entries(p), cut[p]) for one in files for p in one.reached() if p in cut))
    finally:
        for one in files:
            one.close()


def _until(entries: Iterator[Entry], last: StreamId) -> Iterator[Entry]:
    return takewhile(lambda entry: entry.id <= last, entries)


class _Pace:
    """When to save: not more than a twentieth of the time is spent on it."""

    def __init__(self) -> None:
        self._next_s = time.monotonic() + SAVE_S
        self._began_s = 0.0

    def is_due(self) -> bool:
        self._began_s = time.monotonic()
        return self._began_s >= self._next_s

    def rest(self) -> None:
        now_s = time.monotonic()
        self._next_s = now_s + max(SAVE_S, 20 * (now_s - self._began_s))


async def _known(config: StoreConfig, schema: Schema) -> list[Entry]:
    """The attributes that are stored, as log entries; of what the schema declares none, none."""
    store, bulk = connect(config, schema, timeout_s=TIMEOUT_S), bulk_of(config)
    found: list[LoggedAttributes] = []
    users: list[LoggedAttributes] = []
    try:
        if schema.item_attributes:
            async for items in bulk.items():
                rows = all_of((await store.read([], items))[1])
                table = ItemTable(schema, len(items) + 1)
                table.load(items, rows)
                found += [
                    LoggedAttributes(table.ids[row], known, 0) for row, known in table.attributes.items() if known
                ]
        if schema.user_attributes:
            async for names in bulk.users():
                states = [unpack(state, schema) for state in all_of((await store.read(names, []))[0])]
                users += [
                    LoggedAttributes(n, s.attributes, 0) for n, s in zip(names, states, strict=True) if s.attributes
                ]
    finally:
        await store.close()
        await bulk.close()
    stated = [(ITEM, one) for one in found] + [(USER, one) for one in users]
    return [
        Entry(START, 0, kind, encode_body(one), b"") for kind, one in sorted(stated, key=lambda pair: pair[1].entity)
    ]
