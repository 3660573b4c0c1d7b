"""Evaluation without servers: the stream is lived through once, in order, by the code that serves and learns.

At each query everything strictly before its time is known, and nothing else. Attributes of items and users enter the
log as if they had been put there at their time, just before its events. Its user state and item rows are then
fully up to date, as those of a live system that has caught up; the weights are those of all ticks closed by then. So
the scores depend on the past of the stream alone; true answers that stand beside the queries are never read.

Everything is in memory: the item rows twice (serving, learning), the states of all users.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import torch

from features.attribute_table import AttributeRow, attribute_rows
from features.encoding import Encoder, Request
from features.errors import FeatureError, InvalidInput
from features.events import Entry, LoggedAttributes, Positions, check_event, event_from_row
from features.intake import attributes_record
from features.item_table import ItemTable
from features.memory_store import MemoryStore
from features.schema import Entity, Schema
from features.state import unpack
from features.store import Record, event_record
from features.ticks import TICK_MS
from learners.online import LearnerConfig, OnlineLearner

CHUNK: Final = 1024  # events between two reports, and rows turned into Python objects at once
READ_COUNT: Final = 1 << 30

Progress = Callable[..., None]
Arrival = tuple[int, Callable[[], None]]
"""When something becomes known, and how to take it in."""


def evaluate(
    events: pa.Table,
    queries: pa.Table,
    schema: Schema,
    config: LearnerConfig,
    on_progress: Progress | None = None,
    *,
    items: pa.Table | None = None,
    users: pa.Table | None = None,
) -> pa.Table:
    """Score every query with what was known strictly before it.

    Args:
        events: `ts_ms, type, user, item`, optional `id, decision, value`; other columns are context. Any order.
        queries: `query_id, ts_ms, user, candidates`, optional `session`.
        on_progress: Called with the number of events and attribute rows done, and a note.
        items, users: Attributes, as `features.attribute_table` takes them; None: nothing is known of them.
    Returns:
        `query_id` and `scores`, aligned with `candidates`, in time order.
    Raises:
        InvalidInput: If an event or an attribute does not fit the schema.
    """
    run = _Run(schema, config)
    arrivals = run.arrivals(events, items, users)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # reproducible to the last bit, and faster: batches are too small to be shared
    try:
        return asyncio.run(run.through(arrivals, queries, on_progress or (lambda *_: None)))
    finally:
        torch.set_num_threads(n_threads)


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

    def arrivals(self, events: pa.Table, items: pa.Table | None, users: pa.Table | None) -> Iterator[Arrival]:
        """Everything there is to take in, in time order; of one instant attributes first."""
        return heapq.merge(
            self._stated(items, "item"),
            self._stated(users, "user"),
            ((row["ts_ms"], partial(self._take, row)) for row in _in_time_order(events)),
            key=itemgetter(0),
        )

    async def through(self, arrivals: Iterator[Arrival], queries: pa.Table, on_progress: Progress) -> pa.Table:
        """Live through it; returns the scores."""
        ids: list[Any] = []
        scores: list[Any] = []
        following = next(arrivals, None)
        n_taken = 0
        for query in _in_time_order(queries.select([c for c in queries.column_names if c in QUERY_FIELDS])):
            while following is not None and following[0] < query["ts_ms"]:
                following[1]()
                following = next(arrivals, None)
                n_taken += 1
                if following is not None and n_taken % CHUNK == 0:
                    await self._catch_up(following[0])
                    on_progress(n_taken, self._note())
            await self._catch_up(query["ts_ms"])
            ids.append(query["query_id"])
            scores.append(await self._answer(query))
        on_progress(n_taken, self._note())
        return pa.table(
            {"query_id": pa.array(ids, queries["query_id"].type), "scores": pa.array(scores, pa.list_(pa.float32()))}
        )

    def _stated(self, table: pa.Table | None, entity: Entity) -> Iterator[Arrival]:
        for row in attribute_rows(table, entity) if table is not None else ():
            yield row.ts_ms, partial(self._take_attributes, row)

    def _take_attributes(self, row: AttributeRow) -> None:
        stated = LoggedAttributes(row.id, row.attributes, row.ts_ms)
        try:
            self._waiting.append(attributes_record(row.entity, stated, self._schema, self._store.keys))
        except InvalidInput as error:
            raise row.at_fault(error.message, error.path) from None

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
