"""Columns are judged as the front door judges events."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.backfill.checking import NO_BUCKET, check, splits
from features.decisions import new_decision
from features.errors import InvalidInput
from features.events import check_event, event_from_row
from features.schema import bucket_of
from features.state import update_for
from tests.features.backfill.streams import SCHEMA, table_of
from tests.features.examples import KEYS, T0_MS

GOOD: dict[str, Any] = {
    "ts_ms": T0_MS, "type": "click", "user": "u", "item": "a", "id": None, "value": None, "device": None, "size": None,
}  # fmt: skip
texts = st.one_of(st.none(), st.text(max_size=3), st.sampled_from(["x" * 256, "x" * 257, "ü" * 129]))
any_rows = st.fixed_dictionaries(
    {
        "ts_ms": st.one_of(st.none(), st.just(T0_MS), st.integers(-(2**63), 2**63 - 1)),
        "type": st.one_of(st.none(), st.sampled_from(["click", "view", "klick", ""])),
        "user": texts,
        "item": texts,
        "id": texts,
        "value": st.one_of(st.none(), st.floats(), st.just(1e12)),
        "device": texts,
        "size": st.one_of(st.none(), st.integers(-5, 5)),
    }
)


def refused(row: dict[str, Any]) -> bool:
    try:
        check_event(event_from_row(row), SCHEMA, 0, any_time=True)
    except InvalidInput:
        return True
    return False


@given(st.lists(any_rows, max_size=20), st.integers(0, 1 << 40))
def test_a_row_is_refused_if_and_only_if_the_front_door_refuses_it(rows: list[dict[str, Any]], first: int) -> None:
    checked = check(table_of(rows), SCHEMA, KEYS, first)
    assert [bad.row - first for bad in checked.bad] == [n for n, row in enumerate(rows) if refused(row)]
    good = [row for row in rows if not refused(row)]
    assert checked.table["user"].to_pylist() == [row["user"] for row in good]
    for row, found in zip(good, checked.table.to_pylist(), strict=True):
        event = check_event(event_from_row(row), SCHEMA, 0, any_time=True)
        assert (found["ts_ms"], found["item"], found["id"], found["value"]) == (
            event.ts_ms, event.item, event.id, event.value,
        )  # fmt: skip
        assert SCHEMA.event_types[found["type"]] == event.type
        assert found["context"] == update_for(event, SCHEMA).context
        for number, (name, n_buckets) in enumerate(splits(SCHEMA)):
            value = event.context.get(name)
            assert found[f"bucket.{number}"] == (NO_BUCKET if value is None else bucket_of(value, n_buckets))


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("user", None, "Expected a value, got none"),
        ("type", "klick", "Unknown event type 'klick', expected one of: view, click, cart, purchase, like"),
        ("ts_ms", 1764000000, None),
        ("ts_ms", -1, "Expected epoch milliseconds before the year 2100, got -1"),
        ("value", float("nan"), "Expected a number from 0 to 1e+12, got nan"),
        ("id", "", "Expected 1 to 256 bytes of UTF-8, got 0"),
        ("device", "x" * 257, "Expected at most 256 characters, got 257"),
    ],
)
def test_the_column_and_the_reason_are_told(column: str, value: Any, reason: str | None) -> None:
    bad = check(table_of([GOOD, {**GOOD, column: value}]), SCHEMA, KEYS, 10).bad
    assert [tuple(one) for one in bad] == ([(11, column, reason)] if reason else [])


def test_bytes_that_are_no_text_are_refused() -> None:
    names = pa.Array.from_buffers(pa.string(), 3, pa.array([b"u", b"\xff\xfe", b"x" * 257], pa.binary()).buffers())
    with pytest.raises(UnicodeDecodeError):
        names.to_pylist()
    for column in ("user", "device"):
        table = table_of([GOOD] * 3)
        table = table.set_column(table.column_names.index(column), column, names)
        assert [(bad.row, bad.column) for bad in check(table, SCHEMA, KEYS).bad] == [(1, column), (2, column)]


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint8(), pa.dictionary(pa.int32(), pa.string()), pa.large_string()])
def test_ids_of_every_type_become_strings(kind: pa.DataType) -> None:
    rows = [{**GOOD, "user": "7", "item": "8", "type": "view"}] * 3
    plain = check(table_of(rows), SCHEMA, KEYS).table
    table = table_of(rows)
    for name in ("user", "item"):
        number = table.column_names.index(name)
        column = table[name].cast(pa.int64()) if pa.types.is_integer(kind) else table[name]
        cast = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
        table = table.set_column(number, name, cast)
    assert check(table, SCHEMA, KEYS).table.equals(plain)


def test_a_decision_must_be_one_of_ours_and_the_users() -> None:
    decisions = [None, new_decision("u", KEYS), new_decision("somebody", KEYS), "nonsense"]
    table = table_of([GOOD] * 4).append_column("decision", pa.array(decisions))
    assert [(bad.row, bad.column) for bad in check(table, SCHEMA, KEYS).bad] == [(2, "decision"), (3, "decision")]


def test_more_than_64_fields_of_context_are_refused() -> None:
    table = table_of([GOOD, GOOD])
    for number in range(65):
        table = table.append_column(f"field {number}", pa.array([1, None if number else 1]))
    (bad,) = check(table, SCHEMA, KEYS).bad
    assert (bad.row, bad.column) == (0, "context")


def test_what_is_not_finite_in_undeclared_context_is_refused_too() -> None:
    table = table_of([GOOD, GOOD]).append_column("weight", pa.array([1.0, float("inf")]))
    (bad,) = check(table, SCHEMA, KEYS).bad
    assert (bad.row, bad.column, bad.reason) == (1, "weight", "Expected a finite number")


def test_nothing_is_judged_to_be_nothing() -> None:
    checked = check(table_of([]), SCHEMA, KEYS)
    assert (checked.table.num_rows, checked.bad) == (0, [])
