"""A sample of events in bounded memory, as arrays in the order of time.

All events are taken if there are no more than asked for. Else `N_STRETCHES` contiguous stretches of rows, spread evenly
from the first row to the last. Stretches, because what is measured needs neighbours: gaps between a person's events,
what follows what, counts at the rate at which they grow. Spread, because the head of a history is not all of it: event
types and values that came later, drift over days. Few and long rather than many and short, since a person's history
and a decayed count are only seen as far as a stretch goes. People are not sampled by id: that would keep whole
histories, but thin counts out, and half-lives would come out too long; and it would read everything.

Rows are taken in the order of files and row groups; a stretch may go on from one file into the next. Then the order is
that of `ts_ms`, equal instants as they stand. What an event may not have (no user, an instant of another century) is
left out and counted by reason: the doors would refuse it.

The price: a few arrays of the sample's length, its ids and context once as text.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.event_files import RESERVED, EventFile, Footer, slices
from features.events import EPOCH_MAX_MS, ID_BYTES, VALUE_MAX

N_STRETCHES: Final = 8
SLICE: Final = 65_536  # rows decoded at once
IDS: Final = ("type", "user", "item")
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Piece(NamedTuple):
    """Rows `start` to `stop` of a row group, which belong to a stretch."""

    file: EventFile
    row_group: int
    start: int
    stop: int
    stretch: int


@dataclass(frozen=True)
class Coded:
    """A column as numbers: `values[codes]`; -1 is a missing value. The most frequent value comes first."""

    codes: I64
    values: pa.Array
    counts: I64
    """Events of each value."""

    def __len__(self) -> int:
        return len(self.values)

    def text(self, code: int) -> str:
        """A value as counters and keys see it."""
        return str(self.values[code].as_py())


@dataclass(frozen=True)
class Sample:
    """Events in the order of time; ids and context as codes."""

    ts_ms: I64
    type: Coded
    user: Coded
    item: Coded
    context: dict[str, Coded]
    stretch: I64
    """To which stretch each belongs: neighbours in two of them are none."""
    n_all: int
    """Events in the files."""
    faults: Counter[str] = field(default_factory=Counter)
    """Events left out, and values that the doors would refuse, by reason."""

    def __len__(self) -> int:
        return len(self.ts_ms)

    @property
    def is_whole(self) -> bool:
        """Whether every event was looked at."""
        return len(self) + self.n_left_out == self.n_all

    @property
    def n_left_out(self) -> int:
        """Events that could not be taken."""
        return sum(n for reason, n in self.faults.items() if reason.startswith("left out"))

    @property
    def span_s(self) -> float:
        """From the first event to the last."""
        return float(self.ts_ms[-1] - self.ts_ms[0]) / 1000.0 if len(self) else 0.0


def plan(footers: Sequence[Footer], n_events: int) -> list[Piece]:
    """Which rows to read."""
    n_all = sum(footer.n_rows for footer in footers)
    stretches = [(0, n_all)]
    if n_all > n_events:
        n_stretches = min(N_STRETCHES, n_events)
        length = n_events // n_stretches
        starts = [round(k * (n_all - length) / max(n_stretches - 1, 1)) for k in range(n_stretches)]
        stretches = [(start, start + length) for start in starts]
    pieces, first = [], 0
    for footer in footers:
        for row_group, n_rows in enumerate(footer.rows):
            for stretch, (start, stop) in enumerate(stretches):
                low, high = max(start - first, 0), min(stop - first, n_rows)
                if low < high:
                    pieces.append(Piece(footer.file, row_group, low, high, stretch))
            first += n_rows
    return pieces


def read_sample(footers: Sequence[Footer], n_events: int, on_read: Callable[[int], None] = lambda _: None) -> Sample:
    """Read at most so many events.

    Args:
        on_read: Called with the number of events read so far.
    Raises:
        BadFile: If a row group cannot be read.
    """
    context = list(dict.fromkeys(name for footer in footers for name in footer.columns if name not in RESERVED))
    columns = {footer.file.url: set(footer.columns) for footer in footers}
    tables, stretches, n_read = [], [], 0
    for piece in plan(footers, n_events):
        wanted = [name for name in ("ts_ms", *IDS, "value", *context) if name in columns[piece.file.url]]
        for table in _rows(piece, wanted):
            tables.append(_plain(table, context))
            stretches.append(np.full(table.num_rows, piece.stretch, np.int64))
            n_read += table.num_rows
            on_read(n_read)
    return _sample(_joined(tables), np.concatenate(stretches), context, sum(footer.n_rows for footer in footers))


def _rows(piece: Piece, columns: list[str]) -> Iterator[pa.Table]:
    for part in slices(piece.file, piece.row_group, SLICE, columns):
        low, high = max(piece.start - part.first, 0), min(piece.stop - part.first, part.table.num_rows)
        if low < high:
            yield part.table.slice(low, high - low)
        if part.first + part.table.num_rows >= piece.stop:
            return


def _plain(table: pa.Table, context: Sequence[str]) -> pa.Table:
    """The columns without dictionaries, ids as text; a file without some context has nulls there."""
    columns: dict[str, Any] = {"ts_ms": table["ts_ms"].cast(pa.int64())}
    for name in (*IDS, "value", *context):
        column = table[name] if name in table.column_names else pa.nulls(table.num_rows)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if name in IDS:
            column = column.cast(pa.large_string())
        columns[name] = column.cast(pa.float64()) if name == "value" else column
    return pa.table(columns)


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """One table; a context field that has several types in several files becomes text."""
    columns = {}
    for name in tables[0].column_names:
        parts = [table[name] for table in tables]
        types = {part.type for part in parts if not pa.types.is_null(part.type)}
        kind = pa.large_string() if len(types) > 1 else next(iter(types), pa.null())
        columns[name] = pa.chunked_array([chunk for part in parts for chunk in part.cast(kind).chunks], kind)
    return pa.table(columns)


def _sample(table: pa.Table, stretch: I64, context: Sequence[str], n_all: int) -> Sample:
    good, faults = _judged(table)
    rows = np.flatnonzero(good)
    ts_ms = table["ts_ms"].to_numpy()[rows].astype(np.int64)
    order = np.argsort(ts_ms, kind="stable")
    taken = table.take(pa.array(rows[order], pa.int64()))
    contexts = {}
    for name in context:
        column, n_refused = _sendable(taken[name])
        contexts[name] = coded(column)
        if n_refused:
            faults[f"context {name!r}: not a finite number, or over {ID_BYTES} characters"] = n_refused
    kinds, users, items = (coded(taken[name]) for name in IDS)
    return Sample(ts_ms[order], kinds, users, items, contexts, stretch[rows[order]], n_all, faults)


def _judged(table: pa.Table) -> tuple[Bools, Counter[str]]:
    """Which rows the doors would take; and of the others, how many for which reason, the first that applies."""
    good, faults = np.ones(table.num_rows, dtype=bool), Counter[str]()

    def refuse(reason: str, is_bad: Any) -> None:
        bad = good & np.asarray(pc.fill_null(is_bad, False).to_numpy())
        if bad.any():
            faults[f"left out: {reason}"] = int(bad.sum())
            good[bad] = False

    for name in ("ts_ms", *IDS):
        refuse(f"{name} is missing", pc.is_null(table[name]))
    instants = table["ts_ms"]
    is_other = pc.or_(pc.less_equal(instants, 0), pc.greater_equal(instants, EPOCH_MAX_MS))
    refuse("ts_ms is no epoch in milliseconds before the year 2100", is_other)
    for name in ("user", "item"):
        size = pc.binary_length(table[name])
        refuse(f"{name} is not 1 to {ID_BYTES} bytes", pc.or_(pc.less(size, 1), pc.greater(size, ID_BYTES)))
    value = table["value"]
    is_outside = pc.or_(pc.is_nan(value), pc.or_(pc.less(value, 0.0), pc.greater(value, VALUE_MAX)))
    refuse(f"value is not 0 to {VALUE_MAX:g}", is_outside)
    return good, faults


def _sendable(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, int]:
    """A context field without what the doors refuse, and how many values that were."""
    if pa.types.is_floating(column.type):
        is_bad = pc.invert(pc.is_finite(column))
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        is_bad = pc.greater(pc.utf8_length(column), ID_BYTES)
    else:
        return column, 0
    is_bad = pc.fill_null(is_bad, False)
    return pc.if_else(is_bad, pa.scalar(None, column.type), column), int(pc.sum(is_bad).as_py() or 0)


def coded(column: pa.ChunkedArray) -> Coded:
    """Number the values of a column: by how often they come, the most frequent first, then as they came first."""
    if pa.types.is_null(column.type):
        return Coded(np.full(len(column), -1, np.int64), pa.array([], pa.string()), np.zeros(0, np.int64))
    encoded = column.combine_chunks().dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    counts = np.bincount(codes[codes >= 0], minlength=len(encoded.dictionary))
    order = np.argsort(-counts, kind="stable")
    place = np.empty(len(order) + 1, np.int64)
    place[order], place[-1] = np.arange(len(order)), -1
    return Coded(place[codes], encoded.dictionary.take(pa.array(order, pa.int64())), counts[order])
