"""Evaluation without servers: the stream is lived through once, in order, by the code that serves and learns.

At each query everything strictly before its time is known, and nothing else. Its user state and item rows are then
fully up to date, as those of a live system that has caught up; the weights are those of all ticks closed by then. So
the scores depend on the past of the stream alone; true answers that stand beside the queries are never read.

Everything is in memory: the item rows twice (serving, learning), the states of all users.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from threadpoolctl import threadpool_limits

from features.encoding import Encoder, Request
from features.errors import FeatureError
from features.events import Entry, Positions, check_event, event_from_row
from features.item_table import ItemTable
from features.memory_store import MemoryStore
from features.schema import Schema
from features.state import unpack
from features.store import Record, event_record
from features.ticks import TICK_MS
from learners.online import LearnerConfig, OnlineLearner

CHUNK: Final = 1024  # events between two reports, and rows turned into Python objects at once
READ_COUNT: Final = 1 << 30

Progress = Callable[..., None]


def evaluate(
    events: pa.Table, queries: pa.Table, schema: Schema, config: LearnerConfig, on_progress: Progress | None = None
) -> pa.Table:
    """Score every query with what was known strictly before it.

    Args:
        events: `ts_ms, type, user, item`, optional `id, decision, value`; other columns are context. Any order.
        queries: `query_id, ts_ms, user, candidates`, optional `session`.
        on_progress: Called with the number of events done and a note.
    Returns:
        `query_id` and `scores`, aligned with `candidates`, in time order.
    Raises:
        InvalidInput: If an event does not fit the schema.
    """
    run = _Run(schema, config)
    # Reproducible to the last bit, and faster: batches are too small to be shared.
    with threadpool_limits(1):
        return asyncio.run(run.through(events, queries, on_progress or (lambda *_: None)))


class _Run:
    def __init__(self, schema: Schema, config: LearnerConfig) -> None:
        self._schema = schema
        self._store = MemoryStore(schema, clock="event")
        self._rows = ItemTable(schema)
        self._encoder = Encoder(schema)
        self._learner = OnlineLearner(schema, config)
        self._waiting: list[Record] = []
        self._held: list[Entry] = []
        self._read: Positions = {}
        self._contexts: dict[tuple[str, Any], dict[str, Any]] = {}

    async def through(self, events: pa.Table, queries: pa.Table, on_progress: Progress) -> pa.Table:
        ids: list[Any] = []
        scores: list[Any] = []
        following = _in_time_order(events)
        row = next(following, None)
        n_events = 0
        for query in _in_time_order(queries.select([c for c in queries.column_names if c in QUERY_FIELDS])):
            while row is not None and row["ts_ms"] < query["ts_ms"]:
                self._take(row)
                row = next(following, None)
                n_events += 1
                if row is not None and n_events % CHUNK == 0:
                    await self._catch_up(row["ts_ms"])
                    on_progress(n_events, self._note())
            await self._catch_up(query["ts_ms"])
            ids.append(query["query_id"])
            scores.append(await self._answer(query))
        on_progress(n_events, self._note())
        return pa.table(
            {"query_id": pa.array(ids, queries["query_id"].type), "scores": pa.array(scores, pa.list_(pa.float32()))}
        )

    def _take(self, row: dict[str, Any]) -> None:
        event = check_event(event_from_row(row), self._schema, row["ts_ms"], any_time=True)
        self._waiting.append(event_record(event, self._schema, self._store.keys))
        self._contexts["user", event.user] = event.context
        if row.get("session") is not None:
            self._contexts["session", str(row["session"])] = event.context

    async def _catch_up(self, now_ms: int) -> None:
        """Append what waits, fold it for serving, and learn from every tick that has closed."""
        for result in await self._store.apply(self._waiting):
            if isinstance(result, FeatureError):
                raise result
        self._waiting = []
        entries = await self._store.read_log(self._read, count=READ_COUNT)
        for entry in sorted(entries):
            self._rows.fold(entry)
            self._read[entry.partition] = entry.id
        await self._store.trim(self._read)
        self._held = sorted(self._held + entries)
        end_ms = now_ms // TICK_MS * TICK_MS
        closed = [entry for entry in self._held if entry.id.ms < end_ms]
        for entry in closed:
            self._learner.read(entry)
        self._held = self._held[len(closed) :]
        self._learner.close_tick(end_ms)

    async def _answer(self, query: dict[str, Any]) -> Any:
        user = str(query["user"])
        context = self._contexts.get(("session", str(query.get("session"))), self._contexts.get(("user", user), {}))
        (state,), _ = await self._store.read([user], [])
        candidates = [str(candidate) for candidate in query["candidates"]]
        request = Request(unpack(state, self._schema), context, query["ts_ms"], candidates)
        return self._learner.model.score(self._encoder.encode(self._rows, [request]))[0]

    def _note(self) -> str:
        return f"MRR {self._learner.metrics['mrr']:.3f}"


QUERY_FIELDS: Final = frozenset({"query_id", "ts_ms", "user", "session", "candidates"})


def _in_time_order(table: pa.Table) -> Iterator[dict[str, Any]]:
    order = pc.sort_indices(table["ts_ms"])
    for start in range(0, table.num_rows, CHUNK):
        yield from table.take(order.slice(start, CHUNK)).to_pylist()
