"""Evaluation without servers: the stream is lived through once, in order, by the code that serves and learns.

    run = Evaluation(events, schema, config)
    for query in in_time_order(queries):
        await run.advance(query["ts_ms"])
        scores = run.score(await run.request(query))

At each query everything strictly before its time is known, and nothing else. Its user state and item rows are then
fully up to date, as those of a live system that has caught up; the weights are those of all ticks closed by then. So
the scores depend on the past of the stream alone; true answers that stand beside the queries are never read. Attributes
of items and users enter the log at their time, just before its events.

Everything is in memory: the item rows twice (serving, learning), the states of all users.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from operator import itemgetter
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from features.archived_events import with_context
from features.attribute_table import AttributeRow, attribute_rows
from features.encoding import Encoder, Request
from features.errors import FeatureError, InvalidInput
from features.events import Entry, LoggedAttributes, Positions, check_event, event_from_row
from features.intake import attributes_record
from features.item_table import ItemTable
from features.memory_store import MemoryStore
from features.schema import Entity, Schema
from features.state import UserState, unpack
from features.store import Record, all_of, event_record
from features.ticks import TICK_MS
from learners.memory import keep_memory
from learners.model import RankingModel
from learners.online import LearnerConfig, OnlineLearner
from learners.team import Team

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
        events: `ts_ms, type, user, item`, optional `id, decision, value, source`; other columns are context. Any order.
        queries: `query_id, ts_ms, user, candidates`, optional `session`.
        on_progress: Called with the number of events and attribute rows done, and a note.
        items, users: Attributes, as `features.attribute_table` takes them; None: nothing is known of them.
    Returns:
        `query_id` and `scores`, aligned with `candidates`, in time order.
    Raises:
        InvalidInput: If an event or an attribute does not fit the schema.
    """
    run = Evaluation(events, schema, config, on_progress, items=items, users=users)
    keep_memory()
    with one_thread():
        return asyncio.run(_answers(run, queries))


async def _answers(run: "Evaluation", queries: pa.Table) -> pa.Table:
    ids, scores = [], []
    for query in in_time_order(queries):
        await run.advance(query["ts_ms"])
        ids.append(query["query_id"])
        scores.append(run.score(await run.request(query)))
    run.report()
    return pa.table(
        {"query_id": pa.array(ids, queries["query_id"].type), "scores": pa.array(scores, pa.list_(pa.float32()))}
    )


def one_thread() -> AbstractContextManager[Any]:
    """Learn on one thread: reproducible to the last bit, and faster, as batches are too small to be shared."""
    limits: AbstractContextManager[Any] = threadpool_limits(1)
    return limits


