"""Evaluation in which a part of what is known stands still between refreshes, while the rest stays live.

    weights    the network and its embeddings, as published at the last refresh
    counters   item rows, as written at the last refresh; they still decay to the instant of each request
    person     the state of who asks, as read at the last refresh

A `Line` says for each part at which instants it is refreshed. All lines are scored in one pass over the stream: the
learner runs once, and beside the live parts there is one copy for every schedule that some line follows. A copy is kept
up as a replica's is: by the rows that have changed since it was last refreshed. So what a copy holds at a refresh is
what was live at that instant, bit for bit: everything from strictly before it, learned from as far as a batch was full.

The context of a request is never late: it comes with the request.

Price: item rows and embeddings once more for every schedule, and one scoring for every line and query.

Legend: Q queries, K candidates.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deployments.config import Config
from features.encoding import Request
from features.item_table import ItemTable
from features.state import UserState
from learners.evaluation import Evaluation, Progress, in_time_order, one_thread
from learners.metrics import F64, I64
from learners.model import RankingModel

Schedule = Callable[[int], int]
"""The latest refresh that is not after an instant, in milliseconds."""


@dataclass(frozen=True)
class Every:
    """Refreshed at every multiple of a period of log time."""

    period_ms: int

    def __call__(self, now_ms: int) -> int:
        """The latest refresh."""
        return now_ms // self.period_ms * self.period_ms


@dataclass(frozen=True)
class Until:
    """Live up to an instant, and never again."""

    end_ms: int

    def __call__(self, now_ms: int) -> int:
        """The latest refresh."""
        return min(now_ms, self.end_ms)


@dataclass(frozen=True)
class Line:
    """When each part is refreshed; None: it is live."""

    weights: Schedule | None = None
    counters: Schedule | None = None
    person: Schedule | None = None


LIVE: Final = Line()


def scores_of(
    lines: Mapping[str, Line],
    events: pa.Table,
    queries: pa.Table,
    config: Config,
    on_progress: Progress | None = None,
    watch: Callable[[Evaluation], None] = lambda _: None,
) -> dict[str, F64]:
    """Scores [Q, K] of every line by its name, in the time order of the queries.

    Args:
        queries: Each with as many candidates as the others.
        watch: Is shown what is live at every query and refresh.
    """
    run = _Run(lines, Evaluation(events, config.schema, config.learner, on_progress), watch)
    with one_thread():
        asyncio.run(run.through([*in_time_order(queries)]))
    return {name: np.array(scores, dtype=np.float64) for name, scores in run.scores.items()}


class _Run:
    def __init__(self, lines: Mapping[str, Line], live: Evaluation, watch: Callable[[Evaluation], None]) -> None:
        self._watch = watch
        self.scores: dict[str, list[NDArray[np.float32]]] = {name: [] for name in lines}
        self._lines = lines
        self._live = live
        weights = {name: _Changes(table.take_touched) for name, table in live.model.tables.items()}
        self._models = {line.weights: _Model(live, weights) for line in lines.values() if line.weights is not None}
        rows = _Changes(live.rows.take_touched)
        self._tables = {line.counters: _Table(live, rows) for line in lines.values() if line.counters is not None}
        self._schedules = {line.person for line in lines.values() if line.person is not None}
        self._people: dict[tuple[Schedule, int], UserState] = {}

    async def through(self, queries: Sequence[dict[str, Any]]) -> None:
        """Refresh and answer, in the order in which it happens."""
        times_ms = [query["ts_ms"] for query in queries]
        copies = [*self._models.items(), *self._tables.items()]
        refreshes = [_instants(schedule, times_ms, copy.refresh) for schedule, copy in copies]
        seen = [self._seen(schedule, queries) for schedule in self._schedules]
        asked = ((query["ts_ms"], self._answer, (number, query)) for number, query in enumerate(queries))
        # Of one instant refreshes come first; a query sees those of its own instant.
        for now_ms, do, what in heapq.merge(*refreshes, *seen, asked, key=itemgetter(0)):
            await self._live.advance(now_ms)
            self._watch(self._live)
            await do(*what)
        self._live.report()

    def _seen(self, schedule: Schedule, queries: Iterable[dict[str, Any]]) -> Iterator[tuple[int, Any, Any]]:
        """Of all people's states at a refresh only those matter that a query asks for before the next."""
        for number, query in enumerate(queries):
            yield schedule(query["ts_ms"]), self._see, (schedule, number, str(query["user"]))

    async def _see(self, schedule: Schedule, number: int, user: str) -> None:
        self._people[schedule, number] = await self._live.user(user)

    async def _answer(self, number: int, query: dict[str, Any]) -> None:
        request = await self._live.request(query)
        people = {schedule: self._people.pop((schedule, number)) for schedule in self._schedules}
        inputs: dict[Any, Any] = {}
        for name, line in self._lines.items():
            seen_by = line.counters, line.person
            if seen_by not in inputs:
                inputs[seen_by] = self._encode(request, line, people)
            model = self._models[line.weights].model if line.weights is not None else self._live.model
            self.scores[name].append(model.score(inputs[seen_by])[0])

    def _encode(self, request: Request, line: Line, people: Mapping[Schedule, UserState]) -> Any:
        rows = self._tables[line.counters].rows if line.counters is not None else self._live.rows
        if line.person is not None:
            request = replace(request, user=people[line.person])
        return self._live.encoder.encode(rows, [request])


