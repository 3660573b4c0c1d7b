"""Replaying a recorded stream through the front door, and asking recorded queries on the way.

Before each query everything with an earlier timestamp has been acknowledged, and nothing else was sent. The query's
context is that of the last event before it with the same session, else the same user. The true answer that may stand
beside a query is read by `read_answers` alone, for who judges when all is over.

An archive of the log is replayed in the order of the log, in which events may be late: one that became known after
others of a later time comes after them, and after the queries in between, here as it did then.

Attributes are sent at their time too: after the queries of that instant, before its events. The first one that is
refused ends the replay.
"""

import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deployments.client import Headrace, HeadraceError
from deployments.errors import ConfigError
from features.archived_events import archived_events, with_context
from features.attribute_table import AttributeRow, attribute_rows
from features.event_files import REQUIRED, RESERVED, list_files
from features.log_files import LogFiles, segment_at
from features.log_segments import LOG_FIELDS
from features.schema import Entity

BATCH: Final = 500
QUERY_COLUMNS: Final = ("query_id", "ts_ms", "user", "candidates")
LOG_COLUMNS: Final = frozenset(field.name for field in LOG_FIELDS)


@dataclass(slots=True)
class Tally:
    """What a replay has done so far."""

    accepted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    rejected: int = 0
    n_queries: int = 0
    first_rejection: dict[str, Any] | None = None
    log_ms: int = 0
    sending_s: float = 0.0
    """Time spent on events alone."""
    query_ids: list[Any] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)

    @property
    def n_sent(self) -> int:
        """Events that were answered for."""
        return self.accepted + self.duplicates + self.quarantined + self.rejected

    @property
    def events_per_s(self) -> float:
        """Rate of events, query time not counted."""
        return self.n_sent / max(self.sending_s, 1e-9)

    def predictions(self) -> pa.Table:
        """`query_id, scores`, aligned with the candidates of each query."""
        scores = pa.array(self.scores, pa.list_(pa.float32()))
        return pa.table({"query_id": pa.array(self.query_ids), "scores": scores})


def read_events(path: Path | str) -> pa.Table:
    """Read events: a replay file, or a folder of them, in time order; an archive of the log in its own.

    Args:
        path: Of a file or a folder; or the URL of a bucket's folder.
    Raises:
        ConfigError: If a file lacks a column, or does not go together with the others.
        BadFile, LogGap: If there is nothing, or an archive is damaged.
    """
    files = list_files([str(path)])
    if any(segment_at(file.url) for file in files):
        return archived_events(LogFiles(str(path)))
    tables = [_load(file.url, REQUIRED) for file in files]
    try:
        return _in_time_order(pa.concat_tables(tables, promote_options="permissive"))
    except pa.ArrowException as error:
        raise ConfigError(f"{path}: its files do not go together: {error}") from None


def without(events: pa.Table, sources: Sequence[str]) -> pa.Table:
    """The rows that these sources have not told."""
    if "source" not in events.column_names:
        return events
    is_out = pa.compute.is_in(events["source"].cast(pa.string()), pa.array(sources, pa.string()))
    return events.filter(pa.compute.invert(is_out))


def read_queries(path: Path) -> pa.Table:
    """Read the columns of a query file that may be looked at, in time order.

    Raises:
        ConfigError: If it lacks a column.
    """
    table = _read(path, QUERY_COLUMNS)
    return table.select([name for name in (*QUERY_COLUMNS, "session") if name in table.column_names])


def read_attributes(path: Path | None, entity: Entity) -> pa.Table | None:
    """Read a table of attributes, as `features.attribute_table` takes them; None without a path.

    Raises:
        ConfigError: If it lacks the column of ids.
    """
    return _load(path, (entity,)) if path is not None else None


def read_answers(path: Path) -> pa.Table | None:
    """Read what predictions are judged by, once they are made; None if the file does not name the true items.

    Raises:
        ConfigError: If it lacks another column.
    """
    table = _read(path, QUERY_COLUMNS)
    return table.select([*QUERY_COLUMNS, "item"]) if "item" in table.column_names else None


def _read(path: Path, required: tuple[str, ...]) -> pa.Table:
    return _in_time_order(_load(path, required))


def _in_time_order(table: pa.Table) -> pa.Table:
    order = pa.compute.sort_indices(table, [("ts_ms", "ascending")])  # stable: file order among equal instants
    return table.take(order)


def _load(path: Path | str, required: tuple[str, ...]) -> pa.Table:
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{path}: {error}") from None
    if LOG_COLUMNS.issubset(table.column_names):
        raise ConfigError(f"{path}: a segment of a log is read as part of its archive: name the folder above date=…")
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise ConfigError(f"{path}: column {missing[0]!r} is missing; expected {', '.join(required)}")
    return table