class Evaluation:
    """What is known at an instant: `advance` to it, then look.

    Args:
        events, on_progress, items, users: As `evaluate`.
    """

    def __init__(
        self,
        events: pa.Table,
        schema: Schema,
        config: LearnerConfig,
        on_progress: Progress | None = None,
        *,
        items: pa.Table | None = None,
        users: pa.Table | None = None,
    ) -> None:
        self.schema = schema
        self.rows = ItemTable(schema)
        """What serving knows of items."""
        self.encoder = Encoder(schema)
        self._learner = OnlineLearner(schema, config) if config.rounds.n_learners == 1 else Team(schema, config)
        self._store = MemoryStore(schema, clock="event")
        self._waiting: list[Record] = []
        self._held: list[Entry] = []
        self._read: Positions = {}
        self._contexts: dict[tuple[str, Any], dict[str, Any]] = {}
        self._arrivals = self._in_order(events, items, users)
        self._following = next(self._arrivals, None)
        self._n_taken = 0
        self._on_progress = on_progress or (lambda *_: None)

    async def advance(self, now_ms: int) -> None:
        """Take in everything from strictly before an instant; one that was passed already changes nothing."""
        while self._following is not None and self._following[0] < now_ms:
            _, take = self._following
            take()
            self._following = next(self._arrivals, None)
            self._n_taken += 1
            if self._following is not None and self._n_taken % CHUNK == 0:
                await self._catch_up(self._following[0])
                self.report()
        await self._catch_up(now_ms)

    @property
    def model(self) -> RankingModel:
        """The network with the weights that are learned by now."""
        return self._learner.model

    @property
    def metrics(self) -> dict[str, float]:
        """Those of the learner by now; see `OnlineLearner.metrics`."""
        return self._learner.metrics

    async def request(self, query: dict[str, Any]) -> Request:
        """A query as it would be asked now: the person's state, and the context of the session's latest event."""
        user = str(query["user"])
        context = self._contexts.get(("session", str(query.get("session"))), self._contexts.get(("user", user), {}))
        candidates = [str(candidate) for candidate in query["candidates"]]
        return Request(await self.user(user), context, query["ts_ms"], candidates)

    async def user(self, user: str) -> UserState:
        """The state of a person."""
        states, _ = await self._store.read([user], [])
        (state,) = all_of(states)
        return unpack(state, self.schema)

    def score(self, request: Request) -> NDArray[np.float32]:
        """Scores [K] of the request's candidates."""
        scores_K: NDArray[np.float32] = self.model.score(self.encoder.encode(self.rows, [request]))[0]
        return scores_K

    def report(self) -> None:
        """Tell how far it is."""
        self._on_progress(self._n_taken, f"MRR {self._learner.metrics['mrr']:.3f}")

    def _in_order(self, events: pa.Table, items: pa.Table | None, users: pa.Table | None) -> Iterator[Arrival]:
        """Everything there is to take in, in time order; of one instant attributes first."""
        return heapq.merge(
            self._stated(items, "item"),
            self._stated(users, "user"),
            ((row["ts_ms"], partial(self._take, row)) for row in map(with_context, _rows(events))),
            key=itemgetter(0),
        )

    def _stated(self, table: pa.Table | None, entity: Entity) -> Iterator[Arrival]:
        for row in attribute_rows(table, entity) if table is not None else ():
            yield row.ts_ms, partial(self._take_attributes, row)

    def _take_attributes(self, row: AttributeRow) -> None:
        stated = LoggedAttributes(row.id, row.attributes, row.ts_ms)
        try:
            self._waiting.append(attributes_record(row.entity, stated, self.schema, self._store.keys))
        except InvalidInput as error:
            raise row.at_fault(error.message, error.path) from None

    def _take(self, row: dict[str, Any]) -> None:
        event = check_event(event_from_row(row), self.schema, row["ts_ms"], any_time=True)
        self._waiting.append(event_record(event, self.schema, self._store.keys))
        self._contexts["user", event.user] = event.context
        if event.context.get("session") is not None:
            self._contexts["session", str(event.context["session"])] = event.context

    async def _catch_up(self, now_ms: int) -> None:
        """Append what waits, fold it for serving, and learn from every tick that has closed."""
        for result in await self._store.apply(self._waiting):
            if isinstance(result, FeatureError):
                raise result
        self._waiting = []
        entries = await self._store.read_log(self._read, count=READ_COUNT)
        entries.sort()
        self.rows.fold(entries)
        self._read.update({entry.partition: entry.id for entry in entries})
        await self._store.trim(self._read)
        self._held = sorted(self._held + entries)
        end_ms = now_ms // TICK_MS * TICK_MS
        closed = [entry for entry in self._held if entry.id.ms < end_ms]
        for entry in closed:
            self._learner.read(entry)
        self._held = self._held[len(closed) :]
        self._learner.close_tick(end_ms)


QUERY_FIELDS: Final = frozenset({"query_id", "ts_ms", "user", "session", "candidates"})


def in_time_order(queries: pa.Table) -> Iterator[dict[str, Any]]:
    """Queries as they are asked one after the other, without the answers that may stand beside them."""
    return _rows(queries.select([name for name in queries.column_names if name in QUERY_FIELDS]))


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    order = pc.sort_indices(table["ts_ms"])
    for start in range(0, table.num_rows, CHUNK):
        yield from table.take(order.slice(start, CHUNK)).to_pylist()