class _Changes:
    """Which rows have changed since when, for several who ask at different times.

    Args:
        take: Gives the rows that have changed since it was last called.
    """

    def __init__(self, take: Callable[[], I64]) -> None:
        self._take = take
        self._changed_at = np.zeros(0, dtype=np.int64)
        self._number = 0

    def since(self, number: int) -> tuple[I64, int]:
        """The rows that have changed since a call that gave this number (0: ever), ascending; and the number of now."""
        rows = self._take()
        self._number += 1
        n_missing = int(rows.max(initial=-1)) + 1 - len(self._changed_at)
        if n_missing > 0:
            self._changed_at = np.concatenate([self._changed_at, np.zeros(n_missing, dtype=np.int64)])
        self._changed_at[rows] = self._number
        return np.flatnonzero(self._changed_at > number), self._number


class _Model:
    """Weights as they were at the last refresh."""

    def __init__(self, live: Evaluation, changes: Mapping[str, _Changes]) -> None:
        self.model = RankingModel(live.schema, live.model.config)
        self._live = live
        self._changes = changes
        self._seen = dict.fromkeys(changes, 0)

    async def refresh(self) -> None:
        live = self._live.model
        self.model.flat.copy_(live.flat)
        for name, table in live.tables.items():
            rows, self._seen[name] = self._changes[name].since(self._seen[name])
            self.model.tables[name].load(rows, table.key[rows], table.weight[rows])


class _Table:
    """Item rows as they were at the last refresh."""

    def __init__(self, live: Evaluation, changes: _Changes) -> None:
        self.rows = ItemTable(live.schema)
        self._live = live
        self._changes = changes
        self._seen = 0

    async def refresh(self) -> None:
        live = self._live.rows
        changed, self._seen = self._changes.since(self._seen)
        rows = changed.tolist()
        self.rows.load([live.ids[row] for row in rows], list(live.pack_all(rows)))


def _instants(
    schedule: Schedule, times_ms: Sequence[int], do: Callable[[], Any]
) -> Iterator[tuple[int, Callable[..., Any], tuple[()]]]:
    """Refreshes that some query sees; of those between two queries only the last can be."""
    before_ms = None
    for time_ms in times_ms:
        at_ms = schedule(time_ms)
        if at_ms != before_ms:
            yield at_ms, do, ()
        before_ms = at_ms
