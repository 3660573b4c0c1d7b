"""Columns of events, judged as the front door judges events one by one, and made ready for the folds.

What is plainly good is found so column by column; every other row is asked of the front door's own checks, which
decide, and give the reason. So both doors take the same events.

Of the context a history keeps what the schema declares, packed as a user's state keeps it, and the buckets of whatever
counters are split by.

Legend: E rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.backfill.kernels import EVENT
from features.decisions import check_decision
from features.errors import InvalidInput
from features.event_files import REQUIRED, RESERVED
from features.events import (
    CONTEXT_MAX,
    EPOCH_MAX_MS,
    ID_BYTES,
    VALUE_MAX,
    check_event,
    event_from_row,
)
from features.keys import Keys
from features.schema import Schema, bucket_of

NO_BUCKET: Final = -1
_pack = msgspec.msgpack.Encoder().encode


class BadRow(NamedTuple):
    """A row that is no event, and why."""

    row: int
    column: str
    reason: str


@dataclass(frozen=True, slots=True)
class Checked:
    """Good rows, in columns, and the bad ones.

    Columns: `at_ms` and `row` int64, by which rows are ordered (here the event's time, and its number as `first_row`
    counts), `kind` int8 (see `kernels`; here all are events), `ts_ms` int64, `type` int16 (its number in the schema),
    `user`, `item` and `id` (null where there is none) strings, `value` float64, `context` binary, and for every one of
    `splits` an int16 `bucket.N`, `NO_BUCKET` where the event has no such field.
    """

    table: pa.Table
    bad: list[BadRow]
    left_out: pa.Table
    """`user` and `source` of good rows that do not count."""


def splits(schema: Schema) -> list[tuple[str, int]]:
    """What counters are split by: field and number of buckets."""
    return sorted({(c.split, c.n_buckets) for c in schema.counters if c.split is not None})


def check(table: pa.Table, schema: Schema, keys: Keys, first_row: int = 0, without: Sequence[str] = ()) -> Checked:
    """Judge rows of a file whose columns are of the right types (`read_footer`).

    Args:
        first_row: Number of the first one.
        without: Sources whose rows are judged, and left out.
    """
    table = table.combine_chunks()
    bad: dict[int, BadRow] = {}
    for row, values in _rows(table, np.flatnonzero(_doubted(table, schema))):
        error = _judged(values, schema, keys)
        if error is not None:
            bad[row] = BadRow(first_row + row, *error)
    number = np.arange(first_row, first_row + table.num_rows)
    if bad:
        is_good = np.ones(table.num_rows, dtype=bool)
        is_good[list(bad)] = False
        table, number = table.filter(pa.array(is_good)).combine_chunks(), number[is_good]
    columns = _columns(table, schema)
    ordered = {"at_ms": columns["ts_ms"], "row": number, "kind": np.full(len(number), EVENT, dtype=np.int8)}
    is_out = _is_from(table, without)
    left_out = pa.table({"user": columns["user"], "source": _source(table)}).filter(is_out)
    return Checked(pa.table({**ordered, **columns}).filter(pc.invert(is_out)), list(bad.values()), left_out)


def _is_from(table: pa.Table, sources: Sequence[str]) -> pa.Array:
    """Which rows these sources have told."""
    return pc.is_in(_source(table), pa.array(sources, pa.string()))


def _source(table: pa.Table) -> pa.Array:
    if "source" not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    return _text(_plain(table["source"]))


def _rows(table: pa.Table, numbers: NDArray[np.int64]) -> Iterator[tuple[int, dict[str, Any]]]:
    for start in range(0, len(numbers), 1024):
        numbered = numbers[start : start + 1024]
        columns = {name: _values(table[name].take(pa.array(numbered))) for name in table.column_names}
        for at, row in enumerate(numbered.tolist()):
            yield row, {name: values[at] for name, values in columns.items()}


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Python's values; bytes where a string is no text."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        found = _plain(column.combine_chunks()).cast(pa.binary()).to_pylist()
        return [value.decode() if value is not None and _decodes(value) else value for value in found]


def _judged(values: Mapping[str, Any], schema: Schema, keys: Keys) -> tuple[str, str] | None:
    """Column and reason, if the front door would refuse this."""
    for name in REQUIRED:
        if values[name] is None:
            return name, "Expected a value, got none"
    for name, value in values.items():
        if isinstance(value, bytes):
            return name, "Expected UTF-8, got other bytes"
    try:
        event = check_event(event_from_row(values), schema, 0, any_time=True)
        if event.decision is not None:
            check_decision(event.decision, event.user, keys)
    except InvalidInput as error:
        return error.path.removeprefix("$.").removeprefix("context."), error.message
    return None


def _doubted(table: pa.Table, schema: Schema) -> NDArray[np.bool_]:
    """Rows [E] that are not plainly good."""
    doubted = np.zeros(table.num_rows, dtype=bool)
    for name in table.column_names:
        column = _plain(table[name])
        if name in REQUIRED:
            doubted |= column.is_null().to_numpy(zero_copy_only=False)
        if name == "type":
            doubted |= ~_truth(pc.is_in(_text(column), pa.array(schema.event_types)))
        elif name in ("user", "item", "id", "source"):
            doubted |= _by_value(column, _is_no_id)
        elif name == "ts_ms":
            doubted |= ~_truth(pc.and_(pc.greater(column, 0), pc.less(column, EPOCH_MAX_MS)))
        elif name == "value":
            doubted |= ~_truth(
                pc.fill_null(pc.and_(pc.greater_equal(column, 0), pc.less_equal(column, VALUE_MAX)), True)
            )
        elif name == "decision":
            doubted |= column.is_valid().to_numpy(zero_copy_only=False)
        elif name not in RESERVED:
            doubted |= _by_value(column, _is_no_context)
            if len(name) > ID_BYTES:
                doubted |= column.is_valid().to_numpy(zero_copy_only=False)
    context = [name for name in table.column_names if name not in RESERVED]
    if len(context) > CONTEXT_MAX:
        n_given = sum(_plain(table[name]).is_valid().to_numpy(zero_copy_only=False).astype(int) for name in context)
        doubted |= n_given > CONTEXT_MAX
    return doubted


def _by_value(column: pa.Array, is_bad: Callable[[pa.Array], NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """What is so of each value: every distinct one is looked at once."""
    code_E, values = _encoded(column)
    found: NDArray[np.bool_] = np.append(is_bad(values), False)[code_E]
    return found


def _is_no_id(values: pa.Array) -> NDArray[np.bool_]:
    if not pa.types.is_string(values.type):
        return np.zeros(len(values), dtype=bool)  # decimal digits
    size: NDArray[np.int32] = pc.binary_length(values).to_numpy(zero_copy_only=False)
    return (size < 1) | (size > ID_BYTES) | _is_no_text(values)


def _is_no_context(values: pa.Array) -> NDArray[np.bool_]:
    if pa.types.is_string(values.type):
        n_characters: NDArray[np.int32] = pc.utf8_length(values).to_numpy(zero_copy_only=False)
        return (n_characters > ID_BYTES) | _is_no_text(values)
    if pa.types.is_floating(values.type):
        is_finite: NDArray[np.bool_] = pc.is_finite(values).to_numpy(zero_copy_only=False)
        return ~is_finite
    return np.zeros(len(values), dtype=bool)


def _is_no_text(values: pa.Array) -> NDArray[np.bool_]:
    """Whether bytes are no UTF-8, which a file may hold all the same."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return np.array([not _decodes(value) for value in values.cast(pa.binary()).to_pylist()])
    return np.zeros(len(values), dtype=bool)


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _columns(table: pa.Table, schema: Schema) -> dict[str, pa.Array]:
    n = table.num_rows
    numbers = np.array([schema.type_index[name] for name in schema.event_types], dtype=np.int16)
    place = pc.index_in(_text(_plain(table["type"])), pa.array(schema.event_types))
    found = {
        "ts_ms": _plain(table["ts_ms"]).cast(pa.int64(), safe=False),
        "type": pa.array(numbers[pc.fill_null(place, 0).to_numpy()]),
        "user": _text(_plain(table["user"])),
        "item": _text(_plain(table["item"])),
        "id": _text(_plain(table["id"])) if "id" in table.column_names else pa.nulls(n, pa.string()),
        "value": pc.fill_null(_plain(table["value"]).cast(pa.float64(), safe=False), 1.0)
        if "value" in table.column_names
        else pa.array(np.ones(n)),
    }
    fields = {name: _encoded(_plain(table[name])) for name in schema.context if name in table.column_names}
    found["context"] = _packed(fields, n)
    for number, (name, n_buckets) in enumerate(splits(schema)):
        found[f"bucket.{number}"] = pa.array(_buckets(fields.get(name), n_buckets, n))
    return found