def as_event(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a replay file as the body of an event."""
    event = {name: row[name] for name in RESERVED if row.get(name) is not None}
    for name in ("user", "item", "id"):
        if isinstance(event.get(name), int):
            event[name] = str(event[name])
    others = {name: value for name, value in row.items() if name not in RESERVED and value is not None}
    context = {**others.pop("context"), **others} if isinstance(others.get("context"), dict) else others
    return {**event, "context": context} if context else event


class Replay:
    """Sends events in order, asks queries in between.

    Args:
        speed: Event time per wall time; None: as fast as it goes.
        on_progress: Called after every batch and query.
    """

    def __init__(
        self, client: Headrace, speed: float | None = None, on_progress: Callable[[Tally], None] = lambda _: None
    ) -> None:
        self.tally = Tally()
        self._client = client
        self._speed = speed
        self._on_progress = on_progress
        self._contexts: dict[str, dict[str, Any]] = {}
        self._held: list[AttributeRow] = []
        self._started_s = time.monotonic()
        self._first_ms: int | None = None

    def run(
        self,
        events: pa.Table,
        queries: pa.Table | None = None,
        items: pa.Table | None = None,
        users: pa.Table | None = None,
    ) -> Tally:
        """Replay to the end of the stream; queries and attributes after its last event are sent too.

        Args:
            events: As `read_events` gives them.
        queries: In time order.
            items, users: Attributes, in any order.
        Raises:
            InvalidInput: If a row of attributes can't be taken, with row and column.
        """
        at = 0
        times = np.maximum.accumulate(events["ts_ms"].to_numpy()) if events.num_rows else np.zeros(0, np.int64)
        for ts_ms, do in self._between(queries, items, users):
            until = int(times.searchsorted(ts_ms, side="left"))
            self._send(events.slice(at, until - at))
            at = max(at, until)
            do()
        self._send(events.slice(at))
        self._send_attributes()
        return self.tally

    def _between(
        self, queries: pa.Table | None, items: pa.Table | None, users: pa.Table | None
    ) -> Iterator[tuple[int, Callable[[], None]]]:
        """What is to be done between the events, and at which instant."""
        asked = (
            (query["ts_ms"], partial(self._ask, query)) for query in (_rows(queries) if queries is not None else ())
        )
        return heapq.merge(asked, self._stated(items, "item"), self._stated(users, "user"), key=itemgetter(0))

    def _stated(self, table: pa.Table | None, entity: Entity) -> Iterator[tuple[int, Callable[[], None]]]:
        for row in attribute_rows(table, entity) if table is not None else ():
            yield row.ts_ms, partial(self._hold, row)

    def _hold(self, row: AttributeRow) -> None:
        """Attributes go out together, before the next event or query."""
        self._held.append(row)
        if len(self._held) == BATCH:
            self._send_attributes()

    def _send_attributes(self) -> None:
        held, self._held = self._held, []
        # What was stated last counts, here as in a row.
        items = {row.id: row for row in held if row.entity == "item"}
        users = {row.id: row for row in held if row.entity == "user"}
        if items:
            self._send_items(list(items.values()))
        for row in users.values():
            self._send_user(row)

    def _send_items(self, rows: list[AttributeRow]) -> None:
        try:
            rejected = self._client.items({row.id: row.attributes for row in rows})["rejected"]
        except HeadraceError as error:
            rejected = error.body.get("rejected")
            if not rejected:
                raise
        for refusal in rejected:
            reason = refusal["error"]
            raise rows[refusal["index"]].at_fault(reason["message"], reason.get("path", "$"))

    def _send_user(self, row: AttributeRow) -> None:
        try:
            self._client.user(row.id, row.attributes)
        except HeadraceError as error:
            if error.path is None:
                raise
            raise row.at_fault(str(error), error.path) from None

    def _send(self, events: pa.Table) -> None:
        if events.num_rows:
            self._send_attributes()
        for start in range(0, events.num_rows, BATCH):
            rows = [with_context(row) for row in events.slice(start, BATCH).to_pylist()]
            self._pace(rows[-1]["ts_ms"])
            bodies = [as_event(row) for row in rows]
            started_s = time.monotonic()
            receipt = self._client.send(bodies)
            self.tally.sending_s += time.monotonic() - started_s
            self._note(receipt)
            for row, body in zip(rows, bodies, strict=True):
                context = body.get("context", {})
                self._contexts[str(context.get("session", row["user"]))] = context
            self._on_progress(self.tally)

    def _note(self, receipt: dict[str, Any]) -> None:
        self.tally.accepted += receipt["accepted"]
        self.tally.duplicates += receipt["duplicates"]
        self.tally.quarantined += receipt["quarantined"]
        self.tally.rejected += len(receipt["rejected"])
        self.tally.log_ms = max(self.tally.log_ms, receipt["log_ms"] or 0)
        if receipt["rejected"] and self.tally.first_rejection is None:
            self.tally.first_rejection = receipt["rejected"][0]

    def _ask(self, query: dict[str, Any]) -> None:
        self._send_attributes()
        candidates = [str(candidate) for candidate in query["candidates"]]
        context = self._contexts.get(str(query.get("session", query["user"])), {})
        answer = self._client.rank(str(query["user"]), candidates, context=context, now_ms=query["ts_ms"])
        score = {item["id"]: item["score"] for item in answer["items"]}
        self.tally.query_ids.append(query["query_id"])
        self.tally.scores.append([score[candidate] for candidate in candidates])
        self.tally.n_queries += 1
        self._on_progress(self.tally)

    def _pace(self, ts_ms: int) -> None:
        if self._speed is None:
            return
        if self._first_ms is None:
            self._first_ms, self._started_s = ts_ms, time.monotonic()
        due_s = self._started_s + (ts_ms - self._first_ms) / 1000.0 / self._speed
        time.sleep(max(0.0, due_s - time.monotonic()))


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=1000):
        yield from batch.to_pylist()