def _packed(fields: Mapping[str, tuple[NDArray[np.int64], pa.Array]], n_rows: int) -> pa.Array:
    """Context of each row as a user's state keeps it."""
    combined_E = np.zeros(n_rows, dtype=np.int64)
    for code_E, values in fields.values():
        _, combined_E = np.unique(combined_E * (len(values) + 1) + code_E, return_inverse=True)
    _, first_U, combined_E = np.unique(combined_E, return_index=True, return_inverse=True)
    packed = []
    values_of = {name: [*values.to_pylist(), None] for name, (_, values) in fields.items()}
    for row in first_U.tolist():
        context = {name: values_of[name][code_E[row]] for name, (code_E, _) in fields.items()}
        context = {name: value for name, value in context.items() if value is not None}
        packed.append(_pack(context) if context else b"")
    return pa.array(packed, pa.binary()).take(pa.array(combined_E))


def _buckets(field: tuple[NDArray[np.int64], pa.Array] | None, n_buckets: int, n_rows: int) -> NDArray[np.int16]:
    if field is None:
        return np.full(n_rows, NO_BUCKET, dtype=np.int16)
    code_E, values = field
    bucket_V = [bucket_of(value, n_buckets) for value in values.to_pylist()]
    return np.array([*bucket_V, NO_BUCKET], dtype=np.int16)[code_E]


def _encoded(column: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """Codes [E] and the values they stand for; the code behind the last value stands for none."""
    encoded = column.dictionary_encode()
    codes = pc.fill_null(encoded.indices, len(encoded.dictionary))
    return codes.to_numpy().astype(np.int64), encoded.dictionary


def _plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One array without a dictionary, of strings with short offsets."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.string()) if pa.types.is_large_string(array.type) else array


def _text(array: pa.Array) -> pa.Array:
    """Strings; whole numbers in decimal."""
    return array if pa.types.is_string(array.type) else array.cast(pa.string())


def _truth(array: pa.Array) -> NDArray[np.bool_]:
    """Where it is true; what is not known is not."""
    found: NDArray[np.bool_] = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
    return found
